"""What the report reads: manifests, metrics, timings, provenance and evaluations. Missing parts stay None."""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano3.artifacts.manifest import PROVENANCE, Manifest, read_manifest
from nano3.errors import UserError, to_make
from nano3.recipe import stages

BLENDS = ("data/blend/phase1", "data/blend/phase2", "data/blend/long_context")
RANDOM_ORDER = f"evaluation/{stages.RANDOM_ORDER}"  # of rlvr1 with its prompts in random order, where there is one
SAMPLES = 64  # rows of a stage's samples that are kept, from the last steps

TITLES = {
    "pretrain/phase1": "Pretraining, phase 1",
    "pretrain/phase2": "Pretraining, phase 2",
    "pretrain/long_context": "Long context",
    "sft/model": "SFT",
    "rl/rlvr1": "RLVR 1",
    "rl/genrm": "Reward model",
    "rl/rlhf": "RLHF",
    "rl/rlvr2": "RLVR 2",
    "rl/dpo": "DPO",
    "evaluation/base": "Base",
    "evaluation/sft": "SFT",
    "evaluation/rlvr1": "RLVR 1",
    "evaluation/rlhf": "RLHF",
    "evaluation/rlvr2": "RLVR 2",
    "evaluation/dpo": "DPO",
    "evaluation/rlvr1_random": "Random order",
    "data/blend/phase1": "Phase 1",
    "data/blend/phase2": "Phase 2",
    "data/blend/long_context": "Long context",
}
SHORT_TITLES = {"pretrain/phase1": "phase 1", "pretrain/phase2": "phase 2", "pretrain/long_context": "long context"}


@dataclass(frozen=True)
class Artifact:
    """A published artifact; `path` is below results/{recipe}, e.g. "sft/data"."""

    path: str
    directory: Path
    manifest: Manifest
    provenance: dict[str, Any]

    @property
    def title(self) -> str:
        return TITLES.get(self.path, self.path)

    @property
    def statistics(self) -> dict[str, Any]:
        return self.manifest.statistics


@dataclass(frozen=True)
class Stage(Artifact):
    """A trained stage with its metrics: `train` one row a step, `valid` one a validation, `timing` one a step; and the
    newest of the responses that an RL stage keeps, `samples`."""

    train: list[dict[str, Any]] = field(default_factory=list)
    valid: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluated(Artifact):
    """A model's held-out measurements, see `scripts/evaluate.py`."""

    measured: dict[str, Any] = field(default_factory=dict)


def read_artifact(path: Path, results: Path) -> Artifact | None:
    """The artifact at a directory or manifest path; None if it is not there."""
    directory = path.parent if path.name == "manifest.json" else path
    if not (directory / "manifest.json").is_file():
        return None
    provenance = directory / PROVENANCE
    return Artifact(
        path=_below(directory, results),
        directory=directory,
        manifest=read_manifest(directory),
        provenance=_json(provenance) if provenance.is_file() else {},
    )


def read_stage(path: Path, results: Path) -> Stage | None:
    """A stage's artifact with its metrics; None if it is not there."""
    artifact = read_artifact(path, results)
    if artifact is None:
        return None
    rows = list(lines(artifact.directory / "metrics.jsonl"))
    return Stage(
        **vars(artifact),
        train=[row for row in rows if "split" not in row],
        valid=[row for row in rows if row.get("split") == "valid"],
        timing=list(lines(artifact.directory / "timing.jsonl")),
        samples=list(deque(lines(artifact.directory / "samples.jsonl"), maxlen=SAMPLES)),
    )


def read_evaluation(path: Path, results: Path) -> Evaluated | None:
    """An evaluation's artifact with its measurements; None if it is not there."""
    artifact = read_artifact(path, results)
    if artifact is None:
        return None
    file = artifact.directory / "evaluation.json"
    if not file.is_file():
        raise UserError(f"{file} is missing. Make it again:  {to_make(artifact.directory, force=True)}")
    return Evaluated(**vars(artifact), measured=_json(file))


def _below(directory: Path, results: Path) -> str:
    try:
        return directory.resolve().relative_to(results.resolve()).as_posix()
    except ValueError:
        return directory.as_posix()


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}). Make {file.parent} again") from None


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file, none if it is not there. Raises UserError for a broken one."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as opened:
        try:
            for line in opened:
                if line.strip():
                    yield json.loads(line)
        except ValueError as error:
            raise UserError(f"{file} is not JSON lines ({error}). Make {file.parent} again") from None
