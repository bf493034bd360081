"""RL prompts: raw RL shards -> train.jsonl and valid.jsonl, one NeMo-Gym example a line.

    python scripts/rl_prompts.py --recipe config/recipes/tiny.yaml --tokenizer results/tiny/tokenizer \\
        --raw results/tiny/data/raw/rl_train/0 results/tiny/data/raw/rl_valid/0 --output results/tiny/rl/prompts
"""

from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.chat.raw import artifact_directory, by_dataset, input_artifacts
from nano3.data.rl_prompts import write_prompts
from nano3.recipe import load_recipe
from nano3.recipe.judge import key_of
from nano3.recipe.stages import rl_prompts_config


def main(argv: list[str] | None = None) -> None:
    """Write the prompt files and publish them."""
    parser = cli.parser(__doc__)
    parser.add_argument("--raw", type=Path, nargs="+", required=True, help="raw shard groups of RL rows")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer artifact")
    arguments = cli.parse(parser, argv)

    recipe = load_recipe(arguments.recipe)
    config = rl_prompts_config(recipe)
    if recipe.rl.judge is not None:
        key_of(recipe.rl.judge)  # better missed here than after the training that comes before it is used
    hashes = not arguments.trust_inputs
    raw = by_dataset(arguments.raw, [*config["train"], *config["valid"]], hashes=hashes)
    verify(arguments.tokenizer, hashes=hashes)
    tokenizer = artifact_directory(arguments.tokenizer)
    inputs = {"tokenizer": tokenizer, **input_artifacts(raw)}

    with building(arguments.output, kind="rl/prompts", config=config, inputs=inputs) as artifact:
        artifact.statistics |= write_prompts(raw, tokenizer, artifact.path, config)
    _report(artifact.statistics)


def _report(statistics: dict) -> None:
    for name, counts in statistics["datasets"].items():
        bad = ", ".join(f"{found['rows']} {reason}" for reason, found in counts["bad"].items())
        cli.say(
            f"{name}: {sum(counts['written'].values())} of {counts['rows']} rows; "
            f"{counts['longer_than_max_prompt_tokens']} too long; bad: {bad or 'none'}"
        )
    for split, counts in statistics["splits"].items():
        environments = ", ".join(f"{count} {name}" for name, count in counts["environments"].items())
        cli.say(f"{split}: {counts['rows']} prompts, longest {counts['longest_prompt_tokens']} tokens: {environments}")


if __name__ == "__main__":
    cli.run(main)
