"""Grouped-query attention without positions (Nemotron 3 Nano report, section 2.1).

Order comes from the Mamba-2 layers, so queries and keys carry no rotary or other position code.

b rows, t tokens, D residual width, h query heads, k key/value heads, d head size, s keys seen so far.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano3.model.cache import AttentionState, Cache
from nano3.model.config import ModelConfig


class Attention(nn.Module):
    """Causal attention; each key/value head serves h/k query heads."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, state: AttentionState | None = None, cache: Cache | None = None
    ) -> Tensor:
        """x [b, t, D] -> [b, t, D].

        `mask` [b, 1, t, s], True where a query may look; None means plain causal attention.
        """
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.head_dim).transpose(1, 2)  # [b, h, t, d]
        k = self.k_proj(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)  # [b, k, t, d]
        v = self.v_proj(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        if state is not None:
            k, v = state.write(cache.length, k, v)  # [b, k, s, d]
        if mask is not None and x.is_cuda:
            # Of the kernels that never hold all scores, the one that takes a mask wants a key for every query head.
            k, v = (each.repeat_interleave(self.heads // self.kv_heads, 1) for each in (k, v))
        dtype = q.dtype
        if not x.is_cuda:  # a CPU's kernel is slower in bfloat16: its backward pass converts back and forth
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast(x.device.type, enabled=False):
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1).to(dtype))

    def step(self, x: Tensor, visible: Tensor, state: AttentionState, position: Tensor) -> Tensor:
        """One token per row, x [b, D] -> [b, D], at `position` [1] int64; `visible` as `visible_keys` gives it.

        All heads that share a key/value head take part in one matrix product.
        """
        b = x.shape[0]
        q = self.q_proj(x).view(b, self.kv_heads, -1, self.head_dim)  # [b, k, h/k, d]
        k = self.k_proj(x).view(b, self.kv_heads, 1, self.head_dim)
        v = self.v_proj(x).view(b, self.kv_heads, 1, self.head_dim)
        k, v = (each[:, :, : visible.shape[-1]] for each in state.write_one(position, k, v))  # [b, k, s, d]
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5  # [b, k, h/k, s]
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1, dtype=torch.float32).to(v.dtype)
        return self.o_proj((weights @ v).view(b, -1))


def visible_keys(cache: Cache) -> Tensor:
    """[b, 1, 1, s] bool, True where the token at `cache.position` may look: at itself and back to its start.

    Of the keys that were written. Compiled code looks at the whole capacity: a shape that stays."""
    count = cache.capacity if torch.compiler.is_compiling() else cache.length + 1
    key = torch.arange(count, device=cache.starts.device)
    return ((key <= cache.position) & (key >= cache.starts[:, None]))[:, None, None, :]


def attention_mask(doc_ids: Tensor | None, cache: Cache | None, t: int) -> Tensor | None:
    """[b, 1, t, s] bool, True where a query may look: same document, not later, not padding.

    None when plain causal attention is meant, which the fused kernels know without a mask.
    """
    if cache is None or cache.length == 0:
        if doc_ids is None:
            return None
        same = doc_ids[:, None, :, None] == doc_ids[:, None, None, :]
        return same.tril()
    if doc_ids is not None:
        raise ValueError("doc_ids only apply to the first tokens read into a cache")
    device = cache.starts.device
    key = torch.arange(cache.length + t, device=device)
    query = torch.arange(cache.length, cache.length + t, device=device)
    causal = key[None, :] <= query[:, None]  # [t, s]
    return causal & (key >= cache.starts[:, None])[:, None, None, :]
