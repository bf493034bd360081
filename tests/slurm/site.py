"""What the Slurm tests share: a clone of the project and a Snakemake that talks to the tests' own cluster."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from slurm import cluster

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "tests" / "recipes"
IMPATIENT = ROOT / "tests" / "slurm" / "impatient"
# Factor on every time limit, for slow machines.
PATIENCE = float(os.environ.get("NANO3_TEST_PATIENCE", "1"))


class Site:
    """A clone of the project (with what is not committed yet) and the environment of a login node."""

    def __init__(self, path: Path, environment: dict[str, str]):
        self.path = path / "clone"
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).exists() or (ROOT / name).is_symlink():
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.path / name, follow_symlinks=False)
        for recipe in RECIPES.glob("*.yaml"):
            shutil.copy(recipe, self.path / "config" / "recipes" / recipe.name)
        programs = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        modules = f"{self.path / 'scripts'}{os.pathsep}{IMPATIENT}"
        self.environment = os.environ | environment | {"PATH": programs, "PYTHONPATH": modules}
        self.environment |= {"OMP_NUM_THREADS": "1", "NANO3_POLL_SECONDS": "2"}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """Start a command in the clone, in a process group of its own."""
        return subprocess.Popen(
            arguments,
            cwd=self.path,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_listen_to_ctrl_c,
        )

    def run(self, *arguments: str, check: bool = True, timeout: float = 300, **environment: str) -> str:
        """Run a command in the clone and return what it printed; an AssertionError shows that when it fails.

        A Snakemake that takes too long is interrupted, so that it cancels its jobs."""
        process = self.start(*arguments, **environment)
        try:
            output, _ = process.communicate(timeout=timeout * PATIENCE)
        except BaseException as stopped:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60 * PATIENCE)
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
            raise AssertionError(f"{' '.join(arguments)} took more than {timeout} s:\n{output[-5000:]}") from None
        if check and process.returncode:
            raise AssertionError(f"{' '.join(arguments)} failed:\n{output[-5000:]}")
        return output

    def snakemake(self, *arguments: str, **options) -> str:
        """The command of the README, through the cluster."""
        return self.run("snakemake", "--profile", "slurm", *arguments, **options)

    def slurm(self, *command: str) -> str:
        """Output of a Slurm command."""
        return self.run(*command, timeout=20)


def _listen_to_ctrl_c() -> None:
    """Children of what a shell put into the background are born deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(what: str, ready, seconds: float = 120):
    """Wait until `ready()` is true and return its value."""
    deadline = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < deadline:
        found = ready()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


def skip_without_slurm() -> None:
    """Skip, and say so where everybody sees it: a check that never runs looks like one that passes."""
    missing = cluster.missing_programs()
    if missing:
        reason = f"the Slurm tests did not run: {', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
        warnings.warn(reason, stacklevel=2)
        pytest.skip(reason)
