"""One shard group as Megatron token shards: train, valid and test .bin/.idx, one document per row with EOS after it.

Held-out documents are chosen by a hash of their text. Exact duplicates within the group are dropped and counted."""

from dataclasses import asdict

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.data import tokenizer as tokenizers
from nano3.data.raw import artifact_directory, dataset_of, read_shards
from nano3.data.tokens import empty_error, tokenise
from nano3.errors import UserError
from nano3.recipe import stages
from nano3.recipe.load import load_recipe


def main(argv: list[str] | None = None) -> None:
    """Tokenise the group and publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--dataset", required=True, help="data set of the recipe, of form text")
    parser.add_argument("--group", type=int, default=0, help="shard group, from 0")
    parser.add_argument("--raw", type=artifact_directory, required=True, help="the group's raw shards")
    parser.add_argument("--tokenizer", type=artifact_directory, required=True, help="tokenizer directory")
    arguments = cli.parse(parser, argv)
    recipe = load_recipe(arguments.recipe)
    name, group = arguments.dataset, arguments.group
    where = f"{name}, group {group}"
    if dataset_of(arguments.raw) != (name, group):
        found = "{}, group {}".format(*dataset_of(arguments.raw))
        raise UserError(f"--raw {arguments.raw} holds {found}, but {where} was asked for")
    if name not in recipe.datasets or recipe.datasets[name].form != "text":
        raise UserError(f"{name!r} is not a data set of form text in {arguments.recipe}")
    inputs = {"raw": arguments.raw, "tokenizer": arguments.tokenizer}
    for path in inputs.values():
        verify(path, hashes=not arguments.trust_inputs)
    config = {"dataset": name, "group": group, **stages.tokens_config(recipe)}
    tokenizer = tokenizers.load(arguments.tokenizer)
    with building(arguments.output, kind="tokens", config=config, inputs=inputs) as artifact:
        statistics = tokenise(
            (row["text"] for row in read_shards(arguments.raw)),
            tokenizer,
            recipe.tokenisation,
            artifact.path,
            guarantee_held_out=group == 0,
        )
        if not sum(statistics.documents.values()):
            raise empty_error(where, statistics)
        artifact.statistics |= asdict(statistics) | {
            "vocab_size": tokenizers.vocab_size(tokenizer),
            "eos_id": tokenizer.token_to_id(tokenizers.END_OF_TEXT),
        }
    counts = ", ".join(f"{split} {number:,}" for split, number in statistics.tokens.items())
    cli.say(f"{where}: tokens: {counts}; dropped: {sum(statistics.dropped.values())}")


if __name__ == "__main__":
    cli.run(main)
