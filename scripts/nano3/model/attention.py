"""Grouped-query attention without positions (Nemotron 3 Nano report, section 2.1).

Order comes from the Mamba-2 layers, so queries and keys carry no rotary or other position code.

b rows, t tokens, D residual width, h query heads, k key/value heads, d head size, s keys seen so far.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano3.model.cache import AttentionState, Cache
from nano3.model.config import ModelConfig

MASKED_ROW = 256  # tokens of a row: up to there a mask is cheaper than documents one by one, measured on two CPU cores

# What queries look at: None for all tokens up to their own; the lengths of the documents [b*t tokens in all, row after
# row] that each see their own tokens up to it; or a mask [b, 1, t, s], True where a query may look.
Seen = Tensor | list[int] | None


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
        self, x: Tensor, seen: Seen = None, state: AttentionState | None = None, cache: Cache | None = None
    ) -> Tensor:
        """x [b, t, D] -> [b, t, D]; `seen` as `what_is_seen` gives it."""
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.head_dim).transpose(1, 2)  # [b, h, t, d]
        k = self.k_proj(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)  # [b, k, t, d]
        v = self.v_proj(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        if state is not None:
            k, v = state.write(cache.length, k, v)  # [b, k, s, d]
        if isinstance(seen, Tensor) and x.is_cuda:
            # Of the kernels that never hold all scores, the one that takes a mask wants a key for every query head.
            k, v = (each.repeat_interleave(self.heads // self.kv_heads, 1) for each in (k, v))
        dtype = q.dtype
        if not x.is_cuda:  # a CPU's kernel is slower in bfloat16: its backward pass converts back and forth
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast(x.device.type, enabled=False):
            y = attend(q, k, v, seen)
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


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Seen) -> Tensor:
    """q [b, h, t, d], k and v [b, k, s, d] -> [b, h, t, d]."""
    if not isinstance(seen, list):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None, enable_gqa=True)
    b, _, t, _ = q.shape
    documents = zip(*(each.transpose(1, 2).flatten(0, 1).split(seen) for each in (q, k, v)), strict=True)  # [n, h, d]
    parts = [attend(*(each.transpose(0, 1)[None] for each in document), None) for document in documents]
    return torch.cat(parts, 2).squeeze(0).unflatten(1, (b, t)).transpose(0, 1)


def what_is_seen(doc_ids: Tensor | None, cache: Cache | None, t: int) -> Seen:
    """For t tokens that may follow those in `cache`; doc_ids [b, t] only if none do.

    Documents of long rows on a CPU by their lengths, for with a mask they cost as much as if all saw all; otherwise as
    a mask, for each document has its price, too."""
    if cache is None or cache.length == 0:
        if doc_ids is None:
            return None
        if not doc_ids.is_cuda and t > MASKED_ROW:
            return lengths_of(doc_ids)
        same = doc_ids[:, None, :, None] == doc_ids[:, None, None, :]
        return same.tril()
    if doc_ids is not None:
        raise ValueError("doc_ids only apply to the first tokens read into a cache")
    device = cache.starts.device
    key = torch.arange(cache.length + t, device=device)
    query = torch.arange(cache.length, cache.length + t, device=device)
    causal = key[None, :] <= query[:, None]  # [t, s]
    return causal & (key >= cache.starts[:, None])[:, None, None, :]


def lengths_of(doc_ids: Tensor) -> list[int]:
    """Tokens of each document, row by row; doc_ids [b, t], non-decreasing along a row."""
    begins = torch.ones_like(doc_ids, dtype=torch.bool)
    begins[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    first = begins.flatten().nonzero().squeeze(1)
    return first.diff(append=first.new_tensor([doc_ids.numel()])).tolist()
