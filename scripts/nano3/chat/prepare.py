"""From chat rows to tokenised sequences: filter, augment, render, tokenise, and account for every row."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nano3.chat.reasoning import cut_traces, has_reasoning, is_chosen, without_reasoning
from nano3.chat.rows import (
    Chat,
    Dropped,
    assistant_text,
    is_used_in,
    read_chat,
    repeats_itself,
    word_pattern,
)
from nano3.chat.sequences import Chunk, chunks_of, training_turns
from nano3.chat.template import template_of
from nano3.data.tokenizer import load as load_tokenizer

BATCH_CHARACTERS = 4_000_000
SAMPLES_PER_REASON = 3


@dataclass
class Account:
    """What became of the rows of one data set. rows_used = rows_kept + the sum of rows_dropped."""

    rows: int = 0
    rows_used: int = 0
    rows_kept: int = 0
    rows_dropped: Counter[str] = field(default_factory=Counter)
    sequences_kept: int = 0
    sequences_dropped: Counter[str] = field(default_factory=Counter)
    rows_with_reasoning: int = 0
    rows_reasoning_off: int = 0
    turns_with_reasoning: int = 0
    turns_budget_cut: int = 0
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def drop(self, counts: Counter[str], dropped: Dropped, row_id: str) -> None:
        """Count a dropped row or sequence, and keep the first few of each reason."""
        counts[dropped.reason] += 1
        samples = self.samples.setdefault(dropped.reason, [])
        if len(samples) < SAMPLES_PER_REASON:
            samples.append({"id": row_id, "detail": dropped.detail[:200]})


class Spool:
    """Tokenised sequences in two flat files, so that the data may exceed the memory."""

    def __init__(self, directory: Path):
        self._paths = directory / "tokens", directory / "masks"
        self._files = [path.open("wb") for path in self._paths]
        self.lengths: list[int] = []

    def append(self, tokens: np.ndarray, mask: np.ndarray) -> int:
        """Store a sequence; returns its number."""
        self._files[0].write(tokens.tobytes())
        self._files[1].write(mask.tobytes())
        self.lengths.append(len(tokens))
        return len(self.lengths) - 1

    def close(self) -> None:
        """Stop writing; from now on sequences can be read."""
        for file in self._files:
            file.close()
        self._ends = np.cumsum(self.lengths, dtype=np.int64)
        if self.lengths:
            self._tokens = np.memmap(self._paths[0], np.int32, "r")
            self._masks = np.memmap(self._paths[1], np.uint8, "r")

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [n] and mask uint8 [n] of a sequence."""
        end = int(self._ends[index])
        part = slice(end - self.lengths[index], end)
        return self._tokens[part], self._masks[part]


@dataclass(frozen=True)
class Settings:
    """What preparing a row needs: the `sft.data` section with the seed, and what is read from it once."""

    config: dict[str, Any]
    tokenizer: Any
    template: str
    forbidden: re.Pattern[str] | None


def load_settings(config: dict[str, Any], tokenizer: Path) -> Settings:
    """Settings from the recipe's `sft.data` section (as a dict, with `seed`) and a tokenizer directory."""
    return Settings(config, load_tokenizer(tokenizer), template_of(tokenizer), word_pattern(config["forbidden_words"]))


def prepare_row(row: dict[str, Any], name: str, settings: Settings, account: Account) -> list[list[Chunk]]:
    """Training sequences of one row as text chunks; `name` is its unique name. Raises `Dropped`."""
    config, seed = settings.config, settings.config["seed"]
    if config["used_in"] and not is_used_in(row, config["used_in"]):
        raise Dropped("not_used_in", f"`used_in` is {row.get('used_in')!r}")
    chat = read_chat(row, name)
    _check_quality(chat, settings)
    messages = chat.messages
    if any(has_reasoning(message) for message in messages):
        account.rows_with_reasoning += 1
        if is_chosen(seed, "reasoning off", name, 0, config["reasoning_off"]):
            account.rows_reasoning_off += 1
            messages = without_reasoning(messages)
    sequences = []
    for turn_messages, first in training_turns(messages):
        budget = None
        if any(has_reasoning(message) for message in turn_messages[first:]):
            account.turns_with_reasoning += 1
            if is_chosen(seed, "budget", name, first, config["budget_truncation"]):
                cut = cut_traces(turn_messages, first, settings.tokenizer, seed, name)
                if cut:
                    account.turns_budget_cut += 1
                    turn_messages, budget = cut
        sequences.append(
            chunks_of((turn_messages, first), chat.tools, reasoning_budget=budget, template=settings.template)
        )
    return sequences


def _check_quality(chat: Chat, settings: Settings) -> None:
    for text in assistant_text(chat):
        if settings.forbidden and (found := settings.forbidden.search(text)):
            raise Dropped("forbidden_word", found[0])
        if repeated := repeats_itself(text, **settings.config["repetition"]):
            raise Dropped("repetition", repeated)


def tokenise(sequences: list[list[Chunk]], tokenizer: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens int32 [n] and mask uint8 [n] of each sequence, chunk by chunk and without any token added."""
    texts = [text for chunks in sequences for text, _ in chunks]
    encodings = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    for chunks in sequences:
        ids: list[int] = []
        mask = bytearray()
        for _, supervised in chunks:
            found = next(encodings).ids
            ids += found
            mask += (b"\1" if supervised else b"\0") * len(found)
        yield np.array(ids, np.int32), np.frombuffer(mask, np.uint8)


Prepared = tuple[int, str, list[list[Chunk]]]  # number of the row, its name, its sequences


def spool_rows(
    rows: Iterable[tuple[int, str, dict[str, Any]]], settings: Settings, spool: Spool, account: Account
) -> Iterator[tuple[int, int]]:
    """Prepare and tokenise rows, given with number and name; yields (number of the row, its sequence in the spool)."""
    for batch in _batches(_prepared(rows, settings, account)):
        tokens = tokenise([chunks for _, _, sequences in batch for chunks in sequences], settings.tokenizer)
        for number, name, sequences in batch:
            kept, reason = 0, "no_answered_turn"
            for ids, mask in itertools.islice(tokens, len(sequences)):
                try:
                    _check_sequence(ids, mask, settings.config["pack_length"])
                except Dropped as dropped:
                    account.drop(account.sequences_dropped, dropped, name)
                    reason = dropped.reason
                else:
                    kept += 1
                    yield number, spool.append(ids, mask)
            account.sequences_kept += kept
            if kept:
                account.rows_kept += 1
            else:
                account.rows_dropped[reason] += 1


def _prepared(
    rows: Iterable[tuple[int, str, dict[str, Any]]], settings: Settings, account: Account
) -> Iterator[Prepared]:
    for number, name, row in rows:
        account.rows_used += 1
        try:
            yield number, name, prepare_row(row, name, settings, account)
        except Dropped as dropped:
            account.drop(account.rows_dropped, dropped, name)


def _batches(prepared: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    """Groups of about BATCH_CHARACTERS of text: enough to keep the tokenizer's threads busy, small in memory."""
    batch: list[Prepared] = []
    characters = 0
    for item in prepared:
        batch.append(item)
        characters += sum(len(text) for chunks in item[2] for text, _ in chunks)
        if characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _check_sequence(ids: np.ndarray, mask: np.ndarray, pack_length: int) -> None:
    if len(ids) > pack_length:
        raise Dropped("longer_than_pack", f"{len(ids)} tokens, pack_length is {pack_length}")
    if not mask[1:].any():
        raise Dropped("nothing_supervised", f"{len(ids)} tokens, none of them the assistant's")
