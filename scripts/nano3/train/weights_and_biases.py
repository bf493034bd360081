"""Weights & Biases as a side effect: it mirrors the metrics and can neither fail nor delay a job.

    run = weights_and_biases.start(stage="sft", identity=..., recipe="tiny", config=..., directory=work)
    run.log(row, step)                       # `run` is None when W&B is off
    run.finish(output / "manifest.json")     # None when the stage was only interrupted

Online with WANDB_API_KEY, offline without one, off with WANDB_MODE=disabled. Everything that W&B does happens on one
background thread behind a queue: importing it, connecting, logging and uploading. A call of this module returns at
once, except `finish`, which waits for a bounded time. Every failure becomes one printed line; the truth is
`metrics.jsonl` and `lineage.json`, and `scripts/wandb_sync.py` can send it all later.
"""

import hashlib
import json
import os
import queue
import re
import threading
from collections import deque
from pathlib import Path
from typing import Any

from nano3.artifacts.manifest import read_manifest
from nano3.cli import say

PROJECT = "nano3"
CONNECT_SECONDS = 20
FINISH_SECONDS = {"offline": 20, "online": 120}
MAX_REFERENCES = 1000
MAX_SAMPLES = 200
SAMPLE_COLUMNS = ("step", "environment", "prompt", "response", "reward", "reason", "finished", "well_formed")


def run_id(recipe: str, stage: str, identity: str) -> str:
    """The W&B run of a stage: the same stage with the same configuration and inputs continues the same run."""
    return hashlib.sha256(f"{recipe}/{stage}\n{identity}".encode()).hexdigest()[:16]


def artifact_name(recipe: str, path: str) -> str:
    """The W&B name of an artifact; W&B allows letters, digits, dash, underscore and dot."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{recipe}-{path}")


def mode(environment: dict[str, str] | None = None) -> str:
    """online, offline or disabled; WANDB_MODE wins over the presence of WANDB_API_KEY."""
    environment = os.environ if environment is None else environment
    asked = environment.get("WANDB_MODE", "").lower()
    if asked in {"online", "offline", "disabled"}:
        return asked
    return "online" if environment.get("WANDB_API_KEY") else "offline"


class Run:
    """One W&B run on its own thread. Nothing here raises."""

    def __init__(self, mode: str, init: dict[str, Any], name: str) -> None:
        self._mode, self._init, self._name = mode, init, name
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, row: dict[str, Any], step: int) -> None:
        """Mirror one row of metrics. Returns at once."""
        if self._thread.is_alive():
            self._queue.put((numbers(row), step))

    def finish(self, manifest: Path | None = None) -> None:
        """Record the published artifact, if there is one, and close the run; waits for a bounded time."""
        self._queue.put(manifest)
        limit = FINISH_SECONDS[self._mode]
        self._thread.join(limit)
        if self._thread.is_alive():
            say(f"W&B: not done after {limit} s, left behind; scripts/wandb_sync.py sends the rest")

    def _work(self) -> None:
        try:
            run = self._connect()
            while isinstance(item := self._queue.get(), tuple):
                row, step = item
                # A stage that resumed repeats steps bit for bit, so those that W&B has are left out.
                if row and step >= run.step:
                    run.log(row, step=step)
            if item is not None:
                samples = sample_table(item)
                if samples is not None:
                    run.log({"samples": samples})
                run.log_artifact(
                    reference_artifact(item, self._name, recipe=self._init["group"]),
                    aliases=[read_manifest(item).identity],
                )
            run.finish()
        except Exception as error:
            say(f"W&B: {_one_line(error)}; the stage goes on without it")

    def _connect(self) -> Any:
        import wandb

        settings = {
            "silent": True,
            "console": "off",
            "x_disable_stats": True,
            "x_disable_meta": True,
            "x_disable_machine_info": True,
            "x_save_requirements": False,
            "disable_git": True,
            "disable_code": True,
            "disable_job_creation": True,
            "init_timeout": CONNECT_SECONDS,
            "finish_timeout": FINISH_SECONDS[self._mode],
        }
        try:
            return self._open(wandb, settings)
        except Exception as error:
            if self._mode != "online":
                raise
            say(f"W&B: {_one_line(error)}; going on offline")
            self._mode = "offline"
            wandb.teardown()  # it holds the half-open run's id
            return self._open(wandb, settings)

    def _open(self, wandb: Any, settings: dict[str, Any]) -> Any:
        resume = "allow" if self._mode == "online" else None
        return wandb.init(mode=self._mode, resume=resume, settings=wandb.Settings(**settings), **self._init)


def start(*, stage: str, identity: str, recipe: str, config: Any, directory: Path) -> Run | None:
    """Open the W&B run of a stage, or return None when W&B is off.

    stage: e.g. "pretrain/phase1"; recipe: its name, e.g. "tiny"; config: the stage's part of the recipe;
    directory: where W&B keeps its files, below `directory`/wandb (the stage's work directory)."""
    try:
        current = mode()
        if current == "disabled":
            return None
        # On the stage's disk, not in the home directory: artifacts wait in the data directory until they are sent.
        directory.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_DATA_DIR", str(directory / "wandb" / "data"))
        os.environ.setdefault("WANDB_CACHE_DIR", str(directory / "wandb" / "cache"))
        os.environ.setdefault("WANDB_CONFIG_DIR", str(directory / "wandb" / "config"))
        os.environ.setdefault("WANDB_SILENT", "true")
        init = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "id": run_id(recipe, stage, identity),
            "name": f"{recipe}/{stage}",
            "group": recipe,
            "job_type": stage,
            "config": {"identity": identity, "recipe": recipe, "stage": stage, **dict(config or {})},
            "dir": os.environ.get("WANDB_DIR", str(directory)),
        }
        return Run(current, init, artifact_name(recipe, stage))
    except Exception as error:
        say(f"W&B: {_one_line(error)}; the stage goes on without it")
        return None


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a metrics row under flat names; those of a validation row begin with its split's name."""
    prefix = f"{row['split']}/" if isinstance(row.get("split"), str) else ""
    flat: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{prefix}{key}/{name}": number for name, number in numbers(value).items()}
        elif isinstance(value, int | float) and key != "step":
            flat[prefix + key] = value
    return flat


