"""Text of the Python installation that runs the recipe: real code and real English, offline.

Files of the standard library come in the order of a hash of their path, so that a small data set samples all of the
library and not just its first letters. Test suites are left out."""

import ast
import hashlib
import inspect
import os
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nano3.data.bad_rows import BadRows
from nano3.data.files import quota

Row = dict[str, Any]
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
NOT_CODE = {"pydoc_data/topics.py"}  # one giant string
MIN_DOCUMENT_CHARS = 200
DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def python_version() -> str:
    """Version of the Python whose library is read; part of what the data set is."""
    return platform.python_version()


def library_files() -> list[tuple[str, Path]]:
    """The standard library's modules as (path below the library, path), in hash order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_LIBRARY]
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in files if name.endswith(".py")]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    return [(name, root / name) for name in names]


def python_code(*, max_bytes: int, groups: int, group: int, bad: BadRows) -> Iterator[Row]:
    """Source files as rows {"id", "text"}; all groups together stop after max_bytes."""
    yield from _until(_code_rows(groups, group, bad), quota(max_bytes, groups, group))


def python_docs(*, max_bytes: int, groups: int, group: int, bad: BadRows) -> Iterator[Row]:
    """Docstrings as prose, rows {"id", "text"}; all groups together stop after max_bytes.

    A document is a class with its methods, or a module with its functions and its small classes."""
    yield from _until(_docs_rows(groups, group, bad), quota(max_bytes, groups, group))


def _until(rows: Iterator[Row], max_bytes: int) -> Iterator[Row]:
    taken = 0
    for row in rows:
        if taken >= max_bytes:
            return
        taken += len(row["text"].encode())
        yield row


def _sources(groups: int, group: int, bad: BadRows) -> Iterator[tuple[str, str]]:
    for name, path in library_files()[group::groups]:
        try:
            with tokenize.open(path) as file:  # honours encoding declarations
                text = file.read()
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            bad.count("unreadable source file", where=name, sample=str(error))
            continue
        yield name, text


def _code_rows(groups: int, group: int, bad: BadRows) -> Iterator[Row]:
    for name, text in _sources(groups, group, bad):
        if text.strip() and name not in NOT_CODE:
            yield {"id": name, "text": text}


def _docs_rows(groups: int, group: int, bad: BadRows) -> Iterator[Row]:
    for name, text in _sources(groups, group, bad):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError) as error:
            bad.count("source file does not parse", where=name, sample=str(error))
            continue
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        yield from _documents(tree, module)


def _documents(tree: ast.Module, module: str) -> Iterator[Row]:
    """The documents of one module: its larger classes, and the module with everything else."""
    own = [f"{module}\n\n{doc}"] if (doc := _docstring(tree)) else [module]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            text = "\n\n".join(_sections(node, f"{module}.{node.name}"))
            if len(text) >= MIN_DOCUMENT_CHARS:
                yield {"id": f"{module}.{node.name}", "text": text + "\n"}
            elif text:
                own.append(text)
        elif isinstance(node, DOCUMENTED):
            own += _sections(node, node.name)
    text = "\n\n".join(own)
    if len(text) >= MIN_DOCUMENT_CHARS:
        yield {"id": module, "text": text + "\n"}


def _sections(node: ast.AST, title: str) -> list[str]:
    """Titled docstrings of a class and its public methods, or of a function; empty without docstrings."""
    sections = [f"{title}{_signature(node)}\n\n{doc}"] if (doc := _docstring(node)) else []
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, DOCUMENTED):
                sections += _sections(member, f"{node.name}.{member.name}")
        if sections and not doc:
            sections.insert(0, title)
    return sections


def _signature(node: ast.AST) -> str:
    return f"({ast.unparse(node.args)})" if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else ""


def _docstring(node: ast.AST) -> str:
    text = ast.get_docstring(node, clean=False)
    return inspect.cleandoc(text).strip() if text else ""
