"""Mamba-2 mixer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano3.model.cache import MambaState
from nano3.model.config import ModelConfig


class GatedNorm(nn.Module):
    def __init__(self, size: int, groups: int, eps: float):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        v = (y.float() * F.silu(z.float())).unflatten(-1, (self.groups, -1))
        v = v * torch.rsqrt(v.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * v.flatten(-2).to(z.dtype)


class Mamba2(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        heads, channels = config.mamba_num_heads, config.mamba_conv_size
        self.in_proj = nn.Linear(config.hidden_size, config.mamba_projection_size, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels)
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.norm = GatedNorm(config.mamba_inner_size, config.n_groups, config.layer_norm_epsilon)
        self.out_proj = nn.Linear(config.mamba_inner_size, config.hidden_size, bias=False)

    def reset_parameters(self) -> None:
        c = self.config
        nn.init.uniform_(self.A_log, 1, 16)
        self.A_log.log_()
        nn.init.ones_(self.D)
        nn.init.uniform_(self.dt_bias, math.log(c.time_step_min), math.log(c.time_step_max))
        dt = self.dt_bias.exp().clamp_(min=c.time_step_floor)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, u: Tensor, doc_ids: Tensor | None = None, state: MambaState | None = None) -> Tensor:
        c = self.config
        b, t, _ = u.shape
        z, xbc, dt = self.in_proj(u).split([c.mamba_inner_size, c.mamba_conv_size, c.mamba_num_heads], dim=-1)
        k = c.conv_kernel
        before = state.conv if state is not None else xbc.new_zeros(b, k - 1, xbc.shape[-1])
        window = torch.cat([before, xbc], 1)
        conv = self.conv1d.bias
        docs = doc_ids if doc_ids is not None else None
        for s in range(k):
            tap = window[:, k - 1 - s : k - 1 - s + t]
            if docs is not None and s:
                same = F.pad(docs[:, s:] == docs[:, :-s], (s, 0), value=False)
                tap = tap * same[..., None]
            conv = conv + tap * self.conv1d.weight[:, 0, k - 1 - s]
        if state is not None:
            last = window[:, t:]
            if docs is not None:
                last = last * F.pad(docs, (k - 1, 0), value=-1)[:, t:, None].eq(docs[:, -1:, None])
            state.conv = last
        conv = F.silu(conv)
        x, B, C = conv.split([c.mamba_inner_size, c.n_groups * c.ssm_state_size, c.n_groups * c.ssm_state_size], -1)
        dt = F.softplus(dt.float() + self.dt_bias.float())
        A = -self.A_log.float().exp()
        r = c.mamba_num_heads // c.n_groups
        x = x.float().view(b, t, c.mamba_num_heads, c.mamba_head_dim)
        B = B.float().view(b, t, c.n_groups, -1).repeat_interleave(r, 2)
        C = C.float().view(b, t, c.n_groups, -1).repeat_interleave(r, 2)
        y, final = scan(x, dt, A, B, C, c.chunk_size, doc_ids, state.ssm if state is not None else None)
        if state is not None:
            state.ssm = final
        y = y + x * self.D[:, None]
        return self.out_proj(self.norm(y.flatten(2), z))


def scan(x, dt, A, B, C, q, doc_ids, initial):
    b, t, h, p = x.shape
    if doc_ids is None:
        doc_ids = torch.zeros(b, t, dtype=torch.int64)
    state = initial if initial is not None else x.new_zeros(b, h, p, B.shape[-1])
    ys = []
    prev = doc_ids[:, :1]
    for i in range(0, t, q):
        s = slice(i, i + q)
        docs = doc_ids[:, s]
        a = (dt[:, s] * A).double().cumsum(1).transpose(1, 2)  # b h q
        same = (docs[:, :, None] == docs[:, None, :]).tril()[:, None]
        L = torch.exp((a[..., :, None] - a[..., None, :]).masked_fill(~same, -torch.inf)).float()
        G = torch.einsum("blhn,bshn->bhls", C[:, s], B[:, s])
        xw = x[:, s] * dt[:, s, :, None]
        y = torch.einsum("bhls,bshp->blhp", G * L, xw)
        into = (a.exp().float() * (docs == prev)[:, None]).transpose(1, 2)
        y = y + torch.einsum("blhn,bhpn->blhp", C[:, s] * into[..., None], state)
        prev = docs[:, -1:]
        out = L[:, :, -1].transpose(1, 2)
        state = state * into[:, -1, :, None, None] + torch.einsum("blhn,blhp->bhpn", B[:, s] * out[..., None], xw)
        ys.append(y)
    return torch.cat(ys, 1), state
