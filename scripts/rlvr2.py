"""RLVR 2: the same as RLVR 1, after RLHF, so that no verifiable skill is lost (report, section 3.2)."""

from pathlib import Path

from nano3 import cli


def main(argv: list[str] | None = None) -> None:
    """Train the policy, or continue a training that was interrupted, and publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the policy to start from")
    parser.add_argument("--prompts", type=Path, required=True, help="RL prompts: train.jsonl and valid.jsonl")
    parser.add_argument("--profile", type=Path, help="pass rates of the prompts, where the recipe has a curriculum")
    options = cli.parse(parser, argv)

    from nano3.rl.programs import rlvr_stage

    rlvr_stage("rlvr2", options)


if __name__ == "__main__":
    cli.run(main)
