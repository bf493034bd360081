"""Mixture of experts with a sigmoid router and a shared expert (Nemotron 3 Nano report, sections 2.1 and 2.4).

    score = sigmoid(W_r x)                                       float32, one per expert
    chosen = top-k of (score + bias)                             the bias takes part in the choice only
    weight = 2.5 * score / sum of the chosen scores
    y = sum over chosen e of weight_e f_e(x)  +  f_shared(x)     f(x) = W_down relu(W_up x)^2

Load is balanced without touching the loss: after each step the bias of an expert that got more than its share of tokens
goes down by a fixed rate, that of the others up (DeepSeek-V3, section 2.1.2). A small balance loss per sequence comes
on top.

N tokens, D residual width, E experts, k experts per token, F expert width; S = N*k slots, a slot being one
token at one of its experts. Both expert matrices are stored [E, F, D], so that all experts together are one
[E*F, D] matrix.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano3.model.config import ModelConfig

# Below this many multiply-adds per expert (N * D * F), every expert sees every token in two large products:
# cheaper than sorting tokens and many small products. Measured on a CPU.
DENSE_BELOW = 1_000_000

# Experts get whole multiples of this many rows where a product of a new shape first has a kernel compiled for it.
ROWS_OF = {("cpu", torch.bfloat16): 32}


class Router(nn.Module):
    """Scores the experts for a token; float32 even under autocast."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.k, self.scale = config.num_experts_per_tok, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [N, D] -> scores [N, E], weights [N, k], experts [N, k] int64."""
        with torch.autocast(x.device.type, enabled=False):
            scores = F.linear(x.float(), self.weight.float()).sigmoid()
        experts = (scores.detach() + self.e_score_correction_bias).topk(self.k, dim=-1, sorted=False).indices
        weights = scores.gather(1, experts)
        weights = weights * (self.scale / (weights.sum(-1, keepdim=True) + 1e-20))
        return scores, weights, experts


class Experts(nn.Module):
    """All routed experts of a layer."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        shape = (config.n_routed_experts, config.moe_intermediate_size, config.hidden_size)
        self.up_proj = nn.Parameter(torch.empty(shape))  # [E, F, D]
        self.down_proj = nn.Parameter(torch.empty(shape))  # [E, F, D]: transposed against the usual [D, F]

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor, matrices: "DecodingWeights | None" = None) -> Tensor:
        """x [N, D], weights and experts [N, k] -> [N, D]. `matrices`: the own ones, as `MoE.decoding_weights` made
        them."""
        up, down = (matrices.up, matrices.down) if matrices is not None else (self.up_proj, self.down_proj)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, up, down = x.to(dtype), up.to(dtype), down.to(dtype)
        if not torch.is_grad_enabled() and x.shape[0] * up.shape[1] * up.shape[2] < DENSE_BELOW:
            return dense_experts(x, weights, experts, up, down)
        with torch.autocast(x.device.type, enabled=False):
            return _SortedExperts.apply(x, weights, experts, up, down)


def dense_experts(x: Tensor, weights: Tensor, experts: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Every expert on every token, weight zero where it was not chosen."""
    e, width, _ = up.shape
    hidden = F.linear(x, up.flatten(0, 1)).relu_().square_().view(-1, e, width)
    return hidden.mul_(gates(weights, experts, e).to(x.dtype)[..., None]).flatten(1) @ down.flatten(0, 1)


def gates(weights: Tensor, experts: Tensor, count: int) -> Tensor:
    """weights and experts [N, k] -> [N, count], zero for experts that were not chosen."""
    return weights.new_zeros(weights.shape[0], count).scatter_(1, experts, weights)


