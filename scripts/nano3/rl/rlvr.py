"""Reinforcement learning from verifiable rewards with GRPO: rollout, advantages, one on-policy update, repeat.

A step is a function of the weights and its number alone: the number gives the prompts and the sampling seed. So the
position in the data is the step, and a resumed run equals an uninterrupted one.
"""

import math
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nano3.cli import say
from nano3.data.tokenizer import copy_existing
from nano3.errors import Preempted, UserError
from nano3.model import hf
from nano3.model.nemotron_h import NemotronH
from nano3.recipe.training import Grpo
from nano3.rl.grpo import advantages, mismatch, policy_loss
from nano3.rl.lines import JsonLines
from nano3.rl.logprobs import pack_responses, response_logprobs
from nano3.rl.order import derived_seed, prompts_of_step
from nano3.rl.rollout import ChatTokenizer, Rollout, by_environment, first_of_each, readable, rollouts
from nano3.stage import StageRun
from nano3.train import checkpoint
from nano3.train.hardware import peak_memory
from nano3.train.loop import Machine
from nano3.train.optimizer import clip, flat_gradients, set_learning_rate
from nano3.train.session import Session, special_ids, summarise
from nano3.train.tracking import FILES, Tracker

TRAJECTORIES, SAMPLES = "trajectories.jsonl", "samples.jsonl"


@dataclass(frozen=True)
class Task:
    """What an RL stage trains on.

    train, valid: rows of prompts (NeMo-Gym examples); reference: the frozen first policy, needed only for a KL term"""

    stage: str
    settings: Grpo
    seed: int
    train: Sequence[dict[str, Any]]
    valid: Sequence[dict[str, Any]]
    chat: ChatTokenizer
    reference: NemotronH | None = None


def train(
    run: StageRun,
    task: Task,
    model: NemotronH,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    mirror: Any = None,
) -> None:
    """Train to the last step, from the newest checkpoint in the work directory if there is one.

    Metrics, trajectories and samples go to run.work. Raises Preempted, with a checkpoint saved, when the run was
    asked to stop, and UserError when the policy diverges."""
    settings = task.settings
    _check(task, machine)
    gradients = flat_gradients(optimizer)
    found = checkpoint.newest(run.checkpoints)
    step, tokens, lengths = 0, 0, {}
    if found is not None:
        checkpoint.restore(found, model=model, optimizer=optimizer)
        step, tokens, lengths = found.step, found.progress["tokens"], found.progress["lengths"]
        say(f"resuming from step {step}")
    tracker = Tracker(
        run.work,
        task.stage,
        steps=settings.steps,
        first_step=step,
        lengths=lengths,
        log_interval=machine.execution.log_interval,
        mirror=mirror,
    )
    logs = {name: JsonLines(run.work / name, lengths.get(name, 0)) for name in (TRAJECTORIES, SAMPLES)}
    model.train()
    try:
        if step == 0:
            tracker.valid({"step": step, "tokens": tokens, **validate(model, task, machine)})
        while step < settings.steps:
            began = time.perf_counter()
            rolled = roll(model, task, step, machine)
            generated = sum(len(rollout.response) for rollout in rolled)
            scores = _advantages(rolled, settings)
            measured = update(model, optimizer, gradients, rolled, scores, task, step, machine)
            measured |= measures(rolled) | {"zero_variance_groups": _without_contrast(scores, settings)}
            _record(logs, rolled, scores, task, step)
            step, tokens = step + 1, tokens + generated
            tracker.train(
                {"step": step, "tokens": tokens, **measured},
                seconds=time.perf_counter() - began,
                tokens=generated,
                peak_memory=peak_memory(machine.device),
            )
            if step % settings.validation.interval == 0 or step == settings.steps:
                tracker.valid({"step": step, "tokens": tokens, **validate(model, task, machine)})
            stop = run.stop_requested()
            if stop or step % machine.execution.checkpoint_interval == 0 or step == settings.steps:
                lengths = tracker.lengths() | {name: log.length() for name, log in logs.items()}
                progress = {"tokens": tokens, "lengths": lengths}
                checkpoint.save(run.checkpoints, step, model=model, optimizer=optimizer, progress=progress)
            if stop and step < settings.steps:
                raise Preempted(
                    f"{task.stage} saved step {step} of {settings.steps}; the same command goes on from there"
                )
    finally:
        tracker.close()
        for log in logs.values():
            log.close()


