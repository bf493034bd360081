"""The lineage graph as an SVG: layers from sources to results, one box a group of artifacts."""

from nano3.artifacts.lineage import Group, Lineage, grouped
from nano3.report.boxes import Box, draw
from nano3.report.svg import number


def draw_lineage(lineage: Lineage) -> str:
    """The grouped graph as a self-contained `<svg>`; empty for a lineage without artifacts."""
    groups, edges = grouped(lineage)
    if not groups:
        return ""
    described = f"{len(lineage.nodes)} artifacts in {len(groups)} groups, {len(lineage.edges)} edges"
    boxes = [_box(group) for group in groups]
    return draw(boxes, edges, title=f"Lineage of {lineage.recipe}", described=described, css_class="lineage")


def _box(group: Group) -> Box:
    tooltip = [f"{group.kind}, identity {group.members[0].identity}" if len(group.members) == 1 else group.kind]
    tooltip += [member.path for member in group.members[:20]]
    tooltip += [f"and {len(group.members) - 20} more"] if len(group.members) > 20 else []
    return Box(*label(group), _sort(group.kind), "\n".join(tooltip))


def label(group: Group) -> tuple[str, str]:
    """Name of a box and the line below it: what it is, or its size in tokens or rows."""
    first, count = group.members[0], len(group.members)
    parts = first.path.split("/")
    notes = []
    if first.kind in ("raw", "tokens"):  # data/{kind}/{data set}/{shard group}
        datasets = sorted({member.path.split("/")[-2] for member in group.members})
        name = datasets[0] if len(datasets) == 1 else f"{len(datasets)} data sets"
        notes.append("raw" if first.kind == "raw" else "")
    else:
        name = "/".join(parts[1:] if parts[0] == "data" else parts) if count == 1 else f"{count} × {group.kind}"
    for key in ("tokens", "rows"):
        sizes = [_total(member.statistics.get(key)) for member in group.members]
        if None not in sizes:
            notes.append(f"{number(sum(sizes))} {key}")
            break
    else:
        notes.append(f"identity {first.identity[:8]}" if count == 1 else f"{count} artifacts")
    return (name if len(name) <= 22 else f"{name[:21]}…"), ", ".join(filter(None, notes))


def _total(size: object) -> float | None:
    """A count, also where it is split into train, valid and test."""
    if isinstance(size, dict):
        return sum(size.values())
    return size if isinstance(size, int | float) else None


def _sort(kind: str) -> str:
    if kind.startswith("evaluation"):
        return "evaluation"
    model = kind.startswith("pretrain") or kind in {"sft", "sft/model", "rl/final"} or kind.startswith("rl/rl")
    return "model" if model else "data"
