"""Packed SFT data: chat shards -> filtered, augmented, tokenised and packed train/ and valid/.

    python scripts/sft_data.py --recipe config/recipes/tiny.yaml --tokenizer results/tiny/tokenizer \\
        --raw results/tiny/data/raw/chat_reasoning/0 results/tiny/data/raw/chat_tools/0 --output results/tiny/sft/data
"""

from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.chat.build import build_sft_data
from nano3.chat.raw import artifact_directory, by_dataset, input_artifacts
from nano3.recipe import load_recipe
from nano3.recipe.stages import sft_data_config


def main(argv: list[str] | None = None) -> None:
    """Build the packed data and publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--raw", type=Path, nargs="+", required=True, help="raw shard groups of chat rows")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer artifact")
    arguments = cli.parse(parser, argv)

    recipe = load_recipe(arguments.recipe)
    config = sft_data_config(recipe)
    hashes = not arguments.trust_inputs
    raw = by_dataset(arguments.raw, config["datasets"], hashes=hashes)
    verify(arguments.tokenizer, hashes=hashes)
    tokenizer = artifact_directory(arguments.tokenizer)
    inputs = {"tokenizer": tokenizer, **input_artifacts(raw)}
    with building(arguments.output, kind="sft/data", config=config, inputs=inputs) as artifact:
        artifact.statistics |= build_sft_data(
            raw, tokenizer, artifact.path, config, workers=recipe.execution.data.threads
        )
    _report(artifact.statistics)


def _report(statistics: dict) -> None:
    for name, counts in statistics["datasets"].items():
        dropped = ", ".join(f"{count} {reason}" for reason, count in counts["rows_dropped"].items())
        cli.say(
            f"{name}: {counts['rows_kept']} of {counts['rows_used']} rows, {counts['epochs']:.2f} epochs, "
            f"{counts['achieved_share_of_tokens']:.1%} of the tokens; dropped: {dropped or 'none'}"
        )
    for split, counts in statistics["splits"].items():
        cli.say(
            f"{split}: {counts['packs']} packs, {counts['sequences']} sequences, {counts['tokens']} tokens "
            f"({counts['supervised_tokens']} supervised), {counts['fill']:.1%} full"
        )


if __name__ == "__main__":
    cli.run(main)
