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
    q = min(chunk_size, tokens)
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
    """What the forward pass leaves for the backward pass (layouts as computed, see `scan_forward`)."""

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    decay: Tensor  # L
    scores: Tensor  # G
    weighted: Tensor  # xw
    entering: Tensor  # C * enter
    leaving: Tensor  # B * leave
    starts: Tensor  # state at the beginning of every chunk
    enter: Tensor
    leave: Tensor
    carry: Tensor
    weight: Tensor
    row: Tensor


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
    bc, r, t = b * ((tokens + short) // q), h // g, tokens + short

    dt_h = dt.view(bc, q, h).transpose(1, 2)  # [bc, h, q]
    cs = (dt_h.double() * A.double()[:, None]).cumsum(-1)
    high = cs.float()
    row = (cs - high).float().exp_()  # exp(low)
    weight = dt_h / row
    enter = high.exp()
    leave = (cs[..., -1:] - cs).exp_().float().mul_(row)
    carry = cs[..., -1].exp().float()  # [bc, h]: decay over a whole chunk
    if bounds.enter is not None:
        enter = enter * bounds.enter
        leave = leave * bounds.leave
        carry = carry * bounds.enter[..., -1]
    carry = carry.view(b, -1, h, 1, 1)

    C_g = C.view(bc, q, g, n).transpose(1, 2).contiguous()  # [bc, g, q, n]
    B_g = B.view(bc, q, g, n).transpose(1, 2).contiguous()
    scores = torch.matmul(C_g, B_g.transpose(2, 3)).mul_(bounds.causal)  # G [bc, g, q, q]
    decay = torch.sub(high[..., :, None], high[..., None, :]).clamp_(max=0).exp_()  # L [bc, h, q, q]
    weighted = x.new_empty(bc, h, q, p)
    torch.mul(x.view(bc, q, h, p).transpose(1, 2), weight[..., None], out=weighted)
    leaving = (B_g[:, :, None] * leave.view(bc, g, r, q, 1)).view(bc * h, q, n)
    entering = (C_g[:, :, None] * enter.view(bc, g, r, q, 1)).view(bc * h, q, n)

    states = torch.bmm(weighted.view(bc * h, q, p).transpose(1, 2), leaving).view(b, -1, h, p, n)
    starts = torch.empty_like(states)
    state = initial if initial is not None else states.new_zeros(b, h, p, n)
    for i in range(states.shape[1]):
        starts[:, i] = state
        state = torch.addcmul(states[:, i], carry[:, i], state)

    attention = torch.mul(decay.view(bc, g, r, q, q), scores[:, :, None]).view(bc * h, q, q)
    inner = torch.bmm(entering, starts.view(bc * h, p, n).transpose(1, 2))
    inner = inner.baddbmm_(attention, weighted.view(bc * h, q, p)).view(bc, h, q, p)
    y = x.new_empty(b, t, h, p)
    torch.mul(inner.transpose(1, 2), row.transpose(1, 2)[..., None], out=y.view(bc, q, h, p))
    y.addcmul_(x, D[:, None])
    saved = Saved(
        x, dt_h, B_g, C_g, decay, scores, weighted, entering, leaving, starts, enter, leave, carry, weight, row
    )
    return y[:, :tokens], state, saved


def scan_backward(
    dy: Tensor, A: Tensor, D: Tensor, bounds: Boundaries, s: Saved, dx: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the scan from dy [b, t, h, p], the final state not being used.

    Writes the gradient of x into dx [b, t, h, p] and returns those of dt [b, t, h], A [h], B and C [b, t, g, n], D [h].
    """
    b, tokens, h, p = dy.shape
    bc, g, q, n = s.B.shape
    r, t = h // g, s.x.shape[1]
    if t > tokens:
        dy = F.pad(dy, (0, 0, 0, 0, 0, t - tokens))
    dinner = dy.new_empty(bc, h, q, p)
    torch.mul(dy.view(bc, q, h, p).transpose(1, 2), s.row[..., None], out=dinner)
    dinner, weighted = dinner.view(bc * h, q, p), s.weighted.view(bc * h, q, p)

    # within chunks: inner = (G * L) xw
    attention = torch.mul(s.decay.view(bc, g, r, q, q), s.scores[:, :, None]).view(bc * h, q, q)
    dweighted = torch.bmm(attention.transpose(1, 2), dinner)
    product = torch.bmm(dinner, weighted.transpose(1, 2), out=attention)
    product = product.mul_(s.decay.view(bc * h, q, q)).view(bc, g, r, q, q)
    dscores = product.sum(2).mul_(bounds.causal)
    dC = torch.matmul(dscores, s.B)  # [bc, g, q, n]
    dB = torch.matmul(dscores.transpose(2, 3), s.C)
    product.mul_(s.scores[:, :, None]).diagonal(dim1=-2, dim2=-1).zero_()  # dL * L; L_ii = 1 is no function of cs
    product = product.view(bc, h, q, q)
    dcs = product.sum(-1).sub_(product.sum(-2)).double()

    # between chunks: inner += (C enter) S_start, and S_end = carry S_start + xw^T (B leave)
    dentering = torch.bmm(dinner, s.starts.view(bc * h, p, n))  # [bc*h, q, n]
    dcs += (dentering * s.entering).sum(-1).view(bc, h, q)
    dC += dentering.view(bc, g, r, q, n).mul_(s.enter.view(bc, g, r, q, 1)).sum(2)
    dstarts = torch.bmm(dinner.transpose(1, 2), s.entering).view(b, -1, h, p, n)
    dends = torch.empty_like(dstarts)
    dstate = torch.zeros_like(dstarts[:, 0])
    for i in reversed(range(dstarts.shape[1])):
        dends[:, i] = dstate
        dstate = torch.addcmul(dstarts[:, i], s.carry[:, i], dstate)
    flat = dends.view(bc * h, p, n)
    dweighted.baddbmm_(s.leaving, flat.transpose(1, 2))
    dleaving = torch.bmm(weighted, flat)
    dleave = (dleaving * s.leaving).sum(-1).view(bc, h, q).double()
    dcs -= dleave
    dcs[..., -1] += dleave.sum(-1)
    dcs[..., -1] += (s.carry * (dends * s.starts).sum((-1, -2), keepdim=True)).view(bc, h)
    dB += dleaving.view(bc, g, r, q, n).mul_(s.leave.view(bc, g, r, q, 1)).sum(2)

    # decays and time steps
    dweighted = dweighted.view(bc, h, q, p).transpose(1, 2)  # [bc, q, h, p]
    dweight = (dweighted * s.x.view(bc, q, h, p)).sum(-1).transpose(1, 2)  # [bc, h, q]
    da = dcs.flip(-1).cumsum(-1).flip(-1)
    dA = (da * s.dt).sum((0, 2)).float()
    ddt = (da * A.double()[:, None]).float().add_(dweight / s.row)
    ddt = ddt.transpose(1, 2).reshape(b, t, h)[:, :tokens]

    if t == tokens:
        torch.mul(dweighted, s.weight.transpose(1, 2)[..., None], out=dx.view(bc, q, h, p))
    else:
        dx.copy_((dweighted * s.weight.transpose(1, 2)[..., None]).reshape(b, t, h, p)[:, :tokens])
    dx.addcmul_(dy[:, :tokens], D[:, None])
    dB, dC = (v.transpose(1, 2).reshape(b, t, g, n)[:, :tokens] for v in (dB, dC))
    return ddt, dA, dB, dC, (dy * s.x).sum((0, 1, 3))