def sample_table(manifest: Path) -> Any:
    """A W&B table of the newest responses that a published RL stage keeps (samples.jsonl), None if it keeps none."""
    import wandb

    file = (manifest if manifest.is_dir() else manifest.parent) / "samples.jsonl"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in deque(lines, maxlen=MAX_SAMPLES)]
    data = [[row.get(column) for column in SAMPLE_COLUMNS] for row in rows]
    return wandb.Table(columns=list(SAMPLE_COLUMNS), data=data)


def reference_artifact(manifest: Path, name: str, *, recipe: str) -> Any:
    """A W&B artifact that points to the files of a published artifact and holds our digests, not their bytes.

    Of artifacts with more than `MAX_REFERENCES` files only the manifest is referenced; it lists the rest."""
    import wandb

    manifest = manifest / "manifest.json" if manifest.is_dir() else manifest
    content = read_manifest(manifest)
    artifact = wandb.Artifact(
        name,
        type=content.kind.split("/")[0],
        metadata={
            "recipe": recipe,
            "kind": content.kind,
            "digest": content.digest,
            "identity": content.identity,
            "inputs": content.inputs,
            "statistics": content.statistics,
            **({"files": content.files} if len(content.files) <= MAX_REFERENCES else {}),
        },
    )
    files = content.files if len(content.files) <= MAX_REFERENCES else {}
    for file in ["manifest.json", *files]:
        uri = (manifest.parent / file).resolve().as_uri()
        artifact.add_reference(uri, name=file, checksum=False)
    return artifact


def _one_line(error: Exception) -> str:
    return (f"{type(error).__name__}: {error}".strip().splitlines() or [type(error).__name__])[0][:200]
