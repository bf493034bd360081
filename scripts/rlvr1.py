"""RLVR 1: GRPO on prompts with verifiable rewards, all environments at once (report, section 3.2)."""

from pathlib import Path

from nano3 import cli
from nano3.recipe import load_recipe
from nano3.recipe.stages import rl_config


def main(argv: list[str] | None = None) -> None:
    """Train the policy, or continue a training that was interrupted, and publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the policy to start from")
    parser.add_argument("--prompts", type=Path, required=True, help="RL prompts: train.jsonl and valid.jsonl")
    options = cli.parse(parser, argv)
    recipe = load_recipe(options.recipe)
    settings = recipe.rl.rlvr1

    from nano3.model import hf
    from nano3.rl import rlvr
    from nano3.rl.rollout import load_chat_tokenizer, read_prompts
    from nano3.train.optimizer import adamw
    from nano3.train.session import carry_on, directory_of, open_session

    before, prompts = directory_of(options.model), directory_of(options.prompts)
    with open_session(
        "rl/rlvr1",
        recipe,
        "rl",
        config=rl_config(recipe, "rlvr1"),
        inputs={"model": before, "prompts": prompts},
        options=options,
    ) as session:
        if session.run.finished:
            return
        policy = carry_on(recipe, before, session.machine.device)
        policy.freeze_router(settings.freeze_router)
        task = rlvr.Task(
            stage="rl/rlvr1",
            settings=settings,
            seed=recipe.seed,
            train=read_prompts(prompts / "train.jsonl"),
            valid=read_prompts(prompts / "valid.jsonl"),
            chat=load_chat_tokenizer(before),
            reference=hf.load(before, device=session.machine.device) if settings.kl_coefficient else None,
        )
        rlvr.train(session.run, task, policy, adamw(policy, settings.optimizer), session.machine, session.mirror)
        rlvr.publish(session, policy, tokenizer=before)


if __name__ == "__main__":
    cli.run(main)
