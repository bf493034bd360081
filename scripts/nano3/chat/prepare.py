"""From chat rows to tokenised sequences: filter, augment, render, tokenise, and account for every row."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
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

BATCH_ROWS = 256
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

    def add(self, other: Account) -> None:
        """Take over the counts of a batch, and its samples where there is room."""
        for key, value in vars(other).items():
            if key != "samples":
                setattr(self, key, getattr(self, key) + value)
        for reason, found in other.samples.items():
            samples = self.samples.setdefault(reason, [])
            samples += found[: SAMPLES_PER_REASON - len(samples)]


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
    chat = read_chat(row, name, undefined_tools=config["undefined_tools"])
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
    if not sequences:
        raise Dropped("no_answered_turn", "no assistant message follows a user message")
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


NamedRow = tuple[int, str, dict[str, Any]]  # number in its data set, unique name, the row


@dataclass
class Prepared:
    """A batch of rows, done: (number of the row, tokens int32 [n], mask uint8 [n]) per sequence, and the account."""

    sequences: list[tuple[int, np.ndarray, np.ndarray]]
    account: Account


def prepare_rows(rows: list[NamedRow], settings: Settings) -> Prepared:
    """Prepare and tokenise a batch of rows."""
    account = Account(rows_used=len(rows))
    chunked: list[tuple[int, str, list[list[Chunk]]]] = []
    for number, name, row in rows:
        try:
            chunked.append((number, name, prepare_row(row, name, settings, account)))
        except Dropped as dropped:
            account.drop(account.rows_dropped, dropped, name)
    tokens = tokenise([chunks for _, _, sequences in chunked for chunks in sequences], settings.tokenizer)
    kept: list[tuple[int, np.ndarray, np.ndarray]] = []
    for number, name, sequences in chunked:
        before, reason = len(kept), ""
        for ids, mask in itertools.islice(tokens, len(sequences)):
            try:
                _check_sequence(ids, mask, settings.config["pack_length"])
                kept.append((number, ids, mask))
            except Dropped as dropped:
                account.drop(account.sequences_dropped, dropped, name)
                reason = dropped.reason
        if len(kept) > before:
            account.rows_kept += 1
        else:
            account.rows_dropped[reason] += 1
    account.sequences_kept = len(kept)
    return Prepared(kept, account)


@contextmanager
def preparer(
    config: dict[str, Any], tokenizer: Path, workers: int
) -> Iterator[Callable[[Iterable[NamedRow]], Iterator[Prepared]]]:
    """A function that prepares rows in batches, in order, here or in `workers` processes; the result is the same."""
    if workers == 1:
        settings = load_settings(config, tokenizer)
        yield lambda rows: (prepare_rows(batch, settings) for batch in _batches(rows))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (config, tokenizer)) as pool:
        yield lambda rows: _in_order(pool, _batches(rows), ahead=2 * workers)


def _in_order(pool: ProcessPoolExecutor, batches: Iterable[list[NamedRow]], ahead: int) -> Iterator[Prepared]:
    """Results in the order of the batches; only a few batches are read ahead of what the caller took."""
    pending: deque[Future[Prepared]] = deque()
    for batch in batches:
        pending.append(pool.submit(_work, batch))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _batches(rows: Iterable[NamedRow]) -> Iterator[list[NamedRow]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield batch


def _start_worker(config: dict[str, Any], tokenizer: Path) -> None:
    global _worker_settings
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker_settings = load_settings(config, tokenizer)


def _work(batch: list[NamedRow]) -> Prepared:
    return prepare_rows(batch, _worker_settings)


def _check_sequence(ids: np.ndarray, mask: np.ndarray, pack_length: int) -> None:
    if len(ids) > pack_length:
        raise Dropped("longer_than_pack", f"{len(ids)} tokens, pack_length is {pack_length}")
    if not mask[1:].any():
        raise Dropped("nothing_supervised", f"{len(ids)} tokens, none of them the assistant's")
