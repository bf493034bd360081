"""JSON lines that a resumed run continues where its checkpoint was written."""

import json
import os
from pathlib import Path
from typing import Any

from nano3.errors import UserError


class JsonLines:
    """A JSONL file to append to, cut back to its first `length` bytes when opened."""

    def __init__(self, path: Path, length: int = 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        if self._file.tell() < length:
            raise UserError(
                f"{path} has {self._file.tell()} bytes, but the checkpoint was written after {length}: it was cut.\n"
                f"  To train this stage again from its start:  rm -r {path.parent}"
            )
        self._file.truncate(length)
        self._file.seek(length)

    def write(self, row: dict[str, Any]) -> None:
        """Append one object."""
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def length(self) -> int:
        """Bytes so far, all of them on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