class _SortedExperts(torch.autograd.Function):
    """Slots sorted by expert, one pair of products per expert, and sums over a token's slots in a fixed order.

    Nothing is added by scatter, so results are the same bits on every run.
    """

    @staticmethod
    def forward(ctx, x, weights, experts, up, down):
        n, k = experts.shape
        chosen, order = experts.flatten().sort(stable=True)  # [S] slots (token * k + choice) by expert
        groups, row, rows = _groups(chosen, up)
        place = torch.empty_like(order)
        place[order] = row  # where a slot went
        place = place.view(n, k)
        token = _in_rows(order.div(k, rounding_mode="floor"), row, rows)
        gathered = x.index_select(0, token)  # [rows, D]
        hidden = _of_each(gathered, up.transpose(1, 2), groups)
        squared = hidden.relu_().square()
        out = _of_each(squared, down, groups)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(gathered, hidden, squared, out, weights, order, row, token, place, up, down)
            ctx.groups = groups
        return _sum_slots(out, place, weights)

    @staticmethod
    def backward(ctx, dy):
        gathered, hidden, squared, out, weights, order, row, token, place, up, down = ctx.saved_tensors
        n, k = weights.shape
        dout = dy.index_select(0, token)  # [rows, D]
        dweights = (out * dout).sum(-1, dtype=weights.dtype).index_select(0, place.flatten()).view(n, k)
        dout.mul_(_in_rows(weights.flatten().index_select(0, order), row, len(token))[:, None])
        ddown = _over_slots(squared, dout, ctx.groups)
        dhidden = _of_each(dout, down.transpose(1, 2), ctx.groups)
        dhidden.mul_(hidden)  # half the gradient of relu(.)^2; the products below double it
        dup = _over_slots(dhidden, gathered, ctx.groups, scale=2)
        dx = _of_each(dhidden, up, ctx.groups, scale=2)
        return _sum_slots(dx, place, None), dweights, None, dup, ddown


def can_group(up: Tensor) -> bool:
    """Whether one kernel can multiply all experts' slots, whatever their numbers: bfloat16 on a Hopper GPU or later."""
    whole = all(size * up.element_size() % 16 == 0 for size in up.shape[1:])
    return up.is_cuda and up.dtype == torch.bfloat16 and whole and torch.cuda.get_device_capability(up.device)[0] >= 9


def _groups(chosen: Tensor, up: Tensor) -> tuple[list[int] | Tensor, Tensor, int]:
    """How the slots are shared out, from their sorted experts [S]: the number of each expert's rows or, for products
    in one kernel, where each expert's rows end [E] int32 - which the GPU alone knows, so that nobody waits for it. Also
    the row of each sorted slot [S], and the number of rows; those of no slot stand for a token with weight zero."""
    experts, row = up.shape[0], torch.arange(len(chosen), device=chosen.device)
    if can_group(up):
        ends = torch.searchsorted(chosen, torch.arange(experts, device=row.device), right=True, out_int32=True)
        return ends, row, len(row)
    counts = torch.bincount(chosen, minlength=experts)
    multiple = ROWS_OF.get((up.device.type, up.dtype), 1)
    padding = -counts % multiple
    row += (padding.cumsum(0) - padding)[chosen]
    sizes = (counts + padding).tolist()
    return sizes, row, sum(sizes)