def _check(task: Task, machine: Machine) -> None:
    settings = task.settings
    if settings.temperature != 1 or settings.top_p != 1:
        raise UserError(
            f"{task.stage} has temperature {settings.temperature:g} and top_p {settings.top_p:g}, so it would sample"
            " from another distribution than the one it trains.\n"
            "  Set both to 1 (the defaults) in the recipe's rl section."
        )
    if machine.world.size > 1:
        raise UserError(
            f"{task.stage} was started as {machine.world.size} processes, but the torch backend runs RL in one.\n"
            "  Set execution.rl to one node and at most one GPU."
        )


def roll(model: NemotronH, task: Task, step: int, machine: Machine) -> list[Rollout]:
    """What step 0, 1, ... trains on: prompts_per_step groups of generations_per_prompt responses, group by group."""
    settings = task.settings
    chosen = prompts_of_step(
        by_environment(task.train),
        step=step,
        per_step=settings.prompts_per_step,
        ratio=settings.environment_ratio,
        seed=task.seed,
    )
    with machine.arithmetic:
        return rollouts(
            model,
            task.chat,
            [task.train[index] for index in chosen],
            generations=settings.generations_per_prompt,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=derived_seed(task.seed, task.stage, "rollout", step),
        )


def _advantages(rolled: list[Rollout], settings: Grpo) -> Tensor:
    """Advantage of every response: float64 [responses]."""
    rewards = torch.tensor([rollout.reward for rollout in rolled], dtype=torch.float64)
    grouped = rewards.view(-1, settings.generations_per_prompt)
    return advantages(
        grouped, leave_one_out=settings.leave_one_out, normalise_by_std=settings.normalise_by_std
    ).flatten()


def update(
    model: NemotronH,
    optimizer: torch.optim.Optimizer,
    gradients: Tensor,
    rolled: list[Rollout],
    scores: Tensor,
    task: Task,
    step: int,
    machine: Machine,
) -> dict[str, float]:
    """One update of the weights and of the expert bias; returns its metrics.

    The loss is the mean over all tokens of counted responses. Responses whose advantage is exactly 0 have no gradient
    and are not computed at all (unless a KL term gives them one); they do count in the mean. The expert bias follows
    the load of the responses that were computed."""
    settings = task.settings
    counted = [i for i, rollout in enumerate(rolled) if rollout.finished or not settings.overlong_filtering]
    normaliser = sum(len(rolled[i].response) for i in counted)
    trained = [rolled[i] for i in counted if scores[i] != 0 or settings.kl_coefficient]
    advantage = torch.stack([scores[i] for i in counted if scores[i] != 0 or settings.kl_coefficient] or [scores[0]])
    gradients.zero_()
    loss, largest, total, tokens = 0.0, 0.0, 0.0, 0
    batches = pack_responses(
        [rollout.prompt for rollout in trained],
        [rollout.response for rollout in trained],
        micro_batch_tokens=machine.execution.micro_batch_tokens,
    )
    for batch in batches:
        part, (part_largest, part_mean) = _micro_batch(model, batch, trained, advantage, normaliser, task, machine)
        loss, largest = loss + part, max(largest, part_largest)
        total, tokens = total + part_mean * len(batch.target), tokens + len(batch.target)
    norm = clip(gradients, settings.optimizer.gradient_clip)
    if not math.isfinite(norm):
        raise UserError(
            f"{task.stage}: the gradient of step {step + 1} is not finite (loss {loss}).\n"
            "  Training diverged: lower the learning rate or lengthen the warmup. The last checkpoint is kept."
        )
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
    set_learning_rate(optimizer, rate)
    optimizer.step()
    model.update_expert_bias(settings.bias_update_rate)
    return {
        "loss": loss,
        "lr": rate,
        "grad_norm": norm,
        "supervised_tokens": normaliser,
        "trained_responses": len(trained),
        "ratio_max": math.exp(largest),
        "log_ratio_mean": total / max(1, tokens),
    }


