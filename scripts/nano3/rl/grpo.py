"""GRPO as pure functions on tensors: group-relative advantages and the clipped surrogate (report, section 3.2).

Four log-probabilities of every sampled token appear; all are natural logarithms under the full softmax at
temperature 1:

    generator   by the program that sampled it, at the weights of that moment
    previous    by the trainer, at the same weights; differs from `generator` by rounding and kernels only
    current     by the trainer, at the weights being trained; the only one that carries a gradient
    reference   by the frozen policy that the KL penalty pulls towards

On-policy training makes one update per rollout, so there `previous` is `current` without its gradient.
Tensors of tokens have any common shape [...]; masked tokens may hold anything finite.
"""

from typing import Literal

import torch
from torch import Tensor

Correction = Literal["none", "plain", "masked"]


def advantages(rewards: Tensor, *, leave_one_out: bool, normalise_by_std: bool) -> Tensor:
    """How much better than its group each response did. rewards [groups, G] -> float64 [groups, G].

    leave_one_out: the baseline is the mean reward of the other G - 1 responses (RLOO, arXiv:2402.14740) rather
    than of all G. normalise_by_std: divide by the unbiased standard deviation of the whole group. NeMo-RL divides by
    that of the other responses; then a group's advantages don't sum to 0 (one success among eight gets 1, the
    failures -0.38 each), which pushes down whatever was sampled, and small policies drift apart. A group whose
    rewards are all equal has advantages of exactly 0."""
    rewards = rewards.double()
    size = rewards.shape[1]
    if size < 2:
        raise ValueError(f"a group needs at least 2 responses to compare, found {size}")
    advantage = rewards - rewards.mean(-1, keepdim=True)
    if leave_one_out:
        advantage = advantage * (size / (size - 1))  # r - mean of the others
    if normalise_by_std:
        advantage = advantage / rewards.std(-1, keepdim=True)
    # Equal rewards must give exactly 0, not what rounding leaves of it.
    uniform = rewards.amin(-1, keepdim=True) == rewards.amax(-1, keepdim=True)
    return torch.where(uniform, 0.0, advantage)


def importance_weights(
    previous: Tensor, generator: Tensor, correction: Correction, band: tuple[float, float] = (0.5, 2.0)
) -> Tensor:
    """Weight of every token for the mismatch between trainer and generator, without gradient.

    none: 1. plain: the ratio trainer / generator. masked: the ratio where it lies in `band` (ends included),
    0 outside, so that a token on which the two programs disagree takes no part in the loss."""
    if correction == "none":
        return torch.ones_like(previous)
    ratio = (previous.detach() - generator).exp()
    if correction == "plain":
        return ratio
    return torch.where((ratio >= band[0]) & (ratio <= band[1]), ratio, 0.0)


def k3(current: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(current || reference) on tokens sampled from current: never negative."""
    log_ratio = reference - current
    return log_ratio.exp() - log_ratio - 1


def clipped_surrogate(
    log_ratio: Tensor, advantage: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Tensor:
    """Loss of every token, to be minimised: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = exp(log_ratio).

    dual_clip c: the loss of a token with negative advantage is at most -c A, however large r is
    (arXiv:1912.09729)."""
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-advantage * ratio, -advantage * clipped)
    if dual_clip is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -advantage * dual_clip), loss)
    return loss


def policy_loss(
    current: Tensor,
    previous: Tensor,
    generator: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    normaliser: float,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    correction: Correction = "none",
    band: tuple[float, float] = (0.5, 2.0),
    reference: Tensor | None = None,
    kl_coefficient: float = 0.0,
) -> Tensor:
    """GRPO's loss of one micro-batch, a scalar. All tensors [...]; `advantage` is the response's, on every token.

    mask: 1 for a token of a response that counts, 0 for padding and for responses that `overlong` leaves out.
    normaliser: number of masked-in tokens of the *global* batch, so that micro-batches add up to the mean over
    its tokens. A token that `correction="masked"` leaves out still counts there.
    The KL term is weighted like the surrogate, which makes it an estimate at the current policy."""
    log_ratio = current - previous
    weights = importance_weights(previous, generator, correction, band)
    loss = weights * clipped_surrogate(
        log_ratio, advantage, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    if kl_coefficient:
        loss = loss + kl_coefficient * weights * log_ratio.detach().exp() * k3(current, reference)
    return loss.where(mask.bool(), 0.0).sum() / max(normaliser, 1.0)


def mismatch(previous: Tensor, generator: Tensor, mask: Tensor) -> tuple[float, float]:
    """Largest and mean absolute difference of trainer's and generator's log-probabilities over masked-in tokens."""
    difference = (previous.detach() - generator).abs()[mask.bool()]
    if not difference.numel():
        return 0.0, 0.0
    return difference.max().item(), difference.mean().item()


def outside(previous: Tensor, generator: Tensor, mask: Tensor, band: tuple[float, float]) -> int:
    """How many masked-in tokens have a ratio trainer / generator outside of `band`: what `masked` leaves out."""
    ratio = (previous.detach() - generator).exp()[mask.bool()]
    return int(((ratio < band[0]) | (ratio > band[1])).sum())
