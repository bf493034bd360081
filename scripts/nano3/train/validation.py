"""Validation: loss per token and bits per byte of held-out sequences, data set by data set."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from nano3.errors import UserError
from nano3.model.nemotron_h import NemotronH
from nano3.train.distributed import World
from nano3.train.loss import cross_entropies

# input_ids int64 [B, T], targets int64 [B, T], loss_mask float32 [B, T], and doc_ids [B, T] or None
Batch = dict[str, Tensor | None]


@dataclass(frozen=True)
class ValidationSet:
    """Held-out sequences of one data set. batch(first, count) gives `count` of them."""

    name: str
    sequences: int
    batch: Callable[[int, int], Batch]


def micro_batches(batch: Batch, tokens: int, device: str = "cpu") -> Iterator[Batch]:
    """Consecutive rows of a batch, at most `tokens` positions but at least one row at a time."""
    rows, length = batch["input_ids"].shape
    size = max(1, tokens // length)
    for first in range(0, rows, size):
        yield {
            name: value[first : first + size].to(device, non_blocking=True)
            for name, value in batch.items()
            if value is not None
        }


def evaluate(
    model: NemotronH,
    sets: list[ValidationSet],
    token_bytes: Tensor,
    *,
    micro_batch_tokens: int,
    arithmetic: AbstractContextManager,
    device: str = "cpu",
    world: World | None = None,
) -> dict[str, dict[str, float]]:
    """Measure -> data set -> value, with the measures

    loss: nats per supervised token
    bits_per_byte: bits per byte of the text that the supervised tokens stand for (`token_bytes` [V])
    bits_per_byte_margin: half of its 95% interval, over sequences
    bytes, sequences: how much it was measured on

    Leaves the model in training mode."""
    measures: dict[str, dict[str, float]] = {}
    model.eval()
    for data in sets:
        nats, tokens, text_bytes = _sums(
            model, data, token_bytes, micro_batch_tokens, arithmetic, device, world or World()
        )
        if not tokens.sum():
            raise UserError(f"the validation sequences of {data.name} have no token that counts")
        found = {"loss": (nats.sum() / tokens.sum()).item()}
        if text_bytes.sum():
            found |= bits_per_byte(nats, text_bytes)
        for measure, value in found.items():
            measures.setdefault(measure, {})[data.name] = value
    model.train()
    return measures


def bits_per_byte(nats: Tensor, text_bytes: Tensor) -> dict[str, float]:
    """Bits per byte and half of its 95% interval; nats and bytes are sums per sequence, float64 [n].

    The interval is that of a ratio of sums over independent sequences (delta method); without spread for n = 1."""
    n, total = len(nats), text_bytes.sum()
    bits = nats / math.log(2)
    ratio = bits.sum() / total
    spread = (bits - ratio * text_bytes).square().sum() * n / max(1, n - 1)
    return {
        "bits_per_byte": ratio.item(),
        "bits_per_byte_margin": (1.96 * spread.sqrt() / total).item(),
        "bytes": int(total),
        "sequences": n,
    }


@torch.no_grad()
def _sums(
    model: NemotronH,
    data: ValidationSet,
    token_bytes: Tensor,
    micro_batch_tokens: int,
    arithmetic: AbstractContextManager,
    device: str,
    world: World,
) -> Tensor:
    """Nats, supervised tokens and bytes of every sequence: float64 [3, n]."""
    sums = torch.zeros(3, data.sequences, dtype=torch.float64, device=device)
    token_bytes = token_bytes.to(device)
    row, count = world.share(data.sequences)
    if not count:
        return world.sum(sums)
    for part in micro_batches(data.batch(row, count), micro_batch_tokens, device):
        with arithmetic:
            hidden = model.hidden(part["input_ids"], doc_ids=part.get("doc_ids"))
            counted = part["loss_mask"] > 0
            losses = cross_entropies(hidden[counted], model.lm_head.weight, part["targets"][counted])
        nats = torch.zeros(counted.shape, dtype=torch.float64, device=device)
        nats[counted] = losses.double()
        rows = slice(row, row + len(nats))
        sums[0, rows] = nats.sum(-1)
        sums[1, rows] = counted.sum(-1).double()
        sums[2, rows] = (token_bytes[part["targets"]] * counted).sum(-1).double()
        row = rows.stop
    return world.sum(sums)


def bytes_of_tokens(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """Bytes of text that each token id stands for, int64 [vocab_size]; special tokens stand for none.

    Raises UserError for a tokenizer that isn't byte-level, whose tokens don't say how many bytes they are."""
    if "ByteLevel" not in repr(tokenizer.decoder):
        raise UserError(
            f"the tokenizer's decoder is {tokenizer.decoder!r}, but bits per byte need a byte-level tokenizer"
        )
    lengths = torch.zeros(vocab_size, dtype=torch.int64)
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        lengths[index] = len(token)  # byte-level alphabets write every byte as one character
    for index, token in tokenizer.get_added_tokens_decoder().items():
        lengths[index] = 0 if token.special else len(token.content.encode())
    return lengths
