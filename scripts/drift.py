"""Artifacts that were made by other code than the present one, as a list for people: drift.txt.

Training is not run again for a changed line of code; this list says what was made before the change.

    python scripts/drift.py --recipe config/recipes/tiny.yaml --output results/tiny/drift.txt
"""

import json
from pathlib import Path
from typing import Any

from nano3 import cli
from nano3.artifacts.code_version import SCRIPTS, code_version
from nano3.artifacts.lineage import find_manifests
from nano3.artifacts.manifest import PROVENANCE
from nano3.stage import recipe_results


def main(argv: list[str] | None = None) -> None:
    """Compare every artifact's code version with the present one."""
    arguments = cli.parse(cli.parser(__doc__), argv)
    results = recipe_results(arguments.output)
    manifests = find_manifests(results)
    lines = [line for manifest in manifests if (line := drift(manifest.parent, results))]
    summary = f"{len(lines)} of {len(manifests)} artifacts were made by other code than the present one"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("\n".join([summary, *lines]) + "\n", encoding="utf-8")
    for line in [summary, *lines]:
        cli.say(line)


def drift(directory: Path, results: Path) -> str | None:
    """A line about the artifact if other code made it, else None."""
    path = directory.relative_to(results).as_posix()
    file = directory / PROVENANCE
    if not file.is_file():
        return f"{path}: no provenance, so nobody knows what code made it"
    record = json.loads(file.read_text())
    now = present_versions(record)
    if record.get("code") in now:
        return None
    commit = f", commit {record['git_commit'][:12]}" if record.get("git_commit") else ""
    dirty = " with uncommitted changes" if record.get("git_dirty") else ""
    return f"{path}: code {record.get('code')}{commit}{dirty}, {record.get('finished')}; now {now[0]}"


def present_versions(record: dict[str, Any]) -> list[str]:
    """Code versions that count as the present one: of the script that made the artifact, and of the whole package."""
    script = Path((record.get("command") or [""])[0]).stem
    own = [code_version(script)] if (SCRIPTS / f"{script}.py").is_file() else []
    return [*own, code_version()]


if __name__ == "__main__":
    cli.run(main)
