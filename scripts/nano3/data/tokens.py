"""From documents to token shards: held-out splits, exact duplicates, EOS, statistics.

A document's side is decided by a hash of its text alone, so the same document is on the same side in every group and
every data set, whatever else is there."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from nano3.data.indexed import IndexedWriter, token_dtype
from nano3.data.tokenizer import END_OF_TEXT, vocab_size
from nano3.errors import UserError
from nano3.recipe.data import HeldOut, Tokenisation

SPLITS = ("train", "valid", "test")
BATCH_BYTES = 4 << 20
BATCH_DOCUMENTS = 1000


@dataclass(frozen=True)
class Document:
    """A text and the first 8 bytes of its SHA-256 as a number."""

    text: str
    hash: int


@dataclass
class TokenStatistics:
    """Counts of one token artifact. documents, tokens (EOS included) and bytes (UTF-8, of what was kept) are per split;
    dropped and forced are documents by reason and by split."""

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: dict[str, int] = field(default_factory=lambda: {"duplicate": 0, "too short": 0})
    truncated: int = 0
    moved_to_held_out: dict[str, int] = field(default_factory=dict)


def side_of(hash: int, held_out: HeldOut) -> str:
    """The split of a document: the lowest hashes are valid, the next test, the rest train."""
    position = hash / 2**64
    if position < held_out.valid:
        return "valid"
    return "test" if position < held_out.valid + held_out.test else "train"


def text_hash(text: str) -> int:
    """First 8 bytes of the text's SHA-256 as a number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def tokenise(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    config: Tokenisation,
    directory: Path,
    *,
    guarantee_held_out: bool = True,
) -> TokenStatistics:
    """Write `train`, `valid` and `test` .bin/.idx into `directory`: one document per sequence, EOS after each.

    guarantee_held_out: if the hashes leave `valid` (then `test`) empty, the documents with the lowest hashes move there
    from train, as long as train keeps one. Memory is bounded but for the hashes of the documents seen."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise UserError(f"the tokenizer has no {END_OF_TEXT}, which must end every document")
    # A document that spells a control token must not become one: it could end the document in its middle. This is a
    # setting of the tokenizer object and stays on.
    tokenizer.encode_special_tokens = True
    dtype = token_dtype(vocab_size(tokenizer))
    statistics = TokenStatistics()
    with ExitStack() as stack:
        writers = {split: stack.enter_context(IndexedWriter(directory / split, dtype)) for split in SPLITS}
        documents = _distinct(texts, config.min_document_chars, statistics)
        placed = _place(documents, config.held_out, statistics, guarantee=guarantee_held_out)
        for batch in _batches(placed):
            encodings = tokenizer.encode_batch_fast([text for _, text in batch], add_special_tokens=False)
            for (split, text), encoding in zip(batch, encodings, strict=True):
                ids = encoding.ids
                size = len(text.encode())
                limit = config.max_document_tokens
                if limit is not None and len(ids) + 1 > limit:
                    statistics.truncated += 1
                    ids = ids[: limit - 1]
                    size = len(tokenizer.decode(ids, skip_special_tokens=False).encode())
                writers[split].add([*ids, end])
                statistics.documents[split] += 1
                statistics.tokens[split] += len(ids) + 1
                statistics.bytes[split] += size
    return statistics


def _distinct(texts: Iterable[str], min_chars: int, statistics: TokenStatistics) -> Iterator[Document]:
    seen: set[int] = set()
    for text in texts:
        if len(text) < min_chars:
            statistics.dropped["too short"] += 1
            continue
        hash = text_hash(text)
        if hash in seen:
            statistics.dropped["duplicate"] += 1
            continue
        seen.add(hash)
        yield Document(text, hash)


def _place(
    documents: Iterable[Document], held_out: HeldOut, statistics: TokenStatistics, *, guarantee: bool
) -> Iterator[tuple[str, str]]:
    """(split, text) of every document.

    The train documents with the lowest hashes are held back while a held-out split is empty, and given to it at the
    end; so one pass over a stream is enough."""
    lacking = [split for split in ("valid", "test") if guarantee and getattr(held_out, split) > 0]
    back: list[Document] = []
    trained = False
    for document in documents:
        split = side_of(document.hash, held_out)
        if split in lacking:
            lacking.remove(split)
        if split != "train":
            yield split, document.text
            continue
        back = sorted([*back, document], key=lambda held: held.hash)
        while len(back) > len(lacking):
            trained = True
            yield "train", back.pop().text
    if not trained and back:  # train comes first
        yield "train", back.pop().text
    for split in lacking:
        if back:
            statistics.moved_to_held_out[split] = 1
            yield split, back.pop(0).text
    for document in back:
        yield "train", document.text


def _batches(placed: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    size = 0
    for item in placed:
        batch.append(item)
        size += len(item[1])
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def empty_error(where: str, statistics: TokenStatistics) -> UserError:
    """The error for an artifact without a single document; says why they were dropped."""
    reasons: Any = ", ".join(f"{number} {reason}" for reason, number in statistics.dropped.items() if number)
    return UserError(f"{where}: no document is left to tokenise ({reasons or 'the raw shards are empty'})")
