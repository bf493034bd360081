"""Reinforcement learning from verifiable rewards with GRPO: rollout, advantages, one on-policy update, repeat.

A step is a function of the weights and its number alone: the number gives the prompts and the sampling seed. So the
position in the data is the step, and a resumed run equals an uninterrupted one.
"""

import copy
import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nano3.cli import say
from nano3.data.tokenizer import copy_existing
from nano3.errors import UserError
from nano3.model import hf
from nano3.model.nemotron_h import NemotronH
from nano3.recipe.training import Grpo
from nano3.rl.conversation import Turn
from nano3.rl.draw import Task, draw, profile, validate, without_contrast
from nano3.rl.grpo import mismatch, outside, policy_loss
from nano3.rl.lines import JsonLines
from nano3.rl.logprobs import TokenLogprobs, response_logprobs
from nano3.rl.loop import Plan, Position, best_weights, run_steps
from nano3.rl.rollout import Rollout, readable
from nano3.stage import StageRun
from nano3.train.loop import Machine
from nano3.train.optimizer import apply_gradients, flat_gradients
from nano3.train.schedule import warmed_up
from nano3.train.session import Session, special_ids, summarise
from nano3.train.tracking import FILES

TRAJECTORIES, SAMPLES = "trajectories.jsonl", "samples.jsonl"


def train(
    run: StageRun,
    task: Task,
    model: NemotronH,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    mirror: Any = None,
) -> Position:
    """Train to the last step, from the newest checkpoint in the work directory if there is one.

    Metrics, trajectories and samples go to run.work. Raises Preempted, with a checkpoint saved, when the run was
    asked to stop, and UserError when the policy diverges."""
    settings = task.settings
    _check(task, machine)
    gradients = flat_gradients(optimizer)

    def step(at: Position, logs: dict[str, JsonLines]) -> tuple[dict[str, Any], int]:
        drawn = draw(model, task, at, machine)
        measured = {"zero_variance_groups": without_contrast(drawn.scores, settings), **drawn.measured}
        if settings.dynamic_sampling:
            measured["rounds"] = drawn.rounds
        rolled = [drawn.rolled[i] for i in drawn.used]
        measured |= update(model, optimizer, gradients, rolled, drawn.scores[drawn.used], task, at.step, machine)
        _record(logs, drawn.rolled, drawn.scores, task, at.step)
        return measured, sum(rollout.tokens for rollout in drawn.rolled)

    def profile_best(at: Position) -> list[dict[str, Any]]:
        chosen, weights = settings.curriculum, best_weights(run, at)
        policy = model
        if weights is not None:
            policy = copy.deepcopy(model)
            policy.load_state_dict(weights)
        return profile(policy, task, machine, prompts=chosen.prompts, generations=chosen.generations, seed=at.step)

    def validation(at: Position) -> dict[str, Any]:
        found = validate(model, task, machine)
        if task.curriculum is not None:
            task.curriculum.after_validation(at, found["reward"], lambda: profile_best(at))
        return found

    plan = Plan(
        stage=task.stage,
        steps=settings.steps,
        interval=settings.validation.interval,
        step=step,
        validate=validation,
        files=(TRAJECTORIES, SAMPLES),
        best=settings.best,
    )
    return run_steps(run, plan, model, optimizer, machine, mirror)


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

    The loss is the mean over all tokens of counted responses. Every turn of a conversation is a sample of its own, with
    the advantage of the whole. Responses whose advantage is exactly 0 have no gradient
    and are not computed at all (unless a KL term gives them one); they do count in the mean. The expert bias follows
    the load of the responses that were computed."""
    settings = task.settings
    counted = [i for i, rollout in enumerate(rolled) if rollout.finished or not settings.overlong_filtering]
    normaliser = sum(rolled[i].tokens for i in counted)
    chosen = [i for i in counted if scores[i] != 0 or settings.kl_coefficient]
    trained = [turn for i in chosen for turn in rolled[i].turns]
    advantage = scores[[i for i in chosen for _ in rolled[i].turns]]
    gradients.zero_()
    loss, largest, total, tokens, left_out = 0.0, 0.0, 0.0, 0, 0
    turns = [turn.prompt for turn in trained], [turn.response for turn in trained]
    limits = {"micro_batch_tokens": machine.execution.micro_batch_tokens, "arithmetic": machine.arithmetic}
    references = itertools.repeat(None)
    if settings.kl_coefficient:
        references = torch.no_grad()(response_logprobs)(task.reference, *turns, **limits)
    for batch, reference in zip(response_logprobs(model, *turns, **limits), references, strict=False):
        part, (part_largest, part_mean), part_outside = _micro_batch(
            batch, reference, trained, advantage, normaliser, settings
        )
        loss, largest = loss + part, max(largest, part_largest)
        total, tokens = total + part_mean * len(batch.offset), tokens + len(batch.offset)
        left_out += part_outside
    rate = warmed_up(settings.learning_rate, settings.warmup_steps, step)
    bound = settings.optimizer.gradient_clip
    norm = apply_gradients(optimizer, gradients, largest=bound, rate=rate, stage=task.stage, step=step, loss=loss)
    model.update_expert_bias(settings.bias_update_rate)
    return {
        "loss": loss,
        "lr": rate,
        "grad_norm": norm,
        "supervised_tokens": normaliser,
        "trained_responses": len(chosen),
        "ratio_max": math.exp(largest),
        "log_ratio_mean": total / max(1, tokens),
        "outside_band_share": left_out / max(1, tokens),
    }


def _micro_batch(
    batch: TokenLogprobs,
    reference: TokenLogprobs | None,
    trained: list[Turn],
    advantage: Tensor,
    normaliser: int,
    settings: Grpo,
) -> tuple[float, tuple[float, float], int]:
    """Add the gradient of one micro-batch; returns its loss, and its mismatch of trainer and generator with the number
    of tokens whose ratio is outside of the band."""
    current, device = batch.logprobs, batch.logprobs.device
    generator = torch.tensor([trained[i].logprobs[j] for i, j in batch.where()], device=device)
    previous, mask = current.detach(), torch.ones_like(generator)
    loss = policy_loss(
        current,
        previous,
        generator,
        advantage.to(device)[batch.response].float(),
        mask,
        normaliser=normaliser,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
        correction=settings.importance_sampling,
        band=settings.importance_band,
        reference=None if reference is None else reference.logprobs,
        kl_coefficient=settings.kl_coefficient,
    )
    loss.backward()
    return (
        loss.item(),
        mismatch(previous, generator, mask),
        outside(previous, generator, mask, settings.importance_band),
    )


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


def publish(session: Session, model: NemotronH, *, tokenizer: Path, at: Position) -> None:
    """Publish the trained policy with its tokenizer, metrics and samples.

    tokenizer: a directory that has one; at: where training has ended."""
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
        if (run.work / name).is_file():
            shutil.copyfile(run.work / name, payload / name)
    measured, speed = summarise(run.work)
    measured["published_step"] = at.state.get("best", {"step": at.step})["step"]
    run.publish(payload, statistics=measured, provenance=speed | {"wandb_run": session.mirror_id})
    run.finished = True
    shutil.rmtree(run.work / "best", ignore_errors=True)
    before, after = (measured["validation"][when]["reward"] for when in ("start", "end"))
    say(f"[{run.name}] published {run.output}: held-out reward {before:.3f} -> {after:.3f}")
