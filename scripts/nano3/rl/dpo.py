"""DPO: a preference loss on pairs plus a supervised loss on their preferred sides (report, appendix C).

Of a pair with chosen response c and rejected response r, sums of log-probabilities over a response's tokens:

    margin = beta ((log p(c) - log p_ref(c)) - (log p(r) - log p_ref(r)))
    loss   = preference_weight * -log sigmoid(margin) + sft_weight * -log p(c) / |c|

(arXiv:2305.18290, equation 7). The loss of a batch is the mean over its pairs. With the reference being the policy
that training starts from, the first preference loss is ln 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nano3.errors import UserError
from nano3.model.nemotron_h import NemotronH
from nano3.recipe.training import Dpo
from nano3.rl.draw import measures
from nano3.rl.lines import JsonLines
from nano3.rl.logprobs import response_logprobs
from nano3.rl.loop import Plan, Position, run_steps
from nano3.rl.order import derived_seed, shuffled
from nano3.rl.pairs import converse, hallucinated_tools, probes, score
from nano3.rl.preferences import Pair
from nano3.rl.rollout import ChatTokenizer, rollouts
from nano3.stage import StageRun
from nano3.train.loop import Machine
from nano3.train.optimizer import apply_gradients, flat_gradients
from nano3.train.schedule import warmed_up


@dataclass(frozen=True)
class Task:
    """What the stage trains on. prompts: held-out RL rows on which tool calls and rewards are measured."""

    settings: Dpo
    seed: int
    train: Sequence[Pair]
    valid: Sequence[Pair]
    prompts: Sequence[dict[str, Any]]
    chat: ChatTokenizer
    reference: NemotronH
    stage: str = "rl/dpo"


def pair_losses(
    logprobs: Tensor, reference: Tensor, response: Tensor, pairs: int, *, beta: float, sft_weight: float, weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, margin and preference loss of every pair: float64 [pairs] each; the loss carries the gradient.

    logprobs, reference: [N] log-probabilities of response tokens by policy and reference, without padding
    response: int64 [N], 2 p for a token of pair p's chosen response, 2 p + 1 for one of its rejected response"""
    zeros = torch.zeros(2 * pairs, dtype=torch.float64, device=logprobs.device)
    sums = zeros.index_add(0, response, logprobs.double()).view(pairs, 2)
    gains = sums - zeros.index_add(0, response, reference.double()).view(pairs, 2)
    tokens = torch.bincount(response, minlength=2 * pairs).view(pairs, 2)[:, 0]
    margin = beta * (gains[:, 0] - gains[:, 1])
    preference = F.softplus(-margin)
    supervised = -sums[:, 0] / tokens.clamp(min=1)
    return weight * preference + sft_weight * supervised, margin.detach(), preference.detach()


def train(
    run: StageRun,
    task: Task,
    model: NemotronH,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    mirror: Any = None,
) -> Position:
    """Train to the last step, from the newest checkpoint if there is one; see `nano3.rl.loop.run_steps`."""
    if machine.world.size > 1:
        raise UserError(
            f"{task.stage} was started as {machine.world.size} processes, but the torch backend runs it in one.\n"
            "  Set execution.rl to one node and at most one GPU."
        )
    settings, gradients = task.settings, flat_gradients(optimizer)

    def step(at: Position, _logs: dict[str, JsonLines]) -> tuple[dict[str, Any], int]:
        size = settings.global_batch_size
        order = shuffled(range(len(task.train)), task.seed, "dpo", at.step * size, (at.step + 1) * size)
        chosen = [task.train[i] for i in order]
        measured = update(model, optimizer, gradients, chosen, task, at.step, machine)
        return measured, sum(pair.tokens for pair in chosen)

    plan = Plan(
        stage=task.stage,
        steps=settings.steps,
        interval=settings.validation.interval,
        step=step,
        validate=lambda at: validate(model, task, machine),
        best=settings.best,
    )
    return run_steps(run, plan, model, optimizer, machine, mirror)


