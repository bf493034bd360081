"""Comparisons of two responses: raw shards -> train.jsonl and valid.jsonl in both orders, and the prompts of RLHF."""

from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.chat.raw import artifact_directory, by_dataset, input_artifacts
from nano3.recipe import load_recipe
from nano3.recipe.stages import preferences_config
from nano3.rl.comparison_data import write_comparisons
from nano3.rl.rollout import load_chat_tokenizer


def main(argv: list[str] | None = None) -> None:
    """Write the files and publish them."""
    parser = cli.parser(__doc__)
    parser.add_argument("--raw", type=Path, nargs="+", required=True, help="raw shard groups of comparisons")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer artifact")
    arguments = cli.parse(parser, argv)
    config = preferences_config(load_recipe(arguments.recipe))
    hashes = not arguments.trust_inputs
    raw = by_dataset(arguments.raw, dict.fromkeys([*config["train"], *config["valid"]]), hashes=hashes)
    verify(arguments.tokenizer, hashes=hashes)
    tokenizer = artifact_directory(arguments.tokenizer)
    inputs = {"tokenizer": tokenizer, **input_artifacts(raw)}
    with building(arguments.output, kind="rl/preferences", config=config, inputs=inputs) as artifact:
        artifact.statistics |= write_comparisons(raw, load_chat_tokenizer(tokenizer), artifact.path, config)
    for split, counts in artifact.statistics.items():
        cli.say(f"{split}: {counts['comparisons']} comparisons, both orders; {counts['prompts']} prompts")


if __name__ == "__main__":
    cli.run(main)
