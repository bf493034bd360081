"""What RL stages train on: prompts, sampled responses, their rewards and advantages, and the held-out measures.

A draw is a function of the weights and its number alone: the number gives the prompts and the sampling seed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nano3.environments import Reward
from nano3.model.nemotron_h import NemotronH
from nano3.recipe.training import Grpo
from nano3.rl.curriculum import Curriculum
from nano3.rl.grpo import advantages
from nano3.rl.loop import Position
from nano3.rl.order import derived_seed, prompts_of_step
from nano3.rl.rollout import ChatTokenizer, Rollout, by_environment, first_of_each, rollouts
from nano3.train.loop import Machine


class Judge(Protocol):
    """Scores what no verifier can score alone: responses by a parser, by a reward model, or by their group."""

    def __call__(
        self, rows: Sequence[dict[str, Any]], rolled: list[Rollout], seed: int
    ) -> tuple[list[Rollout], dict[str, float]]:
        """The rollouts with reward, reason and well_formed set, and measures of the whole. rows: the prompts; rolled
        has the same number of responses to each, row by row."""


@dataclass(frozen=True)
class Task:
    """What an RL stage trains on.

    train, valid: rows of prompts (NeMo-Gym examples); reference: the frozen first policy, needed only for a KL term
    judge: scores the responses; None: the environments' verifiers do
    curriculum: chooses the prompts; None: every prompt once an epoch, in a seeded order"""

    stage: str
    settings: Grpo
    seed: int
    train: Sequence[dict[str, Any]]
    valid: Sequence[dict[str, Any]]
    chat: ChatTokenizer
    reference: NemotronH | None = None
    judge: Judge | None = None
    curriculum: Curriculum | None = None

    @cached_property
    def by_environment(self) -> dict[str, list[int]]:
        """Environment -> indices of its training prompts."""
        return by_environment(self.train)


def with_curriculum(task: Task, rates: dict[int, float], work: Path) -> Task:
    """The task with a curriculum over these pass rates; `work`: the stage's work directory."""
    settings = task.settings
    curriculum = Curriculum(
        settings.curriculum,
        task.by_environment,
        rates,
        steps=settings.steps,
        per_step=settings.prompts_per_step,
        ratio=settings.environment_ratio,
        seed=task.seed,
        work=work,
    )
    return replace(task, curriculum=curriculum)


@dataclass
class Drawn:
    """What a step has sampled: all rollouts, group by group, and the places of those it trains on."""

    rolled: list[Rollout]
    scores: Tensor  # float64 [responses], the advantages
    used: list[int]
    measured: dict[str, float]
    rounds: int


def draw(model: NemotronH, task: Task, at: Position, machine: Machine) -> Drawn:
    """Sample the groups of a step.

    With dynamic sampling (arXiv:2503.14476), groups whose rewards are all equal are replaced by those of further
    prompts, for at most `settings.dynamic_sampling` rounds; groups beyond prompts_per_step are not used. The prompts
    are counted by rounds, so that none is skipped or repeated."""
    settings, size = task.settings, task.settings.generations_per_prompt
    most = settings.dynamic_sampling or 1
    rolled: list[Rollout] = []
    measured: list[dict[str, float]] = []
    used: list[int] = []
    first = at.state.get("draws", at.step)
    while len(measured) < most and len(used) < settings.prompts_per_step * size:
        more, found = _roll(model, task, first + len(measured), machine, at)
        measured.append(found)
        start = len(rolled)
        rolled += more
        for group in range(start, len(rolled), size):
            rewards = {rollout.reward for rollout in rolled[group : group + size]}
            if not settings.dynamic_sampling or len(rewards) > 1:
                used += range(group, group + size)
    if settings.dynamic_sampling:
        at.state["draws"] = first + len(measured)
    judged = {name: mean(found[name] for found in measured) for name in measured[0]}
    return Drawn(
        rolled,
        score(rolled, settings),
        used[: settings.prompts_per_step * size],
        measures(rolled) | judged,
        len(measured),
    )


def roll(model: NemotronH, task: Task, step: int, machine: Machine) -> list[Rollout]:
    """What step 0, 1, ... trains on: prompts_per_step groups of generations_per_prompt responses, group by group."""
    return _roll(model, task, step, machine, Position())[0]


