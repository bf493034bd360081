"""The training loop of pretraining, long context and fine-tuning.

What a step trains on is a function of its number alone, so the position in the data is the step, and a resumed run
equals an uninterrupted one.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nano3.cli import say
from nano3.errors import Preempted, UserError
from nano3.model.config import MOE
from nano3.model.nemotron_h import NemotronH
from nano3.recipe.execution import Execution
from nano3.recipe.training import Balance
from nano3.stage import StageRun
from nano3.train import checkpoint
from nano3.train.distributed import World
from nano3.train.hardware import peak_memory
from nano3.train.loss import summed_cross_entropy
from nano3.train.optimizer import apply_gradients, flat_gradients
from nano3.train.tracking import Tracker
from nano3.train.validation import Batch, ValidationSet, evaluate, micro_batches


@dataclass(frozen=True)
class Task:
    """What a stage trains on, as functions of the step 0 ... steps - 1.

    rows(step): sequences of the step's global batch
    batch(step, first, count): rows first ... first + count - 1 of it; every row of a step has the same length
    learning_rate(step): rate of the step's update
    token_bytes: int64 [V], bytes of text that each token stands for
    tokens_before: tokens that earlier stages of the same schedule have trained on
    """

    stage: str
    steps: int
    rows: Callable[[int], int]
    batch: Callable[[int, int, int], Batch]
    learning_rate: Callable[[int], float]
    balance: Balance
    gradient_clip: float
    validation: list[ValidationSet]
    validation_interval: int
    token_bytes: Tensor
    tokens_before: int = 0


@dataclass(frozen=True)
class Machine:
    """What a stage runs on; changes nothing but the order of floating-point sums."""

    execution: Execution
    device: str
    arithmetic: AbstractContextManager
    world: World = field(default_factory=World)


def train(
    run: StageRun,
    task: Task,
    model: NemotronH,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    mirror: Any = None,
) -> None:
    """Train to the task's last step, from the newest checkpoint in the work directory if there is one.

    Metrics go to run.work. Raises Preempted, with a checkpoint saved, when the run was asked to stop, and UserError
    when the loss diverges."""
    world = machine.world
    gradients = flat_gradients(optimizer)
    step, tokens, lengths = _resume(run, model, optimizer, world) or (0, task.tokens_before, None)
    tracker = Tracker(
        run.work,
        task.stage,
        steps=task.steps,
        first_step=step,
        lengths=lengths,
        log_interval=machine.execution.log_interval,
        mirror=mirror,
        quiet=not world.leads,
    )
    model.train()
    try:
        if step == 0:
            tracker.valid({"step": 0, "tokens": tokens, **_validate(model, task, machine)})
        while step < task.steps:
            began = time.perf_counter()
            measured, trained = optimizer_step(model, optimizer, gradients, task, step, machine)
            step, tokens = step + 1, tokens + trained
            validates = step % task.validation_interval == 0 or step == task.steps
            measured |= expert_load(model, task.balance.bias_update_rate, world, shares=validates)
            tracker.train(
                {"step": step, "tokens": tokens, **measured},
                seconds=time.perf_counter() - began,
                tokens=trained,
                peak_memory=peak_memory(machine.device),
            )
            if validates:
                tracker.valid({"step": step, "tokens": tokens, **_validate(model, task, machine)})
            stop = world.any(run.stop_requested())
            if stop or step % machine.execution.checkpoint_interval == 0 or step == task.steps:
                _save(run, step, tokens, model, optimizer, tracker, world)
            if stop and step < task.steps:
                raise Preempted(f"{task.stage} saved step {step} of {task.steps}; the same command goes on from there")
    finally:
        tracker.close()


def optimizer_step(
    model: NemotronH,
    optimizer: torch.optim.Optimizer,
    gradients: Tensor,
    task: Task,
    step: int,
    machine: Machine,
) -> tuple[dict[str, Any], int]:
    """One update from the step's global batch; returns its metrics and the number of tokens it trained on.

    The loss is the mean over all supervised tokens of the global batch, so neither micro-batches nor processes
    change it. `gradients` is the flat buffer of `flat_gradients(optimizer)`."""
    world = machine.world
    rows = task.rows(step)
    first, count = world.share(rows)
    batch = task.batch(step, first, count)
    supervised = world.sum((batch["loss_mask"] > 0).sum().to(machine.device)).item()
    if not supervised:
        raise UserError(f"{task.stage}: no token of step {step + 1} is supervised; look at the data's loss masks")
    gradients.zero_()
    totals = torch.zeros(2, dtype=torch.float64, device=machine.device)
    for part in micro_batches(batch, machine.execution.micro_batch_tokens, machine.device):
        with machine.arithmetic:
            hidden = model.hidden(part["input_ids"], doc_ids=part.get("doc_ids"))
            loss = summed_cross_entropy(hidden, model.lm_head.weight, part["targets"], part["loss_mask"]) / supervised
        balance = model.balance_loss() * (len(part["input_ids"]) / rows)
        (loss + task.balance.loss_coefficient * balance).backward()
        totals += torch.stack([loss.detach(), torch.as_tensor(balance).detach()]).double()
    world.sum(gradients)
    loss, balance = world.sum(totals).tolist()
    rate = task.learning_rate(step)
    norm = apply_gradients(
        optimizer, gradients, largest=task.gradient_clip, rate=rate, stage=task.stage, step=step, loss=loss
    )
    metrics = {
        "loss": loss,
        "balance_loss": balance,
        "lr": rate,
        "grad_norm": norm,
        "supervised_tokens": int(supervised),
    }
    return metrics, rows * batch["input_ids"].shape[1]


def expert_load(model: NemotronH, bias_update_rate: float, world: World, *, shares: bool) -> dict[str, Any]:
    """Move the expert bias by the counts of the whole global batch; returns how uneven the load was.

    max_violation: (largest load - mean load) / mean load, of the worst layer; 0 is perfect balance
    max_violation_by_layer: the same of every MoE layer; expert_shares: share of the tokens, [layer][expert]"""
    if MOE not in model.config.pattern:
        return {}
    if world.size > 1:
        counters = [buffer for name, buffer in model.named_buffers() if name.endswith(".counts")]
        summed = world.sum(torch.stack(counters))
        for counter, total in zip(counters, summed, strict=True):
            counter.copy_(total)
    load = model.expert_counts().double()
    model.update_expert_bias(bias_update_rate)
    share = load / load.sum(-1, keepdim=True)
    violation = share.amax(-1) * share.shape[-1] - 1
    measured = {"max_violation": violation.max().item(), "max_violation_by_layer": violation.tolist()}
    return measured | ({"expert_shares": share.tolist()} if shares else {})


def _validate(model: NemotronH, task: Task, machine: Machine) -> dict[str, dict[str, float]]:
    return evaluate(
        model,
        task.validation,
        task.token_bytes,
        micro_batch_tokens=machine.execution.micro_batch_tokens,
        arithmetic=machine.arithmetic,
        device=machine.device,
        world=machine.world,
    )


def _resume(
    run: StageRun, model: NemotronH, optimizer: torch.optim.Optimizer, world: World
) -> tuple[int, int, dict[str, int]] | None:
    """Step, tokens and metrics lengths of the newest checkpoint, with everything restored from it."""
    found = world.from_leader(checkpoint.newest(run.checkpoints) if world.leads else None)
    if found is None:
        return None
    checkpoint.restore(found, model=model, optimizer=optimizer)
    if world.leads:
        say(f"resuming from step {found.step}")
    return found.step, found.progress["tokens"], found.progress["lengths"]


def _save(
    run: StageRun,
    step: int,
    tokens: int,
    model: NemotronH,
    optimizer: torch.optim.Optimizer,
    tracker: Tracker,
    world: World,
) -> None:
    if world.leads:
        progress = {"tokens": tokens, "lengths": tracker.lengths()}
        checkpoint.save(run.checkpoints, step, model=model, optimizer=optimizer, progress=progress)
    world.wait()
