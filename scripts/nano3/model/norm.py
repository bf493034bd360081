"""RMSNorm (Zhang and Sennrich 2019), plain and gated, with hand-written backward passes.

Passes over memory are what a small model on a CPU pays for; composed from single operations, autograd would make
twice as many and keep five tensors where two do. Everything is computed in float32.

D width, g groups of D/g channels, each with its own root mean square.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis; under autocast in its type, since matrix products come next."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if torch.is_grad_enabled():
            return _RMSNorm.apply(x, self.weight, self.eps, dtype)
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps).to(dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, dtype):
        full = x.float()
        scale = inverse_rms(full, eps)
        ctx.save_for_backward(x, weight, scale)
        return (full * scale).mul_(weight.float()).to(dtype)

    @staticmethod
    def backward(ctx, dy):
        x, weight, scale = ctx.saved_tensors
        full, dy = x.float(), dy.float()
        dx, dweight = rms_backward(dy, full, weight.float(), scale)
        return dx.to(x.dtype), dweight.to(weight.dtype), None, None


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last axis, which is kept."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def rms_backward(dy: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight for y = x * scale * weight; x [b, t, .., D], weight shaped like x's last axes."""
    normed = x * scale
    dweight = sum_tokens(dy * normed)
    dnormed = dy * weight
    along = torch.mul(dnormed, normed).mean(-1, keepdim=True)
    return dnormed.addcmul_(normed, along, value=-1).mul_(scale), dweight


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """RMSNorm of y * silu(z) within each of `groups` slices of the last axis: the norm comes after the gate.

    y and z [b, t, D] float32, both contiguous -> [b, t, D] and what `gated_norm_backward` needs.
    """
    gate = F.silu(z)
    gated = (y * gate).unflatten(-1, (groups, -1))
    scale = inverse_rms(gated, eps)
    out = (gated * scale).flatten(-2).mul_(weight)
    return out, (y, z, gate, gated, scale)


def gated_norm_backward(dout: Tensor, weight: Tensor, saved: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, z and weight."""
    y, z, gate, gated, scale = saved
    grouped = dout.view_as(gated)
    dgated, dweight = rms_backward(grouped, gated, weight.view(gated.shape[-2:]), scale)
    dgated = dgated.view_as(y)
    dz = torch.ops.aten.silu_backward(dgated * y, z)
    return dgated.mul_(gate), dz, dweight.flatten()


def sum_tokens(x: Tensor) -> Tensor:
    """Sum of [b, t, ..] over b and t. In two steps: one over a strided tensor is many times slower on a CPU."""
    return x.sum(1).sum(0)
