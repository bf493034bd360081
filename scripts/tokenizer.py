"""The recipe's tokenizer: trained on its raw shards, or an existing one copied and checked.

The result is a directory that transformers.AutoTokenizer loads, with the chat template."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.data import tokenizer as tokenizers
from nano3.data.files import quota
from nano3.data.raw import artifact_directory, dataset_of, read_shards, text_of
from nano3.errors import UserError
from nano3.recipe import stages
from nano3.recipe.data import TrainedTokenizer
from nano3.recipe.load import load_recipe


def main(argv: list[str] | None = None) -> None:
    """Train or copy the tokenizer, check it, publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--raw", type=artifact_directory, nargs="*", default=[], help="raw shard groups to train on")
    arguments = cli.parse(parser, argv)
    recipe = load_recipe(arguments.recipe)
    raw = {dataset_of(path): path for path in arguments.raw}
    inputs = {f"raw/{dataset}/{group}": path for (dataset, group), path in sorted(raw.items())}
    with building(
        arguments.output, kind="tokenizer", config=stages.tokenizer_config(recipe), inputs=inputs
    ) as artifact:
        if recipe.tokenizer.kind == "train":
            for path in raw.values():
                verify(path, hashes=not arguments.trust_inputs)
            used: dict[str, int] = defaultdict(int)
            trained = tokenizers.train(
                _training_texts(recipe.tokenizer, raw, used),
                vocab_size=recipe.tokenizer.vocab_size,
                reserved=recipe.tokenizer.reserved_special_tokens,
            )
            tokenizers.save_trained(trained, artifact.path)
            artifact.statistics["training_bytes"] = dict(used)
        else:
            existing = recipe.tokenizer
            artifact.statistics |= tokenizers.copy_existing(existing.path, existing.revision, artifact.path)
        artifact.statistics |= tokenizers.check(artifact.path, model_vocab_size=recipe.model.vocab_size)
    cli.say(f"tokenizer: {artifact.statistics['vocab_size']:,} tokens")


def _training_texts(config: TrainedTokenizer, raw: dict[tuple[str, int], Path], used: dict[str, int]) -> Iterator[str]:
    """The recipe's bytes of each data set, spread over its groups; counts what was there to take in `used`."""
    for dataset, wanted in sorted(config.datasets.items()):
        groups = [path for (name, _), path in sorted(raw.items()) if name == dataset]
        if not groups:
            raise UserError(
                f"tokenizer.datasets names {dataset!r}, but no --raw directory holds it;"
                f" given were {', '.join(sorted({name for name, _ in raw})) or 'none'}"
            )
        for index, path in enumerate(groups):
            texts = (text_of(row) for row in read_shards(path))
            for text in tokenizers.training_texts(texts, quota(wanted, len(groups), index)):
                used[dataset] += len(text.encode())
                yield text
        if used[dataset] < wanted:
            cli.say(f"note: {dataset} has {used[dataset]:,} bytes, the tokenizer asked for {wanted:,}")


if __name__ == "__main__":
    cli.run(main)
