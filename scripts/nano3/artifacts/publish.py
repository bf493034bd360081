"""Atomic publication: an artifact is either whole, with its manifest, or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nano3.artifacts.manifest import MANIFEST, NOT_PAYLOAD, PROVENANCE, Manifest, describe_files, digest_of
from nano3.artifacts.provenance import write_provenance
from nano3.errors import UserError
from nano3.recipe.identity import identity


@dataclass
class Building:
    """An artifact being made: write files below `path`, counts into `statistics`."""

    path: Path
    statistics: dict[str, Any] = field(default_factory=dict)


@contextmanager
def building(output: Path, *, kind: str, config: Any, inputs: dict[str, Path] | None = None) -> Iterator[Building]:
    """Make the artifact `output`: yields a temporary sibling to write into; publishes it if the body succeeds.

    config: the JSON-able part of the recipe it depends on; inputs: name -> input artifact.
    If the body raises, nothing appears at `output` and the temporary directory is removed."""
    started = datetime.now(UTC)
    digests = {name: digest_of(path) for name, path in (inputs or {}).items()}
    artifact = Building(_temporary_sibling(output))
    try:
        yield artifact
        manifest = Manifest(
            kind=kind,
            identity=identity(config, digests),
            config=config,
            inputs=digests,
            files=describe_files(artifact.path),
            statistics=artifact.statistics,
        )
        write_provenance(artifact.path / PROVENANCE, started=started)
        _write_synced(artifact.path / MANIFEST, manifest.text())
        replace_directory(artifact.path, output)
    except BaseException:
        shutil.rmtree(artifact.path, ignore_errors=True)
        raise


def publish_directory(finished: Path, output: Path) -> None:
    """Publish a finished directory (with its manifest) under another path, by hard links where possible."""
    temporary = _temporary_sibling(output)
    for source in sorted(finished.rglob("*")):
        target = temporary / source.relative_to(finished)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        elif source.name != MANIFEST:
            _link(source, target)
    shutil.copyfile(finished / MANIFEST, temporary / MANIFEST)
    replace_directory(temporary, output)


def replace_directory(temporary: Path, output: Path) -> None:
    """Rename `temporary` to `output`. An artifact already there is replaced; anything else is not touched."""
    fsync_tree(temporary)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_dir() and any(output.iterdir()):
        _refuse_foreign_files(output)
        old = output.with_name(f".{output.name}.old.{os.getpid()}")
        output.rename(old)
        temporary.rename(output)
        shutil.rmtree(old)
    else:
        temporary.rename(output)  # rename(2) replaces an empty directory
    _fsync_directory(output.parent)


def fsync_tree(directory: Path) -> None:
    """Flush every file below a directory to the disk, so that a rename can't outlive its content."""
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        elif file.is_dir():
            _fsync_directory(file)
    _fsync_directory(directory)


def _refuse_foreign_files(output: Path) -> None:
    if (output / MANIFEST).is_file():
        return
    known = NOT_PAYLOAD
    foreign = [entry.name for entry in output.iterdir() if entry.name not in known]
    if foreign:
        raise UserError(
            f"{output} holds files that no rule made ({', '.join(sorted(foreign)[:5])}), and no manifest.\n"
            f"  Move them away; nothing was overwritten."
        )


def _temporary_sibling(output: Path) -> Path:
    output = Path(output)
    temporary = output.with_name(f".{output.name}.tmp.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _write_synced(file: Path, text: str) -> None:
    with file.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _fsync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
