"""The Mamba-2 mixer (Dao and Gu 2024, section 7; Nemotron-H report, section 2.1).

    z, xBC, dt = in_proj(u)                     one projection
    x, B, C = split(silu(conv(xBC)))            causal depthwise convolution over K tokens, with bias
    dt = softplus(dt + dt_bias), A = -exp(A_log)
    y = scan(x, dt, A, B, C) + D x              see scan.py; one recurrent step at a time when decoding
    out_proj(norm(y * silu(z)))                 RMSNorm per group, after the gate

The time step is not clamped. The scan and A_log, D, dt_bias are float32 whatever the weights are.

b rows, t tokens, h heads, p channels per head, g groups, n state size, K taps; d = h*p inner width,
c = d + 2*g*n convolved channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano3.model.cache import MambaState
from nano3.model.config import ModelConfig
from nano3.model.norm import gated_norm, gated_norm_backward, sum_tokens
from nano3.model.scan import Boundaries, scan_backward, scan_forward


class Mamba2(nn.Module):
    """Mixes along the sequence with a state of constant size."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        heads, channels = config.mamba_num_heads, config.mamba_conv_size
        self.in_proj = nn.Linear(config.hidden_size, config.mamba_projection_size, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels)  # holds the taps
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.norm = nn.Module()  # gated RMSNorm; a module so that its weight is called norm.weight
        self.norm.weight = nn.Parameter(torch.empty(config.mamba_inner_size))
        self.out_proj = nn.Linear(config.mamba_inner_size, config.hidden_size, bias=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Everything but the two projections: A = -U(1, 16), and dt log-uniform in [time_step_min, time_step_max]."""
        c = self.config
        bound = 1 / math.sqrt(c.conv_kernel)
        nn.init.uniform_(self.conv1d.weight, -bound, bound)
        nn.init.uniform_(self.conv1d.bias, -bound, bound)
        nn.init.uniform_(self.A_log, 1, 16)
        self.A_log.log_()
        nn.init.ones_(self.D)
        nn.init.ones_(self.norm.weight)
        nn.init.uniform_(self.dt_bias, math.log(c.time_step_min), math.log(c.time_step_max))
        dt = self.dt_bias.exp().clamp_(min=c.time_step_floor)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def forward(
        self, u: Tensor, bounds: Boundaries | None = None, state: MambaState | None = None, start: bool = True
    ) -> Tensor:
        """u [b, t, D] -> [b, t, D]. A `state` is read unless this is the `start` of the text, and updated."""
        projected = self.in_proj(u)
        conv, ssm = (state.conv, state.ssm) if state is not None and not start else (None, None)
        with torch.autocast(projected.device.type, enabled=False):
            y, conv, ssm = _Core.apply(
                projected, self.conv1d.weight, self.conv1d.bias, self.A_log, self.D, self.dt_bias, self.norm.weight,
                conv, ssm, self.config, bounds, state is not None,
            )  # fmt: skip
        if state is not None:
            state.conv, state.ssm = conv, ssm
        return self.out_proj(y)

    def step(self, u: Tensor, state: MambaState) -> Tensor:
        """One token per row, u [b, D] -> [b, D]: the recurrence itself."""
        c = self.config
        b, h, p, g, n = u.shape[0], c.mamba_num_heads, c.mamba_head_dim, c.n_groups, c.ssm_state_size
        z, xbc, dt = self.in_proj(u).split([c.mamba_inner_size, c.mamba_conv_size, h], dim=-1)
        taps = self.conv1d.weight.squeeze(1).T if state.taps is None else state.taps
        xbc = F.silu((state.push(xbc) * taps).sum(1) + self.conv1d.bias).float()
        x, B, C = xbc.split([h * p, g * n, g * n], dim=-1)
        x = x.view(b, h, p)
        B, C = (each.view(b, g, 1, n).expand(b, g, h // g, n).reshape(b, h, 1, n) for each in (B, C))

        dt = F.softplus(dt.float() + self.dt_bias.float())[..., None]  # [b, h, 1]
        decay = torch.exp(dt * -self.A_log.float().exp()[:, None])
        fed = dt * x
        # S_t C = decay (S_{t-1} C) + dt x (B . C): from the old state, so that the new one is only written. As sums: a
        # product of matrix and vector per head is slower.
        y = decay * (state.ssm * C).sum(-1) + fed * (B * C).sum(-1)
        state.ssm.mul_(decay[..., None]).addcmul_(fed[..., None], B)
        y = torch.addcmul(y, x, self.D.float()[:, None]).view(b, h * p)
        gated = (y * F.silu(z.float())).unflatten(-1, (g, -1))
        normed = F.rms_norm(gated, gated.shape[-1:], None, c.layer_norm_epsilon).flatten(-2) * self.norm.weight.float()
        return self.out_proj(normed.to(u.dtype))


class _Core(torch.autograd.Function):
    """Everything between the two projections, with one backward pass over preallocated gradients.

    before, initial: the state to begin with (None: zeros); `remember` asks for the state at the end."""

    @staticmethod
    def forward(ctx, projected, taps, bias, A_log, D, dt_bias, norm_weight, before, initial, config, bounds, remember):
        d, h, g, n = config.mamba_inner_size, config.mamba_num_heads, config.n_groups, config.ssm_state_size
        b, t, _ = projected.shape
        # contiguous parts: element-wise functions are several times slower on strided ones
        z, xbc, raw_dt = (part.float().contiguous() for part in projected.split([d, config.mamba_conv_size, h], -1))
        taps, bias = taps.float().squeeze(1).T.contiguous(), bias.float()  # [K, c]
        inputs = xbc if before is None else torch.cat([before.float(), xbc], 1)
        convolved = convolve(inputs, taps, bias, bounds.taps)[:, -t:].contiguous()
        active = F.silu(convolved)
        x, B, C = active.split([d, g * n, g * n], dim=-1)
        dt = F.softplus(raw_dt + dt_bias.float())
        A, D = -A_log.float().exp(), D.float()
        y, final, saved = scan_forward(
            x.view(b, t, h, -1), dt, A, B.view(b, t, g, n), C.view(b, t, g, n), D, bounds, initial
        )
        out, kept = gated_norm(y.flatten(2), z, norm_weight.float(), g, config.layer_norm_epsilon)
        if any(ctx.needs_input_grad):
            ctx.kept = inputs, convolved, dt, saved, kept, taps, A, D, norm_weight, bounds, config
            ctx.set_materialize_grads(False)
        if not remember:
            return out.to(projected.dtype), None, None
        return out.to(projected.dtype), last_inputs(inputs, bounds.taps, taps.shape[0] - 1).to(projected.dtype), final

    @staticmethod
    def backward(ctx, dout, dlast, dfinal):
        inputs, convolved, dt, saved, kept, taps, A, D, norm_weight, bounds, config = ctx.kept
        d, h, c = config.mamba_inner_size, config.mamba_num_heads, config.mamba_conv_size
        b, t, _ = convolved.shape
        dprojected = dt.new_empty(b, t, d + c + h, dtype=dout.dtype)
        dz, dxbc, draw_dt = dprojected.split([d, c, h], dim=-1)

        dy, dz_, dnorm_weight = gated_norm_backward(dout.float(), norm_weight.float(), kept)
        dz.copy_(dz_)
        dx, ddt, dA, dB, dC, dD, dinitial = scan_backward(dy.view(b, t, h, -1), A, D, bounds, saved, dfinal)
        dactive = torch.empty_like(convolved)
        for part, value in zip(dactive.split([d, (c - d) // 2, (c - d) // 2], -1), (dx, dB, dC), strict=True):
            part.copy_(value.flatten(2))
        dconvolved = torch.ops.aten.silu_backward(dactive, convolved)
        dinputs, dtaps = convolve_backward(dconvolved, inputs, taps, bounds.taps)
        if dlast is not None:
            last_inputs_backward(dlast, dinputs, bounds.taps)
        dxbc.copy_(dinputs[:, -t:])
        ddt.mul_(-torch.expm1(-dt))  # softplus'(x) = sigmoid(x) = 1 - exp(-softplus(x))
        draw_dt.copy_(ddt)
        dbefore, dinitial = (
            gradient if needed else None
            for gradient, needed in zip((dinputs[:, :-t], dinitial), ctx.needs_input_grad[7:9], strict=True)
        )
        return (
            dprojected, dtaps.T[:, None].contiguous(), sum_tokens(dconvolved), dA * A, dD, sum_tokens(ddt),
            dnorm_weight, dbefore, dinitial, None, None, None,
        )  # fmt: skip


def convolve(x: Tensor, taps: Tensor, bias: Tensor, same: list[Tensor] | None) -> Tensor:
    """Causal depthwise convolution: x [b, t, c], taps [K, c] (the last one is for the token itself) -> [b, t, c].

    `same[k-1]` [b, t, 1] is zero where the token k places back is of another document. As K shifted multiply-adds: an
    order of magnitude faster than conv1d on a CPU.
    """
    last = taps.shape[0] - 1
    y = torch.addcmul(bias, x, taps[last])
    for k in range(1, min(last, x.shape[1] - 1) + 1):
        earlier = x[:, :-k] if same is None else x[:, :-k] * same[k - 1][:, k:]
        y[:, k:].addcmul_(earlier, taps[last - k])
    return y


def convolve_backward(dy: Tensor, x: Tensor, taps: Tensor, same: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """Gradients of x [b, t, c] and of the taps [K, c]; dy is of the last tokens, the others' outputs were not used."""
    last = taps.shape[0] - 1
    if dy.shape[1] < x.shape[1]:
        dy = F.pad(dy, (0, 0, x.shape[1] - dy.shape[1], 0))
    dx = dy * taps[last]
    dtaps = torch.zeros_like(taps)
    dtaps[last] = sum_tokens(dy * x)
    for k in range(1, min(last, x.shape[1] - 1) + 1):
        later = dy[:, k:] if same is None else dy[:, k:] * same[k - 1][:, k:]
        dx[:, :-k].addcmul_(later, taps[last - k])
        dtaps[last - k] = sum_tokens(later * x[:, :-k])
    return dx, dtaps


def last_inputs(x: Tensor, same: list[Tensor] | None, count: int) -> Tensor:
    """The last `count` inputs of the convolution [b, count, c], zero where there are none or of an earlier document."""
    tail = x[:, -count:]
    if same is not None:
        tail = tail * _of_last_document(same, tail.shape[1])
    return F.pad(tail, (0, 0, count - tail.shape[1], 0))


def last_inputs_backward(dlast: Tensor, dx: Tensor, same: list[Tensor] | None) -> None:
    """Add the gradient of `last_inputs` to that of its x [b, t, c]."""
    count = min(dlast.shape[1], dx.shape[1])
    dlast = dlast[:, -count:]
    dx[:, -count:] += dlast if same is None else dlast * _of_last_document(same, count)


def _of_last_document(same: list[Tensor], count: int) -> Tensor:
    """[b, count, 1]: one where the last `count` tokens are of the document of the last one."""
    own = torch.ones_like(same[0][:, -count:])
    for back in range(1, count):  # the token `back` places before the last one
        own[:, count - 1 - back] = same[back - 1][:, -1]
    return own
