"""The loop of every RL stage: steps, validations, checkpoints, and the best checkpoint by a named metric.

A step is a function of the weights and of the position, and the position is in the checkpoint: a resumed run equals
an uninterrupted one.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nano3.cli import say
from nano3.errors import Preempted, UserError
from nano3.model.nemotron_h import NemotronH
from nano3.rl.lines import JsonLines
from nano3.stage import StageRun
from nano3.train import checkpoint
from nano3.train.hardware import peak_memory
from nano3.train.loop import Machine
from nano3.train.tracking import Tracker


@dataclass
class Position:
    """How far a stage has come: steps done, tokens of them, bytes of its files.

    state: what else the stage remembers from step to step; JSON-able"""

    step: int = 0
    tokens: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What the loop runs.

    step(at, logs) makes one update: returns its metrics and the tokens it generated or trained on
    validate(at): measures on held-out data
    interval: steps between validations; files: JSONL files that `step` appends to
    best: name of the measure whose largest value decides which step's weights the stage ends with; None: the last"""

    stage: str
    steps: int
    interval: int
    step: Callable[[Position, dict[str, JsonLines]], tuple[dict[str, Any], int]]
    validate: Callable[[Position], dict[str, Any]]
    files: tuple[str, ...] = ()
    best: str | None = None


def run_steps(
    run: StageRun,
    plan: Plan,
    model: NemotronH,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    mirror: Any = None,
) -> Position:
    """Run to the last step, from the newest checkpoint in the work directory if there is one.

    Leaves the model with the weights to publish; with `plan.best`, `state["best"]` of the position says whose they
    are. Raises Preempted, with a checkpoint saved, when the run was asked to stop."""
    at = _resume(run, model, optimizer)
    logs = {name: JsonLines(run.work / name, at.lengths.get(name, 0)) for name in plan.files}
    tracker = Tracker(
        run.work,
        plan.stage,
        steps=plan.steps,
        first_step=at.step,
        lengths=at.lengths,
        log_interval=machine.execution.log_interval,
        mirror=mirror,
    )
    model.train()
    try:
        if at.step == 0:
            tracker.valid({"step": 0, "tokens": 0, **plan.validate(at)})
        while at.step < plan.steps:
            began = time.perf_counter()
            measured, tokens = plan.step(at, logs)
            at.step, at.tokens = at.step + 1, at.tokens + tokens
            tracker.train(
                {"step": at.step, "tokens": at.tokens, **measured},
                seconds=time.perf_counter() - began,
                tokens=tokens,
                peak_memory=peak_memory(machine.device),
            )
            last, stop, better = at.step == plan.steps, run.stop_requested(), False
            if last or at.step % plan.interval == 0:
                found = plan.validate(at)
                tracker.valid({"step": at.step, "tokens": at.tokens, **found})
                better = _is_best(plan, at, found)
            if last or stop or better or at.step % machine.execution.checkpoint_interval == 0:
                at.lengths = tracker.lengths() | {name: log.length() for name, log in logs.items()}
                _save(run, at, model, optimizer, better)
            if stop and not last:
                raise Preempted(f"{plan.stage} saved step {at.step} of {plan.steps}; the same command goes on")
    finally:
        tracker.close()
        for log in logs.values():
            log.close()
    _load_best(run, at, model)
    return at


def _resume(run: StageRun, model: NemotronH, optimizer: torch.optim.Optimizer) -> Position:
    found = checkpoint.newest(run.checkpoints)
    if found is None:
        return Position()
    checkpoint.restore(found, model=model, optimizer=optimizer)
    say(f"resuming from step {found.step}")
    progress = found.progress
    return Position(found.step, progress["tokens"], progress["lengths"], progress["state"])


def _save(run: StageRun, at: Position, model: NemotronH, optimizer: torch.optim.Optimizer, better: bool) -> None:
    progress = {"tokens": at.tokens, "lengths": at.lengths, "state": at.state}
    path = checkpoint.save(run.checkpoints, at.step, model=model, optimizer=optimizer, progress=progress)
    if better:
        file = _best_file(run, at.step)
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        os.link(path / "model.safetensors", file)


def _is_best(plan: Plan, at: Position, found: dict[str, Any]) -> bool:
    """True, and noted in the state, when a validation is better than all before."""
    if plan.best is None:
        return False
    if plan.best not in found:
        known = ", ".join(name for name, value in found.items() if isinstance(value, float))
        raise UserError(f"{plan.stage}: best is {plan.best!r}, but validations measure {known}. Name one of these.")
    if "best" in at.state and found[plan.best] <= at.state["best"]["value"]:
        return False
    at.state["best"] = {"step": at.step, "value": found[plan.best]}
    return True


def best_weights(run: StageRun, at: Position) -> dict[str, torch.Tensor] | None:
    """The weights of the best validated step so far, if it is another one than the current."""
    from safetensors.torch import load_file

    best = at.state.get("best")
    return None if best is None or best["step"] == at.step else load_file(_best_file(run, best["step"]))


def _load_best(run: StageRun, at: Position, model: NemotronH) -> None:
    weights = best_weights(run, at)
    if weights is not None:
        model.load_state_dict(weights)
        say(f"[{run.name}] step {at.state['best']['step']} was the best of {at.step}: its weights are kept")


def _best_file(run: StageRun, step: int) -> Path:
    """Weights of a step that was the best so far. Older ones stay until the stage is published: a checkpoint that is
    damaged later may lead back to them."""
    return run.work / "best" / f"step_{step}.safetensors"
