"""The state space duality (SSD) scan of Mamba-2, in chunks, with a hand-written backward pass.

Dao and Gu, "Transformers are SSMs" (2024), section 6. Per head, with a scalar decay per token,

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T          state  [p, n]
    y_t = S_t C_t + D x_t                               output [p]

Within a chunk this is a masked attention, y = (C B^T * L) (dt x); between chunks only S travels.

Symbols: b rows, t tokens, h heads, p channels per head, n state size, g groups of r = h/g heads that share B and C,
c chunks of q tokens, bc = b*c. Inside a chunk

    cs_i = sum_{k <= i} dt_k A_h          log of the decay since the chunk began (float64)
    L_ij = exp(cs_i - cs_j)               decay from token j to token i, for j <= i
    G_ij = C_i . B_j                      shared by the heads of a group; zero across documents and for j > i
    enter_i = exp(cs_i)                   from the chunk's beginning to token i
    leave_j = exp(cs_q - cs_j)            from token j to the chunk's end

Precision: cs may reach thousands while the difference of two neighbours matters to 1e-7. So cs = high + low, both
float32; differences of `high` are exact where they matter, and exp(low_i - low_j) splits into a factor per row and
one per column, which cost nothing extra because rows and columns are scaled anyway.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Boundaries:
    """Where information may flow in a batch of packed rows. Made once per forward pass, used by every Mamba layer."""

    chunk: int  # q
    causal: Tensor  # [q, q] or [bc, 1, q, q] float32: 1 where j <= i and both are of one document
    enter: Tensor | None  # [bc, 1, q] float32: 1 for tokens of the document in which the chunk began
    leave: Tensor | None  # [bc, 1, q] float32: 1 for tokens of the document in which the chunk ends
    taps: list[Tensor] | None  # for k = 1, 2, ..: [b, t, 1] float32: 1 where token t-k is of t's document


def find_boundaries(doc_ids: Tensor | None, tokens: int, chunk_size: int, conv_kernel: int, device) -> Boundaries:
    """doc_ids [b, t], non-decreasing along a row; None means that every row is one document."""
    q = -(-tokens // -(-tokens // chunk_size))  # chunks of equal length, so that the last one is not mostly padding
    causal = torch.ones(q, q, device=device).tril_()
    if doc_ids is None:
        return Boundaries(q, causal, None, None, None)
    taps = [
        F.pad(doc_ids[:, k:] == doc_ids[:, :-k], (k, 0), value=False)[..., None].float() for k in range(1, conv_kernel)
    ]
    short = -tokens % q
    if short:
        doc_ids = torch.cat([doc_ids, doc_ids[:, -1:].expand(-1, short)], 1)
    docs = doc_ids.reshape(doc_ids.shape[0], -1, q)  # [b, c, q]
    before = torch.cat([docs[:, :1, 0], docs[:, :-1, -1]], 1)  # [b, c]: document of the token before each chunk
    flat = docs.flatten(0, 1)
    return Boundaries(
        q,
        (flat[:, :, None] == flat[:, None, :]).float().mul_(causal)[:, None],
        (docs == before[:, :, None]).float().flatten(0, 1)[:, None],
        (docs == docs[:, :, -1:]).float().flatten(0, 1)[:, None],
        taps,
    )


@dataclass
class Saved:
    """What the forward pass leaves for the backward pass."""

    x: Tensor  # [bc, q, h, p]
    dt: Tensor  # [bc, h, q], as all scalars per token and head
    B: Tensor  # [bc*g, q, n]
    C: Tensor  # [bc*g, q, n]
    decay: Tensor  # L [bc, h, q, q]
    scores: Tensor  # G [bc, g, q, q]
    weighted: Tensor  # xw [bc*h, q, p]
    leaving: Tensor  # x dt leave [bc*g, q, r*p]
    starts: Tensor  # state at the beginning of every chunk [b, c, h, p, n]
    outer: Tensor  # C S [bc*g, q, r*p]
    row: Tensor
    enter: Tensor
    leave: Tensor
    carry: Tensor  # [b, c, h, 1, 1]


def scan_forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bounds: Boundaries, initial: Tensor | None = None
) -> tuple[Tensor, Tensor, Saved]:
    """The scan over whole rows, float32.

    x [b, t, h, p], dt [b, t, h] > 0, A [h] < 0, B and C [b, t, g, n], D [h], initial [b, h, p, n] (None: zero)
    -> y [b, t, h, p], final state [b, h, p, n], and what `scan_backward` needs.
    """
    (b, tokens, h, p), (g, n), q = x.shape, B.shape[2:], bounds.chunk
    short = -tokens % q
    if short:  # tokens of dt = 0 after the end change no state
        x, B, C = (F.pad(v, (0, 0, 0, 0, 0, short)) for v in (x, B, C))
        dt = F.pad(dt, (0, 0, 0, short))
    t, r = tokens + short, h // g
    bc = b * (t // q)
    x = x.view(bc, q, h, p)
    B, C = (v.view(bc, q, g, n).transpose(1, 2).reshape(bc * g, q, n) for v in (B, C))

    dt = dt.view(bc, q, h).transpose(1, 2)
    cs = running_sum(dt.double() * A.double()[:, None])
    high = cs.float()
    row = (cs - high).float().exp_()  # exp(low)
    enter = cs.exp().float()
    leave = (cs[..., -1:] - cs).exp_().float()
    if bounds.enter is not None:
        enter, leave = enter * bounds.enter, leave * bounds.leave
    carry = enter[..., -1].view(b, -1, h, 1, 1)  # decay over a whole chunk

    # between chunks
    leaving = by_group(x, dt * leave, g)
    states = torch.bmm(leaving.transpose(1, 2), B).view(b, -1, h, p, n)
    starts = torch.empty_like(states)
    state = initial if initial is not None else states.new_zeros(b, h, p, n)
    for i in range(states.shape[1]):
        starts[:, i] = state
        state = torch.addcmul(states[:, i], carry[:, i], state)
    outer = torch.bmm(C, starts.view(bc * g, r * p, n).transpose(1, 2))

    # within chunks
    scores = torch.bmm(C, B.transpose(1, 2)).view(bc, g, q, q).mul_(bounds.causal)
    decay = torch.sub(high[..., :, None], high[..., None, :]).clamp_(max=0).exp_()
    weighted = by_head(x, dt / row)
    attention = torch.mul(decay.view(bc, g, r, q, q), scores[:, :, None]).view(bc * h, q, q)
    inner = torch.bmm(attention, weighted)

    y = x * D[:, None]
    y.addcmul_(inner.view(bc, h, q, p).transpose(1, 2), per_token(row))
    y.unflatten(2, (g, r)).addcmul_(outer.view(bc, g, q, r, p).transpose(1, 2), per_token(enter).unflatten(2, (g, r)))
    saved = Saved(x, dt, B, C, decay, scores, weighted, leaving, starts, outer, row, enter, leave, carry)
    return y.view(b, t, h, p)[:, :tokens], state, saved


def scan_backward(
    dy: Tensor, A: Tensor, D: Tensor, bounds: Boundaries, s: Saved, dfinal: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the scan from dy [b, t, h, p] and dfinal [b, h, p, n] (None: the final state is not used).

    Returns those of x [b, t, h, p], dt [b, t, h], A [h], B and C [b, t, g, n], D [h], initial [b, h, p, n].
    """
    b, tokens, h, p = dy.shape
    bc, g, q, _ = s.scores.shape
    n, r, t = s.B.shape[-1], h // g, bc // b * q
    if t > tokens:
        dy = F.pad(dy, (0, 0, 0, 0, 0, t - tokens))
    dy = dy.view(bc, q, h, p)

    # within chunks: y += (G * L) xw
    dinner = by_head(dy, s.row)
    attention = torch.mul(s.decay.view(bc, g, r, q, q), s.scores[:, :, None]).view(bc * h, q, q)
    dweighted = torch.bmm(attention.transpose(1, 2), dinner)
    product = torch.bmm(dinner, s.weighted.transpose(1, 2), out=attention)
    product = product.view(bc, h, q, q).mul_(s.decay).view(bc, g, r, q, q)
    dscores = product.sum(2).mul_(bounds.causal).view(bc * g, q, q)
    product.mul_(s.scores[:, :, None]).diagonal(dim1=-2, dim2=-1).zero_()  # dL * L; L_ii = 1 is no function of cs
    product = product.view(bc, h, q, q)
    dcs = product.sum(-1).sub_(product.sum(-2)).double()

    # between chunks: y += enter (C S_start), and S_end = carry S_start + (x dt leave)^T B
    douter = by_group(dy, s.enter, g)
    dstarts = torch.bmm(douter.transpose(1, 2), s.C).view(b, -1, h, p, n)
    dends = torch.empty_like(dstarts)
    dstate = torch.zeros_like(dstarts[:, 0]) if dfinal is None else dfinal
    for i in reversed(range(dstarts.shape[1])):
        dends[:, i] = dstate
        dstate = torch.addcmul(dstarts[:, i], s.carry[:, i], dstate)
    dstates = dends.view(bc * g, r * p, n)
    dleaving = torch.bmm(s.B, dstates.transpose(1, 2))  # [bc*g, q, r*p]
    dC = torch.baddbmm(torch.bmm(dscores, s.B), douter, s.starts.view(bc * g, r * p, n))
    dB = torch.baddbmm(torch.bmm(dscores.transpose(1, 2), s.C), s.leaving, dstates)
    dcs += per_head(douter * s.outer, h, p)
    dleave = per_head(dleaving * s.leaving, h, p).double()
    dcs -= dleave
    dcs[..., -1] += dleave.sum(-1)
    dcs[..., -1] += (s.carry * (dends * s.starts).sum((-1, -2), keepdim=True)).view(bc, h)

    # dx / dt without the skip term, then what each factor gets
    dx = torch.empty_like(dy)
    dleaving, grouped = dleaving.view(bc, g, q, r, p).transpose(1, 2), (g, r)
    torch.mul(dleaving, per_token(s.leave).unflatten(2, grouped), out=dx.unflatten(2, grouped))
    dx.addcmul_(dweighted.view(bc, h, q, p).transpose(1, 2), per_token(s.row.reciprocal()))
    ddt = (dx * s.x).sum(-1)  # [bc, q, h]
    dx.mul_(per_token(s.dt)).addcmul_(dy, D[:, None])
    da = running_sum(dcs.flip(-1)).flip(-1)
    da.masked_fill_(s.dt * A[:, None] < -25, 0)  # nothing gets past such a token: what is left is rounding
    dA = (da * s.dt).sum((0, 2)).float()
    ddt += (da * A.double()[:, None]).float().transpose(1, 2)
    dD = (dy * s.x).sum(-1).sum((0, 1))
    dB, dC = (v.view(bc, g, q, n).transpose(1, 2).reshape(b, t, g, n)[:, :tokens] for v in (dB, dC))
    return dx.view(b, t, h, p)[:, :tokens], ddt.view(b, t, h)[:, :tokens], dA, dB, dC, dD, dstate


