"""What a Nemotron-H model remembers of the tokens it has read, one entry per layer.

b rows, K conv taps, c conv channels, h Mamba heads, p channels per head, n state size,
k key/value heads, d attention head size, s capacity in tokens.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nano3.model.config import ATTENTION, MAMBA, ModelConfig

BLOCK = 128  # tokens by which key/value capacity grows beyond what was asked for


@dataclass
class MambaState:
    """State of one Mamba-2 layer: constant in the length of the text."""

    conv: Tensor  # [b, K-1, c]: the last inputs of the convolution
    ssm: Tensor  # [b, h, p, n] float32

    def select(self, rows: Tensor) -> None:
        self.conv = self.conv[rows]
        self.ssm = self.ssm[rows]


@dataclass
class AttentionState:
    """Keys and values of one attention layer, preallocated to a capacity that doubles when it is full."""

    keys: Tensor  # [b, k, s, d]
    values: Tensor  # [b, k, s, d]

    def write(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [b, k, t, d] at positions start.. and return all of them up to there."""
        stop = start + keys.shape[2]
        if stop > self.keys.shape[2]:
            self.keys, self.values = (_grown(old, max(stop, 2 * start)) for old in (self.keys, self.values))
        self.keys[:, :, start:stop] = keys
        self.values[:, :, start:stop] = values
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def select(self, rows: Tensor) -> None:
        self.keys = self.keys[rows]
        self.values = self.values[rows]


@dataclass
class Cache:
    """The memory of a batch. `length` tokens were read so far; row i's text starts at `starts[i]`.

    Rows of unequal length are aligned on the right; what stands before a row's start is padding and
    is never attended to.
    """

    layers: list[MambaState | AttentionState | None]  # None: an MoE layer remembers nothing
    starts: Tensor  # [b] int64
    length: int = 0
    padded: bool = field(init=False)  # False lets attention skip the mask

    def __post_init__(self):
        self.padded = bool((self.starts > 0).any())

    @property
    def rows(self) -> int:
        return self.starts.shape[0]

    def select(self, rows: Tensor) -> None:
        """Keep only these rows (indices [r] int64), in this order."""
        self.starts = self.starts[rows]
        self.padded = bool((self.starts > 0).any())
        for layer in self.layers:
            if layer is not None:
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
            shape = (rows, config.num_key_value_heads, capacity, config.head_dim)
            layers.append(
                AttentionState(
                    torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device)
                )
            )
        else:
            layers.append(None)
    if starts is None:
        starts = torch.zeros(rows, dtype=torch.int64, device=device)
    return Cache(layers, starts)


def _grown(old: Tensor, tokens: int) -> Tensor:
    b, k, s, d = old.shape
    new = old.new_empty(b, k, tokens + BLOCK, d)
    new[:, :, :s] = old
    return new