def _roll(
    model: NemotronH, task: Task, step: int, machine: Machine, at: Position
) -> tuple[list[Rollout], dict[str, float]]:
    settings, known = task.settings, {}
    if task.curriculum is not None:
        chosen = task.curriculum.prompts_of_step(step, at)
        rates = task.curriculum.pass_rates(step, at)
        known["pass_rate"] = mean(rates[index] for index in chosen)  # what the profile says of the step's prompts
    else:
        chosen = prompts_of_step(
            task.by_environment,
            step=step,
            per_step=settings.prompts_per_step,
            ratio=settings.environment_ratio,
            seed=task.seed,
        )
    rows = [task.train[index] for index in chosen]
    seed = derived_seed(task.seed, task.stage, "rollout", step)
    rolled, judged = _respond(model, task, rows, settings.generations_per_prompt, seed, machine)
    return rolled, judged | known


def _respond(
    model: NemotronH, task: Task, rows: Sequence[dict[str, Any]], generations: int, seed: int, machine: Machine
) -> tuple[list[Rollout], dict[str, float]]:
    """Scored responses to rows, row by row, and what the judge measured."""
    settings = task.settings
    with machine.arithmetic:
        rolled = rollouts(
            model,
            task.chat,
            rows,
            generations=generations,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seed,
            **({"score": unscored} if task.judge else {}),
        )
    return task.judge(rows, rolled, derived_seed(seed, "judge")) if task.judge else (rolled, {})


def unscored(row: dict[str, Any], response: str) -> Reward:
    """In the place of a verifier where a judge scores afterwards."""
    return Reward(0.0, "not judged yet", well_formed=False)


def score(rolled: list[Rollout], settings: Grpo) -> Tensor:
    """Advantage of every response: float64 [responses]."""
    rewards = torch.tensor([rollout.reward for rollout in rolled], dtype=torch.float64)
    grouped = rewards.view(-1, settings.generations_per_prompt)
    return advantages(
        grouped, leave_one_out=settings.leave_one_out, normalise_by_std=settings.normalise_by_std
    ).flatten()


def without_contrast(scores: Tensor, settings: Grpo) -> float:
    """Share of the groups that taught nothing: every response had the same reward."""
    return (scores.view(-1, settings.generations_per_prompt) == 0).all(-1).double().mean().item()


def measures(rolled: Sequence[Rollout]) -> dict[str, float]:
    """Means over responses, over all and by environment.

    entropy: nats per token, the mean of -log p of what was sampled, which estimates the policy's entropy
    turns: of conversations, where there are any"""
    found = {"reward": mean(rollout.reward for rollout in rolled)}
    for name in sorted({rollout.environment for rollout in rolled}):
        found[f"reward/{name}"] = mean(rollout.reward for rollout in rolled if rollout.environment == name)
    if conversations := [rollout for rollout in rolled if rollout.context]:
        found["turns"] = mean(len(rollout.turns) for rollout in conversations)
    return found | {
        "finished_share": mean(rollout.finished for rollout in rolled),
        "well_formed_share": mean(rollout.well_formed for rollout in rolled),
        "response_tokens": mean(rollout.tokens for rollout in rolled),
        "entropy": mean(-value for rollout in rolled for turn in rollout.turns for value in turn.logprobs),
    }


def validate(model: NemotronH, task: Task, machine: Machine) -> dict[str, float]:
    """The measures on held-out prompts, and the numbers of responses `n`, `n/{environment}`; always the same seed."""
    settings = task.settings.validation
    rows = first_of_each(task.valid, settings.prompts)
    seed = derived_seed(task.seed, task.stage, "validation")
    rolled, judged = _respond(model, task, rows, settings.generations, seed, machine)
    names = sorted({rollout.environment for rollout in rolled})
    counts = {f"n/{name}": sum(rollout.environment == name for rollout in rolled) for name in names}
    return measures(rolled) | judged | {"n": len(rolled)} | counts


def profile(
    model: NemotronH, task: Task, machine: Machine, *, prompts: int | None, generations: int, seed: object
) -> list[dict[str, Any]]:
    """Pass rates of the training prompts, of the first `prompts` of every environment: rows of a curriculum's profile.

    The pass rate is the mean reward of `generations` responses."""
    chosen = [index for indices in task.by_environment.values() for index in indices[:prompts]]
    rows = [task.train[index] for index in chosen]
    rolled, _ = _respond(model, task, rows, generations, derived_seed(task.seed, "profile", seed), machine)
    found = []
    for place, index in enumerate(chosen):
        mine = rolled[place * generations : (place + 1) * generations]
        found.append(
            {
                "index": index,
                "id": mine[0].prompt_id,
                "environment": mine[0].environment,
                "pass_rate": mean(rollout.reward for rollout in mine),
                "responses": generations,
                "response_tokens": mean(rollout.tokens for rollout in mine),
            }
        )
    return found


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else 0.0
