"""Raw shards: the rows of one shard group as `shard_00000.jsonl.zst`, `shard_00001.jsonl.zst`, ..."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nano3.artifacts import read_manifest
from nano3.artifacts.manifest import MANIFEST
from nano3.data.jsonl import JsonlWriter, Row, read_jsonl
from nano3.errors import UserError

SHARD_BYTES = 256 << 20  # before compression


def write_shards(rows: Iterator[Row], directory: Path, *, shard_bytes: int = SHARD_BYTES) -> dict[str, int]:
    """Write rows into shards of about `shard_bytes`; returns the counts {"rows", "bytes", "shards"}."""
    counts = {"rows": 0, "bytes": 0, "shards": 0}
    rows = iter(rows)
    while first := next(rows, None):
        with JsonlWriter(directory / f"shard_{counts['shards']:05d}.jsonl.zst") as shard:
            shard.write(first)
            counts["rows"] += 1
            while shard.bytes < shard_bytes and (row := next(rows, None)) is not None:
                shard.write(row)
                counts["rows"] += 1
            counts["bytes"] += shard.bytes
        counts["shards"] += 1
    return counts


def read_shards(directory: Path) -> Iterator[Row]:
    """Rows of a raw artifact in order."""
    for shard in sorted(artifact_directory(directory).glob("shard_*.jsonl.zst")):
        yield from read_jsonl(shard)


def artifact_directory(path: Path | str) -> Path:
    """The directory of an artifact that is given as its directory or as its manifest."""
    path = Path(path)
    return path.parent if path.name == MANIFEST else path


def dataset_of(directory: Path) -> tuple[str, int]:
    """Data set and group that a raw or token artifact holds, as its manifest says."""
    manifest = read_manifest(directory)
    config: Any = manifest.config
    if manifest.kind not in ("raw", "tokens") or "dataset" not in config:
        raise UserError(f"{directory} is an artifact of kind {manifest.kind!r}; raw shards or tokens were expected")
    return config["dataset"], config["group"]


def text_of(row: Row) -> str:
    """All the natural text of a row of any form, for training a tokenizer."""
    if "text" in row:
        return row["text"]
    messages = row.get("messages") or row.get("responses_create_params", {}).get("input") or []
    if isinstance(messages, str):
        return messages
    parts = [message.get(key) for message in messages for key in ("reasoning_content", "content")]
    return "\n".join(part for part in parts if isinstance(part, str))
