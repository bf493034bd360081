"""From logits to tokens: one random number decides a token, and every text has its own stream of them.

r rows, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SUM_BLOCK = 512  # tokens whose probabilities a GPU sums at a time
DRAWN_AT_ONCE = 64  # numbers of one stream


class Draws:
    """Random numbers in [0, 1) of several streams. A stream is a function of the seed and of its number alone."""

    def __init__(self, seed: int, numbers: Sequence[int]):
        self._keys = [np.array([seed % 2**64, number], dtype=np.uint64) for number in numbers]
        self._drawn = np.zeros((len(numbers), DRAWN_AT_ONCE))

    def take(self, which: np.ndarray, places: np.ndarray) -> Tensor:
        """[r] float64: of the streams `which` [r], the numbers in these places [r]; of each stream in order."""
        for i, place in zip(which[places % DRAWN_AT_ONCE == 0], places[places % DRAWN_AT_ONCE == 0], strict=True):
            generator = np.random.Philox(key=self._keys[i], counter=int(place) // 4)  # a count gives four numbers
            self._drawn[i] = np.random.Generator(generator).random(DRAWN_AT_ONCE)
        return torch.from_numpy(self._drawn[which, places % DRAWN_AT_ONCE])


def choose(logits: Tensor, temperature: float, top_p: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Sample from logits [r, V]: the tokens [r] int64 and their log-probabilities under the model itself [r]."""
    own = logits.log_softmax(-1)
    chosen = sample(own, temperature, top_p, uniform)
    return chosen, own.gather(1, chosen[:, None]).squeeze(1)


def sample(logits: Tensor, temperature: float, top_p: float, uniform: Tensor) -> Tensor:
    """One token per row: logits or log-probabilities [b, V] float32, uniform [b] float64 in [0, 1) -> [b] int64.

    Inverts the cumulative distribution, so one random number decides a token. `top_p` keeps the smallest set of most
    likely tokens whose probability reaches it.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits if temperature == 1 else logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(running_sum(ordered, torch.float32) - ordered >= top_p, 0)
        return order.gather(1, _invert(ordered, uniform)[:, None]).squeeze(1)
    return _invert(probs, uniform)


def running_sum(probs: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums of probabilities [b, V] up to and including each place, in `dtype`.

    On a GPU as whole multiples of 2^-52, whose sums are the same bits in any order, and float64: torch vouches for no
    cumulative sum of floats there. And in blocks: torch 2.11 can't compile a long sum over few rows."""
    if probs.device.type == "cpu":
        return probs.cumsum(-1, dtype=dtype)
    whole = F.pad((probs.double() * 2**52).long(), (0, -probs.shape[-1] % SUM_BLOCK))
    within = whole.unflatten(-1, (-1, SUM_BLOCK)).cumsum(-1)  # [b, blocks, SUM_BLOCK]
    totals = within[..., -1]
    sums = within + (totals.cumsum(-1) - totals)[..., None]
    return sums.flatten(-2)[:, : probs.shape[-1]].double() * 2**-52


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    cumulative = running_sum(probs, torch.float64)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=probs.shape[-1] - 1)