def _in_rows(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """What belongs to each sorted slot [S], by row; zero in the rows of no slot."""
    return values if rows == len(values) else values.new_zeros(rows).index_copy_(0, row, values)


def _of_each(a: Tensor, b: Tensor, groups: list[int] | Tensor, scale: int = 1) -> Tensor:
    """scale * each slot's row times its expert's matrix: a [S, m], b [E, m, n] -> [S, n]."""
    if isinstance(groups, Tensor):
        return F.grouped_mm(a if scale == 1 else a * scale, b, offs=groups)
    out = a.new_empty(a.shape[0], b.shape[2])
    for a_e, b_e, out_e in zip(a.split(groups), b.unbind(), out.split(groups), strict=True):
        _product(a_e, b_e, scale, out_e)
    return out


def _over_slots(a: Tensor, b: Tensor, groups: list[int] | Tensor, scale: int = 1) -> Tensor:
    """scale * the sum over each expert's slots of row times row: a [S, m], b [S, n] -> [E, m, n]."""
    if isinstance(groups, Tensor):
        return F.grouped_mm((a if scale == 1 else a * scale).T, b, offs=groups)
    out = a.new_empty(len(groups), a.shape[1], b.shape[1])
    for a_e, b_e, out_e in zip(a.split(groups), b.split(groups), out.unbind(), strict=True):
        _product(a_e.T, b_e, scale, out_e)
    return out


def _product(a: Tensor, b: Tensor, scale: int, out: Tensor) -> None:
    if scale == 1:
        torch.mm(a, b, out=out)
    else:
        torch.addmm(out, a, b, beta=0, alpha=scale, out=out)


def _sum_slots(values: Tensor, place: Tensor, weights: Tensor | None) -> Tensor:
    """Sum over each token's k slots of sorted values [S, D], optionally weighted [N, k] -> [N, D]."""
    total = None
    for choice in range(place.shape[1]):
        value = values.index_select(0, place[:, choice])
        if weights is None:
            total = value if total is None else total.add_(value)
        else:
            weight = weights[:, choice, None].to(values.dtype)
            total = value.mul_(weight) if total is None else total.addcmul_(value, weight)
    return total


class SharedExpert(nn.Module):
    """The expert that every token visits."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.moe_shared_expert_intermediate_size
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up_proj(x)
        return self.down_proj(_ReluSquared.apply(hidden) if torch.is_grad_enabled() else hidden.relu_().square_())


class _ReluSquared(torch.autograd.Function):
    """relu(x)^2, keeping one tensor for the backward pass."""

    @staticmethod
    def forward(ctx, x):
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx, dy):
        (positive,) = ctx.saved_tensors
        return (dy * positive).mul_(2)


@dataclass(frozen=True)
class DecodingWeights:
    """Matrices in the type of the products: those of all routed experts and, at the end, of the shared one, with
    W = E*F + the shared expert's width; or those of the routed experts alone."""

    up: Tensor  # [D, W], as few rows read it fastest, or [E, F, D]
    down: Tensor  # [W, D] or [E, F, D]

    @property
    def joined(self) -> bool:
        return self.up.ndim == 2


class MoE(nn.Module):
    """Routed experts plus the shared one."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = SharedExpert(config)
        self.register_buffer("counts", torch.zeros(config.n_routed_experts, dtype=torch.int64), persistent=False)
        self.scores: Tensor | None = None  # [b, t, E] of the last training forward, for the balance loss

    def __getstate__(self) -> dict:
        """Copies and pickles leave the last forward's graph behind."""
        return self.__dict__ | {"scores": None}

    def forward(self, x: Tensor, matrices: DecodingWeights | None = None, real: Tensor | None = None) -> Tensor:
        """x [.., D] -> [.., D]. real [..] bool: the tokens that count for the load, None for all."""
        flat = x.flatten(0, -2)
        scores, weights, experts = self.gate(flat)
        if self.training and torch.is_grad_enabled():
            counted = experts if real is None else experts[real.flatten()]
            self.counts += torch.bincount(counted.flatten(), minlength=self.counts.shape[0])
            self.scores = scores.view(*x.shape[:-1], -1)
        return (self.experts(flat, weights, experts, matrices) + self.shared_experts(flat)).view_as(x)

    def decoding_weights(self, rows: int) -> DecodingWeights | None:
        """What steps of `rows` tokens read: all experts as one, or where that many tokens are better sorted by expert,
        each in the type that autocast would otherwise give it in every step. None: the parameters as they are."""
        up, down = self.experts.up_proj, self.experts.down_proj
        shared, device = self.shared_experts, up.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else up.dtype
        if rows * up.numel() >= DENSE_BELOW * up.shape[0]:
            return None if dtype == up.dtype else DecodingWeights(up.to(dtype), down.to(dtype))
        all_up = torch.cat([up.flatten(0, 1), shared.up_proj.weight]).T
        all_down = torch.cat([down.flatten(0, 1), shared.down_proj.weight.T])
        return DecodingWeights(all_up.to(dtype).contiguous(), all_down.to(dtype))

    def step(self, x: Tensor, matrices: DecodingWeights | None) -> Tensor:
        """One token per row without gradient, x [N, D] -> [N, D]: where all experts are joined, two products for them
        and the shared one."""
        if matrices is None or not matrices.joined:
            return self(x, matrices)
        _, weights, experts = self.gate(x)
        count, width, _ = self.experts.up_proj.shape
        hidden = (x @ matrices.up).relu_().square_()
        routed = hidden[:, : count * width].view(-1, count, width)
        routed.mul_(gates(weights, experts, count).to(hidden.dtype)[..., None])
        return hidden @ matrices.down

    @torch.no_grad()
    def update_bias(self, rate: float) -> None:
        """Move each expert's bias by `rate` towards an even load, by the counts since the last update; reset them."""
        load = self.counts.double()
        self.gate.e_score_correction_bias.add_((load.mean() - load).sign().float(), alpha=rate)
        self.counts.zero_()

    def balance_loss(self) -> Tensor:
        """Balance loss per sequence, averaged over the rows of the last training forward (1 when perfectly even).

        DeepSeek-V3, equations 17-20: sum over experts of (share of top-k choices * E) * (mean normalised score).
        """
        if self.scores is None:
            raise RuntimeError("balance_loss() needs a forward pass in training mode first")
        scores, k = self.scores, self.gate.k
        chosen = torch.zeros_like(scores).scatter_(-1, scores.topk(k, dim=-1).indices, 1.0)
        share = chosen.mean(1) * (scores.shape[-1] / k)  # [b, E]
        likely = (scores / (scores.sum(-1, keepdim=True) + 1e-20)).mean(1)
        return (share * likely).sum(-1).mean()
