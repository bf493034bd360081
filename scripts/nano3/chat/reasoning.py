"""Reasoning control in the training data (report, section 3.1): answers without reasoning, and cut reasoning.

Every decision hashes the seed with the row's id, so it depends neither on the order of the rows nor on what else is in
the blend.
"""

from __future__ import annotations

import hashlib
from typing import Any

Message = dict[str, Any]


def draw(seed: int, *name: object) -> float:
    """A number in [0, 1) that depends on the seed and the name alone."""
    digest = hashlib.blake2b(repr((seed, *name)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def has_reasoning(message: Message) -> bool:
    """Whether an assistant message carries a reasoning trace (in `reasoning_content`)."""
    reasoning = message.get("reasoning_content")
    return isinstance(reasoning, str) and bool(reasoning.strip())


def without_reasoning(messages: list[Message]) -> list[Message]:
    """The conversation with every reasoning trace removed."""
    return [{key: value for key, value in message.items() if key != "reasoning_content"} for message in messages]


def is_chosen(seed: int, purpose: str, row_id: str, turn: int, rate: float) -> bool:
    """Whether a row's turn belongs to the random share `rate` of all turns for this purpose."""
    return draw(seed, purpose, row_id, turn) < rate


def cut_traces(
    messages: list[Message], first: int, tokenizer: Any, seed: int, row_id: str
) -> tuple[list[Message], int] | None:
    """Cut the reasoning of the answers from `first` on at a random budget; the answers themselves stay as they are.

    The budget is uniform between 1 token and one less than the longest trace, so at least one trace is cut; shorter
    traces are within it and stay whole. Returns the messages and the budget in tokens; None
    where no trace has two tokens or nothing readable would be left.
    `tokenizer` is a `tokenizers.Tokenizer`.
    """
    traces = [i for i in range(first, len(messages)) if has_reasoning(messages[i])]
    encoded = {i: tokenizer.encode(messages[i]["reasoning_content"], add_special_tokens=False) for i in traces}
    longest = max((len(encoding.ids) for encoding in encoded.values()), default=0)
    if longest < 2:
        return None
    budget = 1 + int(draw(seed, "budget length", row_id, first) * (longest - 1))
    result = list(messages)
    for i, encoding in encoded.items():
        if len(encoding.ids) > budget:
            # The next token's start, so that a character of several tokens is kept whole or not at all.
            kept = messages[i]["reasoning_content"][: encoding.offsets[budget][0]]
            if not kept.strip():
                return None
            result[i] = {**messages[i], "reasoning_content": kept}
    return result, budget
