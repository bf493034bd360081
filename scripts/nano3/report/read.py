"""What the report reads: manifests, metrics, timings, provenance and evaluations. Missing parts stay None."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano3.artifacts.manifest import PROVENANCE, Manifest, read_manifest
from nano3.errors import UserError

PRETRAINING = ("pretrain/phase1", "pretrain/phase2", "pretrain/long_context")
STAGES = (*PRETRAINING, "sft/model", "rl/rlvr1")
EVALUATIONS = ("evaluation/base", "evaluation/sft", "evaluation/rlvr1")
BLENDS = ("data/blend/phase1", "data/blend/phase2", "data/blend/long_context")
DATA = ("tokenizer", *BLENDS, "sft/data", "rl/prompts")

TITLES = {
    "pretrain/phase1": "Pretraining, phase 1",
    "pretrain/phase2": "Pretraining, phase 2",
    "pretrain/long_context": "Long context",
    "sft/model": "SFT",
    "rl/rlvr1": "RLVR",
    "rl/genrm": "Reward model",
    "rl/rlhf": "RLHF",
    "rl/rlvr2": "RLVR 2",
    "rl/dpo": "DPO",
    "evaluation/base": "Base",
    "evaluation/sft": "SFT",
    "evaluation/rlvr1": "RLVR",
    "evaluation/rlhf": "RLHF",
    "evaluation/rlvr2": "RLVR 2",
    "evaluation/dpo": "DPO",
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
    """A trained stage with its metrics: `train` one row a step, `valid` one a validation, `timing` one a step."""

    train: list[dict[str, Any]] = field(default_factory=list)
    valid: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)


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
    rows = _lines(artifact.directory / "metrics.jsonl")
    return Stage(
        **vars(artifact),
        train=[row for row in rows if "split" not in row],
        valid=[row for row in rows if row.get("split") == "valid"],
        timing=_lines(artifact.directory / "timing.jsonl"),
    )


def read_evaluation(path: Path, results: Path) -> Evaluated | None:
    """An evaluation's artifact with its measurements; None if it is not there."""
    artifact = read_artifact(path, results)
    if artifact is None:
        return None
    file = artifact.directory / "evaluation.json"
    if not file.is_file():
        raise UserError(f"{file} is missing. Make it again:  snakemake --force {artifact.directory}")
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


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{file} is not JSON lines ({error}). Make {file.parent} again") from None