def update(
    model: NemotronH,
    optimizer: torch.optim.Optimizer,
    gradients: Tensor,
    chosen: Sequence[Pair],
    task: Task,
    step: int,
    machine: Machine,
) -> dict[str, float]:
    """One update from a batch of pairs; returns its metrics."""
    settings = task.settings
    gradients.zero_()
    measured = batch_measures(model, chosen, task, machine, learn=True)
    rate = warmed_up(settings.learning_rate, settings.warmup_steps, step)
    bound = settings.optimizer.gradient_clip
    norm = apply_gradients(
        optimizer, gradients, largest=bound, rate=rate, stage=task.stage, step=step, loss=measured["loss"]
    )
    model.update_expert_bias(settings.bias_update_rate)
    tokens = sum(len(pair.chosen) + len(pair.rejected) for pair in chosen)
    return measured | {"lr": rate, "grad_norm": norm, "supervised_tokens": tokens}


def batch_measures(
    model: NemotronH, pairs: Sequence[Pair], task: Task, machine: Machine, *, learn: bool
) -> dict[str, float]:
    """Means over pairs of loss, preference_loss, margin, and accuracy: the share of pairs with a margin above 0.

    learn: add the gradient of the loss."""
    settings = task.settings
    totals = torch.zeros(4, dtype=torch.float64)
    for some in _micro_batches(pairs, machine.execution.micro_batch_tokens):
        prompts = [pair.prompt for pair in some for _ in range(2)]
        sides = [side for pair in some for side in (pair.chosen, pair.rejected)]
        with torch.set_grad_enabled(learn):
            current, response = _logprobs(model, prompts, sides, machine)
        with torch.no_grad():
            reference, _ = _logprobs(task.reference, prompts, sides, machine)
        losses, margin, preference = pair_losses(
            current,
            reference,
            response,
            len(some),
            beta=settings.beta,
            sft_weight=settings.sft_weight,
            weight=settings.preference_weight,
        )
        if learn:
            (losses.sum() / len(pairs)).backward()
        parts = (losses.detach(), preference, margin, (margin > 0).double())
        totals += torch.stack([part.sum() for part in parts]).cpu()
    names = ("loss", "preference_loss", "margin", "accuracy")
    return dict(zip(names, (totals / len(pairs)).tolist(), strict=True))


def _micro_batches(pairs: Sequence[Pair], tokens: int) -> list[list[Pair]]:
    """Pairs in order, each micro-batch of at most so many tokens but at least one pair: both sides stay together."""
    batches: list[list[Pair]] = []
    used = 0
    for pair in pairs:
        if not batches or used + pair.tokens > tokens:
            batches.append([])
            used = 0
        batches[-1].append(pair)
        used += pair.tokens
    return batches


def _logprobs(model: NemotronH, prompts: list, sides: list, machine: Machine) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all tokens, and the index of the side that each belongs to."""
    tokens = machine.execution.micro_batch_tokens
    found = list(
        response_logprobs(model, prompts, sides, micro_batch_tokens=tokens, arithmetic=machine.arithmetic, at_once=True)
    )
    return torch.cat([each.logprobs for each in found]), torch.cat([each.response for each in found])


def validate(model: NemotronH, task: Task, machine: Machine) -> dict[str, float]:
    """On held-out pairs the measures of a batch; on responses to held-out prompts, always sampled with the same seed,
    rewards and how often a tool is called that was not offered."""
    settings = task.settings.validation
    model.eval()
    found = batch_measures(model, task.valid, task, machine, learn=False) if task.valid else {}
    rows = probes(task.prompts, settings.prompts)
    with machine.arithmetic:
        rolled = rollouts(
            model,
            task.chat,
            rows,
            generations=settings.generations,
            max_new_tokens=task.settings.max_new_tokens,
            temperature=1.0,
            top_p=1.0,
            seed=derived_seed(task.seed, task.stage, "validation"),
            score=score,
            converse=converse,
        )
    model.train()
    return found | measures(rolled) | hallucinated_tools(rolled, settings.generations)
