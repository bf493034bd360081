"""`snakemake --lint`, with the findings that are meant: everything else is an error.  python tests/lint_workflow.py"""

import re
import subprocess
import sys

MEANT = (
    # One environment for all rules, installed by pip; on a cluster the launcher picks the container of a stage.
    "Specify a conda environment or container for each rule.",
    # A function that only one part of the pipeline needs stands beside its rules.
    "Mixed rules and functions in same snakefile.",
    # PATH is there on every machine, and NANO3_ variables are optional by design.
    "Environment variable",
    # Rules that write one small text file in a second.
    "No log directive defined",
)


def findings() -> list[str]:
    """Lint findings that are not meant, one line each, after the file or rule they are in."""
    result = subprocess.run([sys.executable, "-m", "snakemake", "--lint"], capture_output=True, text=True, check=False)
    text = result.stdout + result.stderr
    if "Lints for" not in text and "Congratulations" not in text:
        return [f"snakemake --lint did not run:\n{text}"]
    found, where = [], ""
    for line in text.splitlines():
        if line.startswith("Lints for"):
            where = line.removeprefix("Lints for ").rstrip(":")
        elif (title := re.match(r"    \* (.+)", line)) and not title.group(1).startswith(MEANT):
            found.append(f"{where}: {title.group(1)}")
    return found


if __name__ == "__main__":
    problems = findings()
    print("\n".join(problems) or "snakemake --lint: nothing but what is meant")
    sys.exit(bool(problems))
