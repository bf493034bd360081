"""Nemotron-H: a stack of pre-norm residual layers, each with exactly one mixer.

    x = embeddings(ids);  x = x + mixer(norm(x)) per layer;  logits = lm_head(norm_f(x))

The mixer of a layer is Mamba-2 (M), a mixture of experts (E) or attention (*), as `config.pattern` says. There are
no position codes, no biases outside the convolution, no dropout, and the two embedding tables are not tied.

b rows, t tokens, D residual width, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from nano3.model.attention import Attention, visible_keys, what_is_seen
from nano3.model.cache import Cache
from nano3.model.config import ATTENTION, MAMBA, MOE, ModelConfig
from nano3.model.mamba2 import Mamba2
from nano3.model.moe import MoE
from nano3.model.norm import RMSNorm
from nano3.model.scan import find_boundaries

MIXERS = {MAMBA: Mamba2, MOE: MoE, ATTENTION: Attention}
FLOAT32 = ("A_log", ".D", "dt_bias", "gate.weight", "e_score_correction_bias")  # name endings; see `cast`


class NemotronH(nn.Module):
    """The language model. Fresh weights come from torch's global random generator."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, letter) for letter in config.pattern)
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if not self.lm_head.weight.is_meta:
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal weights; those that write into the residual stream are smaller by sqrt(number of layers)."""
        std = self.config.initializer_range
        residual = std / math.sqrt(self.config.num_layers) if self.config.rescale_prenorm_residual else std
        for name, parameter in self.named_parameters():
            if "norm" in name:
                nn.init.ones_(parameter)
            elif "out_proj" in name or "o_proj" in name or "down_proj" in name:
                nn.init.normal_(parameter, std=residual)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=std)
        for block in self.layers:
            if isinstance(block.mixer, Mamba2):
                block.mixer.reset_parameters()

    def forward(self, input_ids: Tensor, *, doc_ids: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """input_ids [b, t] int64 -> logits [b, t, V] float32. See `hidden`."""
        return self.lm_head(self.hidden(input_ids, doc_ids=doc_ids, cache=cache)).float()

    def hidden(
        self,
        input_ids: Tensor,
        *,
        doc_ids: Tensor | None = None,
        cache: Cache | None = None,
        only_last: bool = False,
        real: Tensor | None = None,
    ) -> Tensor:
        """Final normed states [b, t, D], for losses that do not need every logit.

        doc_ids [b, t] int, non-decreasing along a row: nothing crosses where they change, in any layer.
        `cache` continues the text it holds and is updated in place; doc_ids may only accompany its first tokens.
        Where gradients are wanted, they flow through what the cache holds.
        only_last: of the last token alone, [b, 1, D]; the layers after the last one that mixes tokens skip all others.
        real [b, t] bool: the tokens that count for the experts' load, None for all: padding would weigh like text.
        """
        t, c = input_ids.shape[1], self.config
        start = cache is None or cache.length == 0
        if t == 1 and not start and doc_ids is None and not torch.is_grad_enabled():
            cache.reserve(1)
            x = self.step(input_ids.squeeze(1), cache)[:, None]
            cache.advance(1)
            return x
        seen = what_is_seen(doc_ids, cache, t) if ATTENTION in c.pattern else None
        x = self.embeddings(input_ids)
        bounds = find_boundaries(doc_ids, t, c.chunk_size, c.conv_kernel, x.device)
        states = cache.layers if cache is not None else [None] * len(self.layers)
        mixing = max(c.pattern.rfind(MAMBA), c.pattern.rfind(ATTENTION))  # the last layer that looks at other tokens
        for i, (letter, block, state) in enumerate(zip(c.pattern, self.layers, states, strict=True)):
            if only_last and i == mixing + 1:
                x, real = x[:, -1:], None
            u = block.norm(x)
            if letter == MAMBA:
                u = block.mixer(u, bounds, state, start)
            elif letter == ATTENTION:
                u = block.mixer(u, seen, state, cache)
            else:
                u = block.mixer(u, real=real)
            x = x + u
        if cache is not None:
            cache.advance(t)
        return self.norm_f(x[:, -1:] if only_last else x)

    def step(self, token: Tensor, cache: Cache) -> Tensor:
        """One more token per row, [b] -> final normed state [b, D].

        Everything happens in tensors, so that it can be compiled: `cache` must have room, and is told with `advance`
        afterwards that it has read the token."""
        x = self.embeddings(token)
        visible = visible_keys(cache) if ATTENTION in self.config.pattern else None
        for letter, block, state in zip(self.config.pattern, self.layers, cache.layers, strict=True):
            u = block.norm(x)
            if letter == MAMBA:
                u = block.mixer.step(u, state)
            elif letter == ATTENTION:
                u = block.mixer.step(u, visible, state, cache.position)
            else:
                u = block.mixer.step(u, state)
            x = x + u
        return self.norm_f(x)

    def prepare_decoding(self, cache: Cache) -> None:
        """Put into the cache what makes its next steps cheaper, from the weights as they are now."""
        for i, block in enumerate(self.layers):
            if isinstance(block.mixer, MoE):
                cache.layers[i] = block.mixer.decoding_weights(cache.rows)
            elif isinstance(block.mixer, Mamba2):
                cache.layers[i].taps = block.mixer.conv1d.weight.squeeze(1).T.contiguous()

    def expert_counts(self) -> Tensor:
        """Tokens per expert in training forwards since the last `update_expert_bias`: [MoE layers, experts] int64."""
        return torch.stack([moe.counts for moe in self._moe_layers()])

    def update_expert_bias(self, rate: float) -> None:
        """Auxiliary-loss-free balancing: once per optimizer step, from the counts, which then start anew."""
        for moe in self._moe_layers():
            moe.update_bias(rate)

    def balance_loss(self) -> Tensor:
        """Sequence-level balance loss of the last training forward, summed over MoE layers, without coefficient."""
        return sum((moe.balance_loss() for moe in self._moe_layers()), start=self.lm_head.weight.new_zeros(()))

    def freeze_router(self, frozen: bool = True) -> None:
        """Stop (or resume) learning the routers' weights; their bias still follows the load."""
        for moe in self._moe_layers():
            moe.gate.weight.requires_grad_(not frozen)

    def _moe_layers(self) -> list[MoE]:
        return [block.mixer for block in self.layers if isinstance(block.mixer, MoE)]


class Block(nn.Module):
    """One layer: its pre-norm and its mixer."""

    def __init__(self, config: ModelConfig, letter: str):
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = MIXERS[letter](config)


def cast(model: NemotronH, dtype: torch.dtype) -> NemotronH:
    """Matrices and embeddings to `dtype`, in place; routers and A_log, D, dt_bias stay float32 (unlike `model.to`)."""
    for name, parameter in model.named_parameters():
        if not name.endswith(FLOAT32):
            parameter.data = parameter.data.to(dtype)
    return model
