"""A hash of source code, so that a code change re-runs what it concerns and a `git checkout` does not."""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
SCRIPTS = PACKAGE.parent


@cache
def code_version(script: str | None = None) -> str:
    """Content hash of a script and of every `nano3` module it imports, directly or not.

    script: name of a file in scripts/ without its suffix; None for the whole package.
    Modules are found by reading import statements, so nothing is executed."""
    files = _reachable(SCRIPTS / f"{script}.py") if script else set(PACKAGE.rglob("*.py"))
    assets = {
        asset
        for folder in {file.parent for file in files}
        for asset in folder.glob("*")
        if folder != SCRIPTS and asset.suffix in {".jinja", ".html", ".css", ".js"}
    }
    total = hashlib.sha256()
    for file in sorted(files | assets):
        total.update(file.relative_to(SCRIPTS).as_posix().encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def _reachable(script: Path) -> set[Path]:
    found: set[Path] = set()
    todo = [script]
    while todo:
        file = todo.pop()
        if file not in found:
            found.add(file)
            todo.extend(_imported_files(file))
    return found


@cache
def _imported_files(file: Path) -> tuple[Path, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    files = []
    for name in names:
        if name.split(".")[0] == PACKAGE.name:
            base = SCRIPTS.joinpath(*name.split("."))
            files += [path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]
    return tuple(files)
