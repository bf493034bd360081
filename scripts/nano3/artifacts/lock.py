"""One writer per work directory: a lock that names its owner and outlives neither it nor its Slurm job."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nano3.cli import say
from nano3.errors import UserError


@contextmanager
def lock(file: Path) -> Iterator[None]:
    """Hold the lock `file` while the body runs. A dead owner's lock is broken; a live one's is a UserError.

    Owners are told apart by host, process id with its start time, and Slurm job id. A job that Slurm requeued
    keeps its id, so a lock of the own job on another host is a former attempt's and is broken."""
    me = _me()
    for _attempt in range(3):
        try:
            handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _break_if_dead(file, me)
            continue
        with os.fdopen(handle, "w") as stream:
            json.dump(me, stream)
        break
    else:
        raise UserError(f"{file} could not be taken: other processes keep taking it. Is this stage started twice?")
    try:
        yield
    finally:
        if _read(file) == me:
            file.unlink(missing_ok=True)


def _me() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _break_if_dead(file: Path, me: dict[str, Any]) -> None:
    owner = _read(file)
    if owner is None:
        return  # released in between
    if _alive(owner, me):
        job = f", Slurm job {owner['slurm_job']}" if owner.get("slurm_job") else ""
        raise UserError(
            f"another process works on this stage: process {owner.get('pid')} on {owner.get('host')}{job}.\n"
            f"  Wait for it or stop it. If you are sure that it is gone:  rm {file}"
        )
    say(f"breaking the lock of a process that is gone (process {owner.get('pid')} on {owner.get('host')})")
    # Renaming first makes sure that only one of two waiting processes breaks it.
    grave = file.with_name(f"{file.name}.stale.{os.getpid()}")
    try:
        file.rename(grave)
    except FileNotFoundError:
        return
    if _read(grave) != owner:  # a new owner came in between: give it back
        os.link(grave, file)
    grave.unlink()


def _alive(owner: dict[str, Any], me: dict[str, Any]) -> bool:
    if owner.get("host") == me["host"] and owner.get("boot") == me["boot"]:
        return _start_time(owner.get("pid", -1)) == owner.get("started") is not None
    if owner.get("slurm_job"):
        if owner["slurm_job"] == me["slurm_job"]:
            return False
        return _slurm_job_runs(owner["slurm_job"])
    return owner.get("host") != me["host"]  # another machine can't be asked; the same one has rebooted


def _slurm_job_runs(job: str) -> bool:
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--format=%T", f"--jobs={job}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return True  # nobody can tell: the careful answer
    return answer.stdout.strip() in {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED"}


def _start_time(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, so that a reused process id is not taken for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}  # being written, or torn by a crash: nobody alive claims it by name
