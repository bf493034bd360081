"""Raw shards of chat and RL rows: which artifact belongs to which data set, and the rows in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nano3.artifacts.manifest import MANIFEST, NOT_PAYLOAD
from nano3.data.files import SUFFIXES, read_table
from nano3.errors import UserError


def artifact_directory(path: Path) -> Path:
    """The directory of an artifact that is given as directory or as its manifest."""
    return path.parent if path.name == MANIFEST else path


def by_dataset(paths: Iterable[str], known: Iterable[str]) -> dict[str, list[Path]]:
    """Raw artifacts by data set, in the order of `known`.

    A path is .../{dataset}/{group}, its manifest, or NAME=path for any other place. Raises UserError for a data set
    that is not known and for one without an artifact.
    """
    found: dict[str, list[Path]] = {name: [] for name in known}
    for argument in paths:
        name, separator, rest = str(argument).partition("=")
        directory = artifact_directory(Path(rest if separator else argument))
        name = name if separator else directory.resolve().parent.name
        if name not in found:
            raise UserError(
                f"--raw {argument} belongs to data set {name!r}, but the recipe's section uses "
                f"{', '.join(found)}. Shards outside .../DATASET/GROUP are given as NAME=path."
            )
        found[name].append(directory)
    missing = [name for name, directories in found.items() if not directories]
    if missing:
        raise UserError(f"no raw shards of {', '.join(missing)} were given; add them to --raw")
    return found


def read_rows(directories: list[Path], columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of all shards, in a fixed order; columns: all that is needed of a Parquet file (None: everything).

    Raises UserError for an artifact without shards and, with file and line, for a damaged row."""
    for directory in directories:
        shards = sorted(
            path for path in directory.rglob("*") if path.name.endswith(SUFFIXES) and path.name not in NOT_PAYLOAD
        )
        if not shards:
            raise UserError(f"{directory} holds no shard; expected files that end with {', '.join(SUFFIXES)}")
        for shard in shards:
            yield from read_table(shard, columns=columns, bad=None)


def row_id(row: dict[str, Any], number: int) -> str:
    """The row's `id`, or its number in the data set where it has none."""
    found = row.get("id")
    return f"row {number}" if found in (None, "") else str(found)
