"""Mixture of experts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano3.model.config import ModelConfig


class Router(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.k, self.scale = config.num_experts_per_tok, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, x: Tensor):
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        experts = (scores + self.e_score_correction_bias).topk(self.k, dim=-1, sorted=False).indices
        weights = scores.gather(1, experts)
        weights = self.scale * weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return scores, weights, experts


class Experts(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        shape = (config.n_routed_experts, config.moe_intermediate_size, config.hidden_size)
        self.up_proj = nn.Parameter(torch.empty(shape))
        self.down_proj = nn.Parameter(torch.empty(shape))

    def forward(self, x, weights, experts):
        y = torch.zeros_like(x)
        for e in range(self.up_proj.shape[0]):
            token, slot = torch.where(experts == e)
            h = F.relu(x[token] @ self.up_proj[e].T).square() @ self.down_proj[e]
            y = y.index_add(0, token, h * weights[token, slot, None])
        return y


class SharedExpert(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.moe_shared_expert_intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.moe_shared_expert_intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.relu(self.up_proj(x)).square())


class MoE(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = SharedExpert(config)
        self.register_buffer("counts", torch.zeros(config.n_routed_experts, dtype=torch.int64), persistent=False)
        self.scores = None

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        flat = x.flatten(0, 1)
        scores, weights, experts = self.gate(flat)
        if self.training and torch.is_grad_enabled():
            self.counts += torch.bincount(experts.flatten(), minlength=self.counts.shape[0])
            self.scores = scores.view(b, t, -1)
        return (self.experts(flat, weights, experts) + self.shared_experts(flat)).view_as(x)

    def balance_loss(self) -> Tensor:
        s, k = self.scores, self.gate.k
        e = s.shape[-1]
        chosen = torch.zeros_like(s).scatter_(-1, s.topk(k, -1).indices, 1.0).mean(1) * (e / k)
        share = (s / s.sum(-1, keepdim=True)).mean(1)
        return (chosen * share).sum(-1).mean()
