"""Raw artifacts of chat and RL rows, by data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from nano3.artifacts import verify
from nano3.artifacts.manifest import MANIFEST
from nano3.data.raw import dataset_of, read_shards
from nano3.errors import UserError


def artifact_directory(path: Path) -> Path:
    """The directory of an artifact that is given as directory or as its manifest."""
    return path.parent if path.name == MANIFEST else path


def by_dataset(paths: Iterable[Path], known: Iterable[str], *, hashes: bool = True) -> dict[str, list[Path]]:
    """Verified raw artifacts (directories or manifests) by data set, in the order of `known`, groups in order.

    Raises UserError for a data set that is not known and for one without an artifact.
    """
    found: dict[str, dict[int, Path]] = {name: {} for name in known}
    for path in paths:
        name, group = dataset_of(path)
        if name not in found:
            raise UserError(
                f"{path} holds data set {name!r}, but this section of the recipe uses {', '.join(found)}. "
                "Leave it out of --raw, or name it in the recipe."
            )
        verify(path, hashes=hashes)
        found[name][group] = artifact_directory(path)
    missing = [name for name, groups in found.items() if not groups]
    if missing:
        raise UserError(f"no raw shards of {', '.join(missing)} were given; add them to --raw")
    return {name: [groups[group] for group in sorted(groups)] for name, groups in found.items()}


def input_artifacts(raw: dict[str, list[Path]]) -> dict[str, Path]:
    """Names for a manifest's inputs: raw/{dataset}/{number} -> directory."""
    return {f"raw/{name}/{i}": path for name, paths in raw.items() for i, path in enumerate(paths)}


def read_rows(directories: list[Path]) -> Iterator[dict[str, Any]]:
    """Rows of all groups of a data set, in order."""
    return chain.from_iterable(read_shards(directory) for directory in directories)


def row_id(row: dict[str, Any], number: int) -> str:
    """The row's `id`, or its number in the data set where it has none."""
    found = row.get("id")
    return f"row {number}" if found in (None, "") else str(found)
