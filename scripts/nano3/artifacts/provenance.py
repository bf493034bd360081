"""Provenance: how an artifact came to be. Differs from run to run and is never an input of anything."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from nano3.artifacts.code_version import SCRIPTS, code_version

PACKAGES = ("torch", "megatron-core", "transformers", "tokenizers", "snakemake", "numpy")


def write_provenance(file: Path, *, started: datetime, extra: dict[str, Any] | None = None) -> None:
    """Write times, host, git commit, code and package versions, and the Slurm job, as JSON."""
    finished = datetime.now(UTC)
    script = Path(sys.argv[0]).stem
    record = {
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round((finished - started).total_seconds(), 3),
        "host": platform.node(),
        "command": sys.argv,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "code": code_version(script if (SCRIPTS / f"{script}.py").is_file() else None),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "peak_memory_bytes": _peak_memory(),
        **(extra or {}),
    }
    file.write_text(json.dumps(record, indent=2) + "\n")


def _peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux reports kibibytes


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
