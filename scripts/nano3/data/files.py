"""Tables on disk, JSON lines or Parquet: which files a shard group reads, and their rows."""

import glob
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano3.data import jsonl
from nano3.data.bad_rows import BadRows
from nano3.errors import UserError

Row = dict[str, Any]
SUFFIXES = (*jsonl.SUFFIXES, ".parquet")
_PARQUET_BATCH = 1000


@dataclass(frozen=True)
class SourceFile:
    """A file of a data set: its name (a path or a path in a repository) and size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Share:
    """The rows of one file that one group reads: those below `limit` whose number in the data set is `group` modulo
    `groups`. `first` is the number in the data set of the file's first row; None: take all rows below `limit`."""

    file: SourceFile
    limit: int | None = None


@dataclass(frozen=True)
class Plan:
    """What one group reads: its files with row limits, and whether rows are dealt out by number.

    by_row: there are fewer files than groups, so every group reads every file and keeps each `groups`-th row."""

    shares: list[Share]
    by_row: bool


def plan(files: list[SourceFile], *, groups: int, group: int, max_rows: int | None = None) -> Plan:
    """Divide files among groups, balanced by size: the largest first, each to the group that has least so far.

    max_rows is spread evenly over the files before they are divided, so all groups together respect it."""
    ordered = sorted(files, key=lambda file: (-file.size, file.name))
    limits = {
        file.name: None if max_rows is None else quota(max_rows, len(ordered), i)
        for i, file in enumerate(sorted(ordered, key=lambda file: file.name))
    }
    if len(ordered) < groups:
        chosen = ordered
    else:
        loads = [(0, index) for index in range(groups)]
        chosen = []
        for file in ordered:
            load, lightest = heapq.heappop(loads)
            if lightest == group:
                chosen.append(file)
            heapq.heappush(loads, (load + file.size, lightest))
    chosen = sorted(chosen, key=lambda file: file.name)
    shares = [Share(file, limits[file.name]) for file in chosen if limits[file.name] != 0]
    return Plan(shares, by_row=len(ordered) < groups)


def quota(total: int, parts: int, index: int) -> int:
    """Share number `index` of `total` divided into `parts` whole numbers that add up to it."""
    return total * (index + 1) // parts - total * index // parts


def find_files(patterns: list[str]) -> list[SourceFile]:
    """The files that paths and glob patterns name, sorted. UserError for a pattern that matches nothing."""
    found: dict[str, SourceFile] = {}
    for pattern in patterns:
        matches = [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]
        if not matches:
            raise UserError(
                f"no file matches {pattern!r} (looked in {Path.cwd()}).\n"
                "  Paths in a recipe are relative to the repository; `**` matches folders of any depth."
            )
        for match in matches:
            check_suffix(match)
            found[match] = SourceFile(match, Path(match).stat().st_size)
    return [found[name] for name in sorted(found)]


def check_suffix(name: str) -> None:
    """UserError if a file is neither JSON lines nor Parquet by its name."""
    if not name.endswith(SUFFIXES):
        raise UserError(f"{name}: can't tell its format from its name; expected one of {', '.join(SUFFIXES)}")


def read_table(path: Path, *, columns: list[str] | None, bad: BadRows) -> Iterator[Row]:
    """Rows of one file, streamed. columns: read only these of a Parquet file, where they exist; None: all."""
    if path.name.endswith(".parquet"):
        yield from _read_parquet(path, columns)
    else:
        yield from jsonl.read_jsonl(path, bad)


def _read_parquet(path: Path, columns: list[str] | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        wanted = names if columns is None else [name for name in columns if name in names]
        # Row groups without any wanted column still have rows; read all, so that the caller can name the columns.
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH, columns=wanted or names):
            yield from batch.to_pylist()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Make or fetch it, or mend the path in the recipe.") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is damaged or no Parquet file ({error}). Fetch or make it again.") from None