def running_sum(x: Tensor) -> Tensor:
    """Sums of x [.., q] float64 along its last axis, up to and including each place.

    On a GPU as a product with a triangle of ones: torch vouches for no cumulative sum of floats there."""
    if x.device.type == "cpu":
        return x.cumsum(-1)
    return x @ x.new_ones(x.shape[-1], x.shape[-1]).triu_()


def per_token(factor: Tensor) -> Tensor:
    """[bc, h, q] as a factor of [bc, q, h, p]: [bc, q, h, 1]."""
    return factor.transpose(1, 2)[..., None]


def by_head(x: Tensor, factor: Tensor) -> Tensor:
    """x [bc, q, h, p] times factor [bc, h, q], as one matrix per head [bc*h, q, p]."""
    bc, q, h, p = x.shape
    out = x.new_empty(bc, h, q, p)
    torch.mul(x.transpose(1, 2), factor[..., None], out=out)
    return out.view(bc * h, q, p)


def by_group(x: Tensor, factor: Tensor, g: int) -> Tensor:
    """x [bc, q, h, p] times factor [bc, h, q], as one matrix per group [bc*g, q, r*p]."""
    bc, q, h, p = x.shape
    out = x.new_empty(bc, g, q, h // g, p)
    grouped = (g, h // g)
    torch.mul(x.unflatten(2, grouped), per_token(factor).unflatten(2, grouped), out=out.transpose(1, 2))
    return out.view(bc * g, q, -1)


def per_head(x: Tensor, heads: int, channels: int) -> Tensor:
    """Sums of x [bc*g, q, r*p] over p: [bc, h, q]."""
    sums = x.unflatten(2, (-1, channels)).sum(-1)  # [bc*g, q, r]
    return sums.transpose(1, 2).reshape(-1, heads, x.shape[1])
