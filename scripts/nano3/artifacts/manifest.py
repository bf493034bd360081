"""The manifest: what an artifact is. Deterministic, so equal inputs and configuration give equal bytes.

`manifest.json` holds the artifact's kind, its identity (hash of configuration and inputs), the configuration
itself, the digests of the input manifests, and size and SHA-256 of every payload file. Times, hosts and paths
belong into `provenance.json` beside it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nano3.errors import UserError, to_make

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
# Files beside the payload that differ from run to run, and Snakemake's own marker in directory outputs.
NOT_PAYLOAD = {MANIFEST, PROVENANCE, "timing.jsonl", ".snakemake_timestamp"}


@dataclass(frozen=True)
class Manifest:
    """What an artifact is.

    kind: the rule or stage that makes it, e.g. "tokenizer" or "pretrain/phase1"
    identity: hash of `config` and `inputs`, see `nano3.recipe.identity`
    config: the part of the recipe it was made from
    inputs: name -> digest of the input artifact's manifest
    files: path below the artifact -> {"bytes": size, "sha256": hex digest}
    statistics: counts worth keeping (rows, tokens, dropped rows by reason, final loss, ...)
    """

    kind: str
    identity: str
    config: Any
    inputs: dict[str, str]
    files: dict[str, dict[str, Any]]
    statistics: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The manifest as the exact text of `manifest.json`."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest's text; what other manifests record as their input."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def _directory(path: Path) -> Path:
    return path.parent if path.name == MANIFEST else path


def read_manifest(path: Path | str) -> Manifest:
    """The manifest of an artifact, given its directory or its `manifest.json`.

    Raises UserError if there is none or if it can't be read."""
    file = _directory(Path(path)) / MANIFEST
    try:
        return Manifest(**json.loads(file.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist, so {file.parent} is not a finished artifact.\n"
            f"  Make it first:  {to_make(file.parent)}"
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{file} is not a valid manifest ({error}).\n"
            f"  Move {file.parent} away and make it again:  {to_make(file.parent)}"
        ) from None


def digest_of(path: Path | str) -> str:
    """Digest of an artifact's manifest, given its directory or its `manifest.json`."""
    return read_manifest(path).digest


def sha256(file: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of every payload file below a directory, by relative path."""
    found = {}
    for file in sorted(directory.rglob("*")):
        name = file.relative_to(directory).as_posix()
        if file.is_file() and name not in NOT_PAYLOAD:
            found[name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    return found


def verify(path: Path | str, *, hashes: bool = True) -> Manifest:
    """Check an artifact's files against its manifest: sizes always, hashes unless told otherwise.

    Raises UserError that names the first wrong file with its expected and actual size or digest."""
    directory = _directory(Path(path))
    manifest = read_manifest(directory)
    for name, expected in manifest.files.items():
        file = directory / name
        if not file.is_file():
            raise UserError(f"{file} is missing, though {directory / MANIFEST} lists it.{_remake(directory)}")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise UserError(
                f"{file} has {size} bytes, expected {expected['bytes']}: it was changed or cut after it was"
                f" made.{_remake(directory)}"
            )
        if hashes and (actual := sha256(file)) != expected["sha256"]:
            raise UserError(
                f"{file} was changed after it was made.\n  expected sha256 {expected['sha256']}\n"
                f"  actual   sha256 {actual}{_remake(directory)}"
            )
    return manifest


def _remake(directory: Path) -> str:
    return f"\n  Make it again:  {to_make(directory, force=True)}"
