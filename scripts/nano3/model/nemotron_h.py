"""Nemotron-H language model."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano3.model.attention import Attention, attention_mask
from nano3.model.cache import Cache
from nano3.model.config import ATTENTION, MAMBA, MOE, ModelConfig
from nano3.model.mamba2 import Mamba2
from nano3.model.moe import MoE

MIXERS = {MAMBA: Mamba2, MOE: MoE, ATTENTION: Attention}


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        v = x.float()
        v = v * torch.rsqrt(v.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight.float() * v).to(x.dtype)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, letter: str):
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = MIXERS[letter](config)


class NemotronH(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, letter) for letter in config.pattern)
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        std = self.config.initializer_range
        residual = std / math.sqrt(self.config.num_layers) if self.config.rescale_prenorm_residual else std
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2 or "conv1d" in name:
                continue
            into_residual = name.endswith(("out_proj.weight", "o_proj.weight", "down_proj", "down_proj.weight"))
            nn.init.normal_(parameter, std=residual if into_residual else std)
        for block in self.layers:
            if isinstance(block.mixer, Mamba2):
                block.mixer.reset_parameters()

    def forward(self, input_ids: Tensor, *, doc_ids: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        return F.linear(self.hidden(input_ids, doc_ids=doc_ids, cache=cache), self.lm_head.weight).float()

    def hidden(self, input_ids: Tensor, *, doc_ids: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        x = self.embeddings(input_ids)
        mask = attention_mask(doc_ids, cache, input_ids.shape[1])
        for i, block in enumerate(self.layers):
            state = cache.layers[i] if cache is not None else None
            u = block.norm(x)
            if isinstance(block.mixer, Mamba2):
                u = block.mixer(u, doc_ids, state)
            elif isinstance(block.mixer, Attention):
                u = block.mixer(u, mask, state, cache)
            else:
                u = block.mixer(u)
            x = x + u
        if cache is not None:
            cache.length += input_ids.shape[1]
        return self.norm_f(x)

    def _moe_layers(self) -> list[MoE]:
        return [block.mixer for block in self.layers if isinstance(block.mixer, MoE)]

    def expert_counts(self) -> Tensor:
        return torch.stack([moe.counts for moe in self._moe_layers()])

    @torch.no_grad()
    def update_expert_bias(self, rate: float) -> None:
        for moe in self._moe_layers():
            load = moe.counts.double()
            moe.gate.e_score_correction_bias += (rate * (load.mean() - load).sign()).float()
            moe.counts.zero_()

    def balance_loss(self) -> Tensor:
        return sum(moe.balance_loss() for moe in self._moe_layers())

    def freeze_router(self, frozen: bool = True) -> None:
        for moe in self._moe_layers():
            moe.gate.weight.requires_grad_(not frozen)
