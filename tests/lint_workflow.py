"""`snakemake --lint`, with the findings that are meant: everything else is an error.  python tests/lint_workflow.py"""

import json
import subprocess
import sys

MEANT = {
    # One environment for all rules, installed by pip; on a cluster the launcher picks the container of a stage.
    "Specify a conda environment or container for each rule.",
    # Helpers live in rules/common.smk, which every included file uses.
    "Mixed rules and functions in same snakefile.",
    # The local rules that write one small text file need no benchmark and little logging.
    "No log directive defined",
}


def findings() -> list[str]:
    """Lint findings that are not meant, one line each."""
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint", "json"], capture_output=True, text=True, check=False
    )
    start = result.stdout.find("{")
    if start < 0:
        sys.exit(f"snakemake --lint printed no JSON:\n{result.stdout}\n{result.stderr}")
    report = json.loads(result.stdout[start:])
    lines = []
    for section in ("snakefiles", "rules"):
        for entry in report[section]:
            for lint in entry["snakefile_lints" if section == "snakefiles" else "rule_lints"]:
                if lint["title"] not in MEANT:
                    lines.append(f"{entry.get('rule', entry.get('snakefile'))}: {lint['title']}: {lint['body']}")
    return lines


if __name__ == "__main__":
    problems = findings()
    print("\n".join(problems) or "snakemake --lint: nothing but what is meant")
    sys.exit(bool(problems))
