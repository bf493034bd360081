"""What a Nemotron-H model remembers of the tokens it has read, one entry per layer.

b rows, K conv taps, c conv channels, h Mamba heads, p channels per head, n state size,
k key/value heads, d attention head size, s capacity in tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from nano3.model.config import ATTENTION, MAMBA, ModelConfig
from nano3.model.moe import DecodingWeights

BLOCK = 128  # key/value capacity is a multiple of this: few shapes, so compiled code is compiled few times


def whole_blocks(tokens: int) -> int:
    """The capacity for so many tokens."""
    return -(-tokens // BLOCK) * BLOCK


class LayerState:
    """What a layer remembers of its rows."""

    rows: ClassVar[tuple[str, ...]]  # names of the tensors whose first axis is the rows

    def select(self, chosen: Tensor) -> None:
        """Keep only these rows (indices [r] int64), in this order."""
        for name in self.rows:
            setattr(self, name, getattr(self, name)[chosen])


@dataclass
class MambaState(LayerState):
    """State of one Mamba-2 layer: constant in the length of the text."""

    rows = ("conv", "ssm")
    conv: Tensor  # [b, K-1, c]: the last inputs of the convolution
    ssm: Tensor  # [b, h, p, n] float32
    taps: Tensor | None = None  # [K, c]: the convolution's weights in the order in which steps read them

    def push(self, inputs: Tensor) -> Tensor:
        """The window [b, K, c] that ends with the new inputs [b, c] of the convolution; kept for the next token."""
        window = torch.cat([self.conv, inputs[:, None]], 1)
        self.conv.copy_(window[:, 1:])
        return window


@dataclass
class AttentionState(LayerState):
    """Keys and values of one attention layer, preallocated to a capacity that doubles when it is full.

    What was not written yet is zero: it has no weight in attention, and zero times anything must be zero."""

    rows = ("keys", "values")
    keys: Tensor  # [b, k, s, d]
    values: Tensor  # [b, k, s, d]

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens in all."""
        if tokens > self.capacity:
            self.keys, self.values = (_grown(old, max(tokens, 2 * self.capacity)) for old in (self.keys, self.values))

    def write(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [b, k, t, d] at positions start.. and return all of them up to there."""
        stop = start + keys.shape[2]
        if torch.is_grad_enabled():  # not in place, so that gradients find the way back
            self.keys = torch.cat([self.keys[:, :, :start], keys], 2)
            self.values = torch.cat([self.values[:, :, :start], values], 2)
            return self.keys, self.values
        self.reserve(stop)
        self.keys[:, :, start:stop] = keys
        self.values[:, :, start:stop] = values
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def write_one(self, position: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [b, k, 1, d] of one token at `position` [1] int64 and return the whole capacity."""
        keys, values = keys.to(self.keys.dtype), values.to(self.values.dtype)  # under autocast they may differ
        return self.keys.index_copy_(2, position, keys), self.values.index_copy_(2, position, values)


@dataclass
class Cache:
    """The memory of a batch. `length` tokens were read so far; row i's text starts at `starts[i]`.

    Rows of unequal length are aligned on the right; what stands before a row's start is padding and
    is never attended to.
    """

    layers: list[MambaState | AttentionState | DecodingWeights | None]  # an MoE layer remembers nothing of the text
    starts: Tensor  # [b] int64
    length: int = 0
    position: Tensor = field(init=False)  # [1] int64: length again, for compiled code to read

    def __post_init__(self):
        self.position = torch.zeros(1, dtype=torch.int64, device=self.starts.device)

    @property
    def rows(self) -> int:
        return self.starts.shape[0]

    @property
    def capacity(self) -> int | None:
        """Tokens there is room for; None in a model without attention."""
        return next((layer.capacity for layer in self.layers if isinstance(layer, AttentionState)), None)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more tokens."""
        for layer in self.layers:
            if isinstance(layer, AttentionState):
                layer.reserve(self.length + tokens)

    def advance(self, tokens: int) -> None:
        """Count `tokens` more tokens as read."""
        self.length += tokens
        self.position.fill_(self.length)

    def select(self, rows: Tensor) -> None:
        """Keep only these rows (indices [r] int64), in this order."""
        self.starts = self.starts[rows]
        for layer in self.layers:
            if isinstance(layer, LayerState):
                layer.select(rows)


def empty_cache(
    config: ModelConfig, rows: int, capacity: int, *, starts: Tensor | None = None, dtype=torch.float32, device="cpu"
) -> Cache:
    """A cache of nothing for `rows` texts, with room for `capacity` tokens before it has to grow."""
    layers = []
    for letter in config.pattern:
        if letter == MAMBA:
            conv = torch.zeros(rows, config.conv_kernel - 1, config.mamba_conv_size, dtype=dtype, device=device)
            ssm = torch.zeros(rows, config.mamba_num_heads, config.mamba_head_dim, config.ssm_state_size, device=device)
            layers.append(MambaState(conv, ssm))
        elif letter == ATTENTION:
            shape = (rows, config.num_key_value_heads, whole_blocks(capacity), config.head_dim)
            keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
            layers.append(AttentionState(keys, values))
        else:
            layers.append(None)
    if starts is None:
        starts = torch.zeros(rows, dtype=torch.int64, device=device)
    return Cache(layers, starts)


def branch(cache: Cache, rows: Tensor) -> Cache:
    """A cache that goes on from these rows (indices [r] int64) of another one, which stays as it is."""
    layers = [replace(layer) if isinstance(layer, LayerState) else layer for layer in cache.layers]
    twin = Cache(layers, cache.starts)
    twin.advance(cache.length)
    twin.select(rows)
    return twin


def joined(caches: Sequence[Cache]) -> Cache:
    """One cache of all rows, in order: aligned on the right, without what stands before all of the texts."""
    if len(caches) == 1:
        return caches[0]
    cuts = [int(cache.starts.min()) for cache in caches]
    length = max(cache.length - cut for cache, cut in zip(caches, cuts, strict=True))
    layers: list[MambaState | AttentionState | DecodingWeights | None] = []
    for states in zip(*(cache.layers for cache in caches), strict=True):
        if isinstance(states[0], MambaState):
            layers.append(MambaState(*(torch.cat([getattr(s, name) for s in states]) for name in MambaState.rows)))
        elif isinstance(states[0], AttentionState):
            capacity = max(state.capacity - cut for state, cut in zip(states, cuts, strict=True))
            own = list(zip(caches, cuts, states, strict=True))
            layers.append(AttentionState(*(_aligned(own, name, length, capacity) for name in AttentionState.rows)))
        else:
            layers.append(None)
    cache = Cache(layers, torch.cat([cache.starts + (length - cache.length) for cache in caches]))
    cache.advance(length)
    return cache


def _aligned(own: list[tuple[Cache, int, AttentionState]], name: str, length: int, capacity: int) -> Tensor:
    """Keys or values of several caches, each from its cut on, so that all end at `length`."""
    first = getattr(own[0][2], name)
    rows, room = sum(cache.rows for cache, _, _ in own), whole_blocks(max(length, capacity))
    new, row = first.new_zeros(rows, first.shape[1], room, first.shape[3]), 0
    for cache, cut, state in own:
        written = getattr(state, name)[:, :, cut : cache.length]
        new[row : row + cache.rows, :, length - written.shape[2] : length] = written
        row += cache.rows
    return new


def _grown(old: Tensor, tokens: int) -> Tensor:
    b, k, s, d = old.shape
    new = old.new_zeros(b, k, whole_blocks(tokens), d)
    new[:, :, :s] = old
    return new
