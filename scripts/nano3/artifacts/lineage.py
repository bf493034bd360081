"""Lineage: which artifact was made from which, read from the manifests below results/{recipe} and nothing else.

A manifest records the digests of its input manifests, so the graph needs no database and survives copying. An input
whose digest no artifact has is *missing*: it was removed, or made again with another content since.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nano3.artifacts.manifest import MANIFEST, read_manifest
from nano3.errors import UserError, to_make


@dataclass(frozen=True)
class Node:
    """An artifact: its path below results/{recipe}, and from its manifest kind, identity, digest and key numbers."""

    path: str
    kind: str
    identity: str
    digest: str
    statistics: dict[str, Any]


@dataclass(frozen=True)
class Edge:
    """`source` went into `target` (paths below results/{recipe}) under the name `input`."""

    source: str
    target: str
    input: str


@dataclass(frozen=True)
class Missing:
    """The artifact `path` was made from an `input` that is no longer there with this digest."""

    path: str
    input: str
    digest: str


@dataclass(frozen=True)
class Lineage:
    """The graph of one recipe's artifacts, sorted, so that equal artifacts give equal bytes."""

    recipe: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    missing: tuple[Missing, ...]

    def text(self) -> str:
        """The exact text of `lineage.json`."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Group:
    """Artifacts that play the same part: one box of the picture."""

    kind: str
    members: tuple[Node, ...]


def find_manifests(results: Path) -> list[Path]:
    """Every manifest.json below a directory, sorted; hidden directories (work directories) are left out."""
    if not results.is_dir():
        raise UserError(f"{results} does not exist. Make something first, e.g.  {to_make(results / 'rl/final')}")
    found = []
    for folder, children, files in os.walk(results):
        children[:] = sorted(child for child in children if not child.startswith("."))
        if MANIFEST in files:
            found.append(Path(folder) / MANIFEST)
    return sorted(found)


def read_lineage(results: Path) -> Lineage:
    """The lineage of all artifacts below `results` (results/{recipe})."""
    manifests = {file.parent: read_manifest(file) for file in find_manifests(results)}
    names = {folder: folder.relative_to(results).as_posix() for folder in manifests}
    nodes = [
        Node(names[folder], manifest.kind, manifest.identity, manifest.digest, _numbers(manifest.statistics))
        for folder, manifest in manifests.items()
    ]
    owner: dict[str, str] = {}
    for node in nodes:  # artifacts with equal manifests are the same thing: the first path stands for both
        owner.setdefault(node.digest, node.path)
    edges, missing = [], []
    for folder, manifest in manifests.items():
        for name, digest in sorted(manifest.inputs.items()):
            if digest in owner:
                edges.append(Edge(owner[digest], names[folder], name))
            else:
                missing.append(Missing(names[folder], name, digest))
    return Lineage(results.name, tuple(nodes), tuple(edges), tuple(missing))


def load_lineage(file: Path) -> Lineage:
    """Read a `lineage.json`."""
    try:
        content = json.loads(file.read_text())
        return Lineage(
            recipe=content["recipe"],
            nodes=tuple(Node(**node) for node in content["nodes"]),
            edges=tuple(Edge(**edge) for edge in content["edges"]),
            missing=tuple(Missing(**entry) for entry in content["missing"]),
        )
    except FileNotFoundError:
        raise UserError(f"{file} does not exist. Make it first:  {to_make(file)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not a lineage file ({error!r}). Make it again:  {to_make(file, force=True)}"
        ) from None


def upstream(lineage: Lineage, paths: set[str]) -> Lineage:
    """The part of a lineage that `paths` were made from, themselves included."""
    sources: dict[str, list[str]] = {}
    for edge in lineage.edges:
        sources.setdefault(edge.target, []).append(edge.source)
    keep, todo = set(), list(paths)
    while todo:
        path = todo.pop()
        if path not in keep:
            keep.add(path)
            todo += sources.get(path, [])
    return Lineage(
        lineage.recipe,
        tuple(node for node in lineage.nodes if node.path in keep),
        tuple(edge for edge in lineage.edges if edge.target in keep),
        tuple(entry for entry in lineage.missing if entry.path in keep),
    )


def grouped(lineage: Lineage) -> tuple[list[Group], list[tuple[int, int]]]:
    """Join artifacts of the same kind that are made from and used by the same groups.

    Hundreds of shards become one box, while the base, SFT and RL models stay apart. Returns the groups and the edges
    between their indices. The partition is refined until it is stable (coarsest bisimulation)."""
    sources: dict[str, set[str]] = {node.path: set() for node in lineage.nodes}
    targets: dict[str, set[str]] = {node.path: set() for node in lineage.nodes}
    for edge in lineage.edges:
        sources[edge.target].add(edge.source)
        targets[edge.source].add(edge.target)
    part: dict[str, Any] = {node.path: node.kind for node in lineage.nodes}
    while True:
        signature = {
            path: (
                part[path],
                tuple(sorted({part[source] for source in sources[path]}, key=str)),
                tuple(sorted({part[target] for target in targets[path]}, key=str)),
            )
            for path in part
        }
        number = {value: index for index, value in enumerate(sorted(set(signature.values()), key=str))}
        refined = {path: number[value] for path, value in signature.items()}
        if len(number) == len(set(part.values())):
            break
        part = refined
    by_part: dict[int, list[Node]] = {}
    for node in lineage.nodes:
        by_part.setdefault(refined[node.path], []).append(node)
    index = {key: position for position, key in enumerate(by_part)}
    groups = [Group(members[0].kind, tuple(members)) for members in by_part.values()]
    joined = {(index[refined[edge.source]], index[refined[edge.target]]) for edge in lineage.edges}
    return groups, sorted(joined)


def mermaid(lineage: Lineage) -> str:
    """The grouped graph as Mermaid text, for READMEs and wikis."""
    groups, edges = grouped(lineage)
    lines = ["flowchart TD"]
    for position, group in enumerate(groups):
        label = group.members[0].path if len(group.members) == 1 else f"{group.kind} ×{len(group.members)}"
        lines.append(f'  n{position}["{label}"]')
    lines += [f"  n{source} --> n{target}" for source, target in edges]
    return "\n".join(lines) + "\n"


def _numbers(statistics: dict[str, Any]) -> dict[str, Any]:
    """The statistics worth a line: numbers, short words, and a few numbers by split or reason."""

    def plain(value: Any) -> bool:
        return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 60)

    return {
        key: value
        for key, value in sorted(statistics.items())
        if plain(value) or (isinstance(value, dict) and len(value) <= 6 and all(map(plain, value.values())))
    }