def _micro_batch(
    model: NemotronH,
    batch,
    trained: list[Rollout],
    advantage: Tensor,
    normaliser: int,
    task: Task,
    machine: Machine,
) -> tuple[float, tuple[float, float]]:
    """Add the gradient of one micro-batch; returns its loss and its mismatch of trainer and generator."""
    settings = task.settings
    with machine.arithmetic:
        current = response_logprobs(model, batch)
    device = current.device
    generator = torch.tensor(
        [trained[i].logprobs[j] for i, j in zip(batch.response.tolist(), batch.offset.tolist(), strict=True)],
        device=device,
    )
    reference = None
    if settings.kl_coefficient:
        with torch.no_grad(), machine.arithmetic:
            reference = response_logprobs(task.reference, batch)
    previous, mask = current.detach(), torch.ones_like(generator)
    loss = policy_loss(
        current,
        previous,
        generator,
        advantage[batch.response].float().to(device),
        mask,
        normaliser=normaliser,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
        correction=settings.importance_sampling,
        band=settings.importance_band,
        reference=reference,
        kl_coefficient=settings.kl_coefficient,
    )
    loss.backward()
    return loss.item(), mismatch(previous, generator, mask)


def _without_contrast(scores: Tensor, settings: Grpo) -> float:
    """Share of the groups that taught nothing: every response had the same reward."""
    return (scores.view(-1, settings.generations_per_prompt) == 0).all(-1).double().mean().item()


def measures(rolled: Sequence[Rollout]) -> dict[str, float]:
    """Means over responses, over all and by environment.

    entropy: nats per token, the mean of -log p of what was sampled, which estimates the policy's entropy"""
    found = {"reward": _mean(rollout.reward for rollout in rolled)}
    for name in sorted({rollout.environment for rollout in rolled}):
        found[f"reward/{name}"] = _mean(rollout.reward for rollout in rolled if rollout.environment == name)
    return found | {
        "finished_share": _mean(rollout.finished for rollout in rolled),
        "well_formed_share": _mean(rollout.well_formed for rollout in rolled),
        "response_tokens": _mean(len(rollout.response) for rollout in rolled),
        "entropy": _mean(-value for rollout in rolled for value in rollout.logprobs),
    }


def validate(model: NemotronH, task: Task, machine: Machine) -> dict[str, float]:
    """The measures on held-out prompts, and the numbers of responses `n`, `n/{environment}`; always the same seed."""
    settings = task.settings
    with machine.arithmetic:
        rolled = rollouts(
            model,
            task.chat,
            first_of_each(task.valid, settings.validation.prompts),
            generations=settings.validation.generations,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=derived_seed(task.seed, task.stage, "validation"),
        )
    names = sorted({rollout.environment for rollout in rolled})
    counts = {f"n/{name}": sum(rollout.environment == name for rollout in rolled) for name in names}
    return measures(rolled) | {"n": len(rolled)} | counts


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else 0.0


def _record(logs: dict[str, JsonLines], rolled: list[Rollout], scores: Tensor, task: Task, step: int) -> None:
    """Every response goes into the trajectories; the best and worst of one group, another each step, into samples."""
    size = task.settings.generations_per_prompt
    rows = [
        readable(rollout, task.chat, step=step + 1, group=i // size, advantage=scores[i].item())
        for i, rollout in enumerate(rolled)
    ]
    for row in rows:
        logs[TRAJECTORIES].write(row)
    group = sorted(rows[step % (len(rows) // size) * size :][:size], key=lambda row: row["reward"])
    for row in (group[-1], group[0]):
        logs[SAMPLES].write(row)


def publish(session: Session, model: NemotronH, *, tokenizer: Path) -> None:
    """Publish the trained policy with its tokenizer, metrics and samples; `tokenizer` is a directory that has one."""
    run = session.run
    payload = run.work / "payload"
    shutil.rmtree(payload, ignore_errors=True)
    payload.mkdir()
    special = special_ids(tokenizer)
    hf.save(
        model,
        payload,
        bos=special["bos"],
        eos=special["eos"],
        pad=special["pad"],
        generation_eos=special["im_end"],
    )
    copy_existing(str(tokenizer), "", payload)
    for name in (*FILES, SAMPLES):
        shutil.copyfile(run.work / name, payload / name)
    measured, speed = summarise(run.work)
    run.publish(payload, statistics=measured, provenance=speed | {"wandb_run": session.mirror_id})
    run.finished = True
    before, after = (measured["validation"][when]["reward"] for when in ("start", "end"))
    say(f"[{run.name}] published {run.output}: held-out reward {before:.3f} -> {after:.3f}")
