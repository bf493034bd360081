"""RLVR 1 without its curriculum: the same steps on prompts in random order, to see what the curriculum is worth."""

from pathlib import Path

from nano3 import cli


def main(argv: list[str] | None = None) -> None:
    """Train the policy, or continue a training that was interrupted, and publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the policy to start from")
    parser.add_argument("--prompts", type=Path, required=True, help="RL prompts: train.jsonl and valid.jsonl")
    options = cli.parse(parser, argv)

    from nano3.rl.programs import rlvr_stage

    rlvr_stage("rlvr1_random", options)


if __name__ == "__main__":
    cli.run(main)
