"""JSON lines: plain, `.gz` or `.zst`, read and written as a stream.

Compressed files are decompressed frame by frame, because the usual stream readers end quietly where a file was cut;
here that is an error."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from nano3.data.bad_rows import BadRows
from nano3.errors import UserError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst")
ZSTD_LEVEL = 3
_CHUNK = 1 << 20


def read_jsonl(path: Path, bad: BadRows | None = None) -> Iterator[Row]:
    """Rows of a JSON lines file, in order; blank lines are skipped.

    A line that is no JSON object is counted in `bad`, or, without it, a UserError that names file and line.
    A file that is missing, cut off or not compressed as its suffix says is always a UserError."""
    for number, line in enumerate(_lines(Path(path)), start=1):
        if not line.strip():
            continue
        problem = None
        try:
            row = json.loads(line)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            problem, detail = "not valid JSON", str(error)
        else:
            if isinstance(row, dict):
                yield row
                continue
            problem, detail = "not a JSON object", f"found {type(row).__name__}"
        if bad is None:
            raise UserError(
                f"{path}, line {number}: {problem} ({detail}).\n"
                f"  Every line must be one JSON object; the line begins {_start(line)!r}"
            )
        bad.count(problem, where=f"{path}, line {number}", sample=f"{detail}: {_start(line)!r}")


class JsonlWriter:
    """Writes rows to a JSON lines file; the suffix .gz or .zst compresses. Same rows, same bytes.

    A context manager: `with JsonlWriter(path) as out: out.write(row)`."""

    def __init__(self, path: Path):
        self.bytes = 0  # before compression
        self._file: BinaryIO = Path(path).open("wb")  # noqa: SIM115
        if path.suffix == ".zst":
            import zstandard

            self._stream: Any = zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_writer(self._file, closefd=False)
        elif path.suffix == ".gz":
            # Neither name nor time go into the header, so that equal rows give equal files.
            self._stream = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, mtime=0)
        else:
            self._stream = self._file

    def write(self, row: Row) -> None:
        """Append one row."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        self.bytes += len(line)
        self._stream.write(line)

    def __enter__(self) -> "JsonlWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._stream is not self._file:
                self._stream.close()
        finally:
            self._file.close()


def write_jsonl(path: Path, rows: Iterator[Row] | list[Row]) -> int:
    """Write rows to a file and return their number."""
    count = 0
    with JsonlWriter(path) as out:
        for row in rows:
            out.write(row)
            count += 1
    return count


def _start(line: bytes) -> str:
    return line[:80].decode(errors="replace")


def _lines(path: Path) -> Iterator[bytes]:
    pending: list[bytes] = []
    for chunk in _decompressed(path):
        head, newline, tail = chunk.partition(b"\n")
        pending.append(head)
        if not newline:
            continue
        yield b"".join(pending)
        *whole, last = tail.split(b"\n")
        yield from whole
        pending = [last]
    last = b"".join(pending)
    if last:
        yield last


def _decompressed(path: Path) -> Iterator[bytes]:
    """The file's content in chunks, decompressed as the suffix says."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".zst":
                yield from _frames(file, _zstd_frame, path)
            elif path.suffix == ".gz":
                yield from _frames(file, lambda: zlib.decompressobj(wbits=31), path)
            else:
                while chunk := file.read(_CHUNK):
                    yield chunk
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Make or fetch it, or mend the path in the recipe.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; a JSON lines file was expected") from None


def _zstd_frame() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


def _frames(file: BinaryIO, new_frame: Any, path: Path) -> Iterator[bytes]:
    """Decompress a file of one or more concatenated frames; a frame without its end is an error."""
    frame, fed = new_frame(), False
    try:
        while chunk := file.read(_CHUNK):
            while chunk:
                fed = True
                yield frame.decompress(chunk)
                chunk = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame, fed = new_frame(), False
    except Exception as error:
        if not _is_corruption(error):
            raise
        raise UserError(f"{path} is damaged or not a {path.suffix} file ({error}). Fetch or make it again.") from None
    if fed:
        raise UserError(f"{path} is cut off: its compressed stream has no end. Fetch or make the file again.")


def _is_corruption(error: Exception) -> bool:
    return isinstance(error, zlib.error) or type(error).__name__ == "ZstdError"
