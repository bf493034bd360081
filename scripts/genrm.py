"""The generative reward model: GRPO on comparisons, rewarded for verdicts near to people's (report, section 3.3.1)."""

from pathlib import Path

from nano3 import cli


def main(argv: list[str] | None = None) -> None:
    """Train the reward model, or continue a training that was interrupted, and publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the SFT model")
    parser.add_argument("--preferences", type=Path, required=True, help="comparisons: train.jsonl and valid.jsonl")
    options = cli.parse(parser, argv)

    from nano3.rl.genrm import Grader
    from nano3.rl.programs import grpo_stage
    from nano3.rl.rollout import read_prompts
    from nano3.train.session import directory_of

    data = directory_of(options.preferences)
    grpo_stage(
        "genrm",
        options,
        lambda split: read_prompts(data / f"{split}.jsonl"),
        {"preferences": data},
        judge=lambda chat, machine: Grader(),
    )


if __name__ == "__main__":
    cli.run(main)
