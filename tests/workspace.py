"""A copy of the project in a temporary directory, in which tests run Snakemake and change files freely."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("Snakefile", "rules", "scripts", "config", "profiles", "envs", "pyproject.toml")


class Workspace:
    """One copy. `snakemake(...)` runs in it; the package is imported from the copy, not from the checkout."""

    def __init__(self, path: Path, recipes: tuple[Path, ...] = ()):
        self.path = path
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, path / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            elif source.exists():
                shutil.copy(source, path / part)
        (path / "slurm").symlink_to("profiles/slurm")
        for recipe in recipes:
            shutil.copy(recipe, path / "config" / "recipes" / recipe.name)

    def snakemake(self, *arguments: str, check: bool = True, timeout: int = 500, **environment: str):
        """Run Snakemake; the result has .stdout (both streams). Raises with the output when it fails."""
        result = self.python("-m", "snakemake", *arguments, timeout=timeout, **environment)
        if check and result.returncode:
            raise AssertionError(f"snakemake {' '.join(arguments)} failed:\n{result.stdout[-6000:]}")
        return result

    def python(self, *arguments: str, timeout: int = 120, **environment: str):
        """Run Python in the copy; the result has .returncode and .stdout (both streams)."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env=os.environ | {"PYTHONPATH": str(self.path / "scripts")} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def planned(self, target: str) -> dict[str, int]:
        """Rule -> number of jobs that a dry run of `target` plans."""
        text = self.snakemake("--profile", "profiles/local", "--dryrun", "--quiet", "rules", "--", target).stdout
        table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", text, re.S | re.M)
        if table is None:
            assert "Nothing to be done" in text, text
            return {}
        return {rule: int(count) for rule, count in (line.split() for line in table.group(1).strip().splitlines())}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text in a file of the copy."""
        path = self.path / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1))
