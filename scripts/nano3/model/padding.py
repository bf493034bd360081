"""Batches of texts that are padded to their longest."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
LIKE_LENGTH = 1.5  # how many times as long as its shortest text a batch's longest may be,
SHORT_TEXT = 16  # and this many tokens more: small batches cost more than some padding


def of_like_length(items: Iterable[Item], length: Callable[[Item], int], tokens: int) -> Iterator[list[Item]]:
    """Batches of items of like length, shortest first, of at most `tokens` tokens with padding, but at least one item.
    Equal lengths stay in order."""
    batch: list[Item] = []
    for item in sorted(items, key=length):
        size = length(item)
        if batch and (size > LIKE_LENGTH * length(batch[0]) + SHORT_TEXT or size * (len(batch) + 1) > tokens):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
