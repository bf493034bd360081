"""DPO against hallucinated tools: a preference loss on mined pairs, plus SFT on the good sides (report, appendix C)."""

from pathlib import Path

from nano3 import cli
from nano3.recipe import load_recipe
from nano3.recipe.stages import rl_config


def main(argv: list[str] | None = None) -> None:
    """Train the policy, or continue a training that was interrupted, and publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the policy to start from, and the reference")
    parser.add_argument("--pairs", type=Path, required=True, help="preference pairs: train.jsonl and valid.jsonl")
    parser.add_argument("--prompts", type=Path, required=True, help="RL prompts; valid.jsonl is used to measure")
    options = cli.parse(parser, argv)
    recipe = load_recipe(options.recipe)
    settings = recipe.rl.dpo

    from nano3.model import hf
    from nano3.rl import dpo, rlvr, scoring
    from nano3.rl.preferences import read_pairs
    from nano3.rl.rollout import load_chat_tokenizer, read_prompts
    from nano3.train.optimizer import adamw
    from nano3.train.session import carry_on, directory_of, open_session

    before, pairs, prompts = map(directory_of, (options.model, options.pairs, options.prompts))
    inputs = {"model": before, "pairs": pairs, "prompts": prompts}
    with open_session(
        "rl/dpo", recipe, "rl", config=rl_config(recipe, "dpo"), inputs=inputs, options=options
    ) as session:
        if session.run.finished:
            return
        device, chat = session.machine.device, load_chat_tokenizer(before)
        rows = read_prompts(prompts / "valid.jsonl")
        scoring.set_up(recipe, rows, prompts, device=device)
        policy = carry_on(recipe, before, device)
        policy.freeze_router(settings.freeze_router)
        train, too_long = read_pairs(pairs / "train.jsonl", chat, max_tokens=settings.max_tokens)
        valid = []
        if (pairs / "valid.jsonl").stat().st_size:
            valid, _ = read_pairs(pairs / "valid.jsonl", chat, max_tokens=settings.max_tokens)
        cli.say(f"{len(train)} pairs to train on, {len(valid)} held out, {too_long} too long")
        task = dpo.Task(
            settings=settings,
            seed=recipe.seed,
            train=train,
            valid=valid,
            prompts=rows,
            chat=chat,
            reference=hf.load(before, device=device).eval().requires_grad_(False),
        )
        at = dpo.train(session.run, task, policy, adamw(policy, settings.optimizer), session.machine, session.mirror)
        rlvr.publish(session, policy, tokenizer=before, at=at)


if __name__ == "__main__":
    cli.run(main)
