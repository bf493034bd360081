"""RLHF: GRPO with a generative reward model and group-relative length control (report, section 3.3.2)."""

from pathlib import Path

from nano3 import cli
from nano3.recipe import load_recipe


def main(argv: list[str] | None = None) -> None:
    """Train the policy, or continue a training that was interrupted, and publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the policy to start from")
    parser.add_argument("--genrm", type=Path, required=True, help="the reward model")
    parser.add_argument("--preferences", type=Path, required=True, help="comparisons, whose contexts are the prompts")
    parser.add_argument("--prompts", type=Path, required=True, help="RL prompts, used where rl.rlhf.verifiable is true")
    options = cli.parse(parser, argv)
    settings = load_recipe(options.recipe).rl.rlhf

    from nano3.model import hf
    from nano3.rl.comparison_data import PROMPTS
    from nano3.rl.programs import grpo_stage
    from nano3.rl.rlhf import GroupJudge, Mixed, RewardModel
    from nano3.rl.rollout import load_chat_tokenizer, read_prompts
    from nano3.train.session import directory_of

    genrm, data, verifiable = map(directory_of, (options.genrm, options.preferences, options.prompts))

    def prompts(split: str) -> list[dict]:
        rows = read_prompts(data / PROMPTS[split])
        return rows + (read_prompts(verifiable / f"{split}.jsonl") if settings.verifiable else [])

    def judge(chat, machine) -> GroupJudge:
        reward_model = RewardModel(
            hf.load(genrm, device=machine.device).eval().requires_grad_(False),
            load_chat_tokenizer(genrm),
            settings.judge_max_new_tokens,
            settings.judge_temperature,
        )
        return GroupJudge(Mixed(reward_model), settings, chat)

    inputs = {"genrm": genrm, "preferences": data} | ({"prompts": verifiable} if settings.verifiable else {})
    grpo_stage("rlhf", options, prompts, inputs, judge=judge)


if __name__ == "__main__":
    cli.run(main)
