"""Megatron's indexed dataset, `MMIDIDX` version 1: a `.bin` of token ids and an `.idx` that says where sequences lie.

`.idx`, little endian: magic (9 bytes), version (uint64), dtype code (uint8), number of sequences (uint64), number of
document boundaries (uint64); then lengths in tokens (int32 each), byte offsets into `.bin` (int64 each), and document
boundaries as sequence numbers (int64 each, the first is 0). Here every sequence is one document.

Written without torch, so that data jobs start fast; megatron-core's `IndexedDataset` reads it (a test)."""

import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from nano3.errors import UserError, to_make

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODES = {np.dtype(np.int32): 4, np.dtype(np.int64): 5, np.dtype(np.uint16): 8}
_HEADER = struct.Struct("<9sQBQQ")


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of Megatron's types that holds every id: uint16 up to 65,535 tokens, else int32."""
    return np.dtype(np.uint16 if vocab_size <= 65_535 else np.int32)


class IndexedWriter:
    """Writes `{prefix}.bin` and, on a clean exit, `{prefix}.idx`. Memory grows by 4 bytes a document."""

    def __init__(self, prefix: Path, dtype: np.dtype):
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype)
        self._lengths = array("i")
        self._bin = bin_path(self.prefix).open("wb", buffering=1 << 20)

    def add(self, ids: list[int] | np.ndarray) -> None:
        """Append one document: token ids [length]."""
        self._bin.write(np.asarray(ids, dtype=self.dtype).tobytes())
        self._lengths.append(len(ids))

    def __enter__(self) -> "IndexedWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bin.close()
        if kind is None:
            self._write_index()

    def _write_index(self) -> None:
        lengths = np.array(self._lengths, dtype=np.int32)
        ends = np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
        count = len(lengths)
        with index_path(self.prefix).open("wb") as file:
            file.write(_HEADER.pack(MAGIC, VERSION, DTYPE_CODES[self.dtype], count, count + 1))
            file.write(lengths.tobytes())
            file.write((ends - lengths.astype(np.int64) * self.dtype.itemsize).tobytes())
            file.write(np.arange(count + 1, dtype=np.int64).tobytes())


@dataclass(frozen=True)
class Indexed:
    """An indexed dataset, memory-mapped.

    tokens: all ids of the `.bin` in order [tokens]; lengths: tokens of each sequence [sequences]; offsets: number of
    each sequence's first token [sequences]."""

    tokens: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, sequence: int) -> np.ndarray:
        """Token ids of one sequence [length]."""
        start = int(self.offsets[sequence])
        return self.tokens[start : start + int(self.lengths[sequence])]


def read_indexed(prefix: Path | str) -> Indexed:
    """Open `{prefix}.bin` and `{prefix}.idx`. Raises UserError if one is missing or they don't fit together."""
    index, data = index_path(prefix), bin_path(prefix)
    for file in (index, data):
        if not file.is_file():
            raise UserError(f"{file} does not exist; make the tokens again:  {to_make(file.parent, force=True)}")
    raw = index.read_bytes()
    if len(raw) < _HEADER.size or raw[: len(MAGIC)] != MAGIC:
        raise UserError(f"{index} is not a Megatron index: it must begin with {MAGIC!r}, found {raw[:9]!r}")
    _, version, code, count, boundaries = _HEADER.unpack_from(raw)
    dtype = next((known for known, number in DTYPE_CODES.items() if number == code), None)
    expected = _HEADER.size + count * 12 + boundaries * 8
    if version != VERSION or dtype is None or len(raw) < expected:
        raise UserError(
            f"{index}: version {version}, dtype code {code}, {len(raw)} bytes; expected version {VERSION},"
            f" a code of {sorted(DTYPE_CODES.values())} and at least {expected} bytes"
        )
    lengths = np.frombuffer(raw, dtype=np.int32, count=count, offset=_HEADER.size)
    pointers = np.frombuffer(raw, dtype=np.int64, count=count, offset=_HEADER.size + count * 4)
    needed = int(lengths.sum(dtype=np.int64)) * dtype.itemsize
    if data.stat().st_size != needed:
        raise UserError(f"{data} has {data.stat().st_size} bytes, but {index} describes {needed}")
    tokens = np.memmap(data, dtype=dtype, mode="r") if needed else np.zeros(0, dtype)
    return Indexed(tokens, lengths, pointers // dtype.itemsize)


def bin_path(prefix: Path | str) -> Path:
    """Path of the token ids."""
    return Path(f"{prefix}.bin")


def index_path(prefix: Path | str) -> Path:
    """Path of the index."""
    return Path(f"{prefix}.idx")
