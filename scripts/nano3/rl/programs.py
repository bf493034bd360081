"""The GRPO stages as programs: what rlvr1, rlvr2, genrm and rlhf have in common."""

from argparse import Namespace
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from nano3.model import hf
from nano3.recipe import load_recipe
from nano3.recipe.stages import rl_config, rl_section
from nano3.rl import draw, rlvr, scoring
from nano3.rl.curriculum import read_profile
from nano3.rl.rollout import ChatTokenizer, load_chat_tokenizer, read_prompts
from nano3.train.loop import Machine
from nano3.train.optimizer import adamw
from nano3.train.session import carry_on, directory_of, open_session

Rows = list[dict[str, Any]]


def rlvr_stage(name: str, options: Namespace) -> None:
    """Run the stage rl/{name}, whose rewards the environments of `options.prompts` give; see `grpo_stage`."""
    prompts = directory_of(options.prompts)
    grpo_stage(name, options, lambda split: read_prompts(prompts / f"{split}.jsonl"), {"prompts": prompts})


def grpo_stage(
    name: str,
    options: Namespace,
    prompts: Callable[[str], Rows],
    inputs: dict[str, Path],
    *,
    judge: Callable[[ChatTokenizer, Machine], draw.Judge] | None = None,
) -> None:
    """Run the stage rl/{name} of `options.recipe` from `options.model`, or continue it, and publish the policy.

    prompts: "train" or "valid" -> rows; inputs: the artifacts that it and the judge read, by name; judge: makes what
    scores the responses, None: the environments do. options.profile: pass rates, where the recipe has a curriculum."""
    recipe = load_recipe(options.recipe)
    settings, before = rl_section(recipe, name), directory_of(options.model)
    profile = directory_of(options.profile) if getattr(options, "profile", None) else None
    inputs = {"model": before, **inputs, **({"profile": profile} if profile else {})}
    stage = f"rl/{name}"
    with open_session(stage, recipe, "rl", config=rl_config(recipe, name), inputs=inputs, options=options) as session:
        if session.run.finished:
            return
        machine = session.machine
        policy = carry_on(recipe, before, machine.device)
        policy.freeze_router(settings.freeze_router)
        chat, rows = load_chat_tokenizer(before), {split: prompts(split) for split in ("train", "valid")}
        scoring.set_up(recipe, chain.from_iterable(rows.values()), inputs.get("prompts"), device=machine.device)
        task = draw.Task(
            stage=stage,
            settings=settings,
            seed=recipe.seed,
            **rows,
            chat=chat,
            reference=hf.load(before, device=machine.device) if settings.kl_coefficient else None,
            judge=judge(chat, machine) if judge else None,
        )
        if profile:
            task = draw.with_curriculum(task, read_profile(profile / "profile.jsonl"), session.run.work)
        at = rlvr.train(session.run, task, policy, adamw(policy, settings.optimizer), machine, session.mirror)
        rlvr.publish(session, policy, tokenizer=before, at=at)
