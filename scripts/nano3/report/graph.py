"""The lineage graph as an SVG: layers from sources to results, one box a group of artifacts."""

from collections.abc import Sequence
from html import escape

from nano3.artifacts.lineage import Group, Lineage, grouped
from nano3.report.svg import number

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 158, 44, 22, 40, 8
SWEEPS = 8
# Kind of artifact -> colour of its box's edge: data, model, measurement.
COLOURS = {"data": 1, "model": 3, "evaluation": 5}


def draw_lineage(lineage: Lineage) -> str:
    """The grouped graph as a self-contained `<svg>`; empty for a lineage without artifacts."""
    groups, edges = grouped(lineage)
    if not groups:
        return ""
    layers = _ordered(_layers(len(groups), edges), edges)
    widest = max(len(layer) for layer in layers)
    width = 2 * MARGIN + widest * BOX_WIDTH + (widest - 1) * GAP_X
    height = 2 * MARGIN + len(layers) * BOX_HEIGHT + (len(layers) - 1) * GAP_Y
    place = _places(layers, width)
    drawn = [_edge(place[source], place[target]) for source, target in edges]
    drawn += [_box(groups[index], *place[index]) for index in sorted(place)]
    described = f"{len(lineage.nodes)} artifacts in {len(groups)} groups, {len(lineage.edges)} edges"
    return (
        f'<svg class="lineage" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img"'
        f' aria-labelledby="t-lineage d-lineage"><title id="t-lineage">Lineage of {escape(lineage.recipe)}</title>'
        f'<desc id="d-lineage">{described}</desc>' + "".join(drawn) + "</svg>"
    )


def standalone(svg: str) -> str:
    """The picture as a file of its own, readable on light and dark grounds."""
    style = (
        "<style>svg{--c1:#2f6fdb;--c3:#0c8a68;--c5:#7b57d1;--ink:#1b1f24;--soft:#66707c;--line:#aab2bd;--paper:#fff;"
        "font-family:system-ui,sans-serif;background:var(--paper)}"
        "@media(prefers-color-scheme:dark){svg{--ink:#e8eaed;--soft:#9aa4b0;--line:#59636f;--paper:#14171b}}"
        ".box{fill:var(--paper);stroke-width:1.5}.c1{stroke:var(--c1)}.c3{stroke:var(--c3)}.c5{stroke:var(--c5)}"
        ".name{font-size:13px;fill:var(--ink);font-weight:600}.note{font-size:11px;fill:var(--soft)}"
        ".edge{fill:none;stroke:var(--line);stroke-width:1.3}</style>"
    )
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Longest-path layers, then every source moves down to just above its first use, so that edges stay short."""
    sources: dict[int, list[int]] = {i: [] for i in range(count)}
    targets: dict[int, list[int]] = {i: [] for i in range(count)}
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    depth: dict[int, int] = {}

    def find(index: int) -> int:
        if index not in depth:
            depth[index] = 0
            depth[index] = 1 + max((find(source) for source in sources[index]), default=-1)
        return depth[index]

    for index in range(count):
        find(index)
    for index in sorted(depth, key=lambda i: -depth[i]):
        if targets[index]:
            depth[index] = min(depth[target] for target in targets[index]) - 1
    layers: list[list[int]] = [[] for _ in range(max(depth.values()) + 1)]
    for index in range(count):
        layers[depth[index]].append(index)
    return layers


def _ordered(layers: list[list[int]], edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Barycentre sweeps: neighbours come to stand above each other, so that few edges cross."""
    near: dict[int, list[int]] = {}
    for source, target in edges:
        near.setdefault(source, []).append(target)
        near.setdefault(target, []).append(source)
    for _ in range(SWEEPS):
        position = {index: (i + 0.5) / len(layer) for layer in layers for i, index in enumerate(layer)}
        for layer in layers:
            wish = {
                index: sum(position[n] for n in near.get(index, [index])) / len(near.get(index, [index])) for index in layer
            }
            layer.sort(key=lambda index: (wish[index], index))
            position |= {index: (i + 0.5) / len(layer) for i, index in enumerate(layer)}
    return layers


def _places(layers: list[list[int]], width: float) -> dict[int, tuple[float, float]]:
    """Top left corner of every box; layers are centred."""
    place = {}
    for row, layer in enumerate(layers):
        used = len(layer) * BOX_WIDTH + (len(layer) - 1) * GAP_X
        for column, index in enumerate(layer):
            x = (width - used) / 2 + column * (BOX_WIDTH + GAP_X)
            place[index] = (round(x, 1), MARGIN + row * (BOX_HEIGHT + GAP_Y))
    return place


def _edge(source: tuple[float, float], target: tuple[float, float]) -> str:
    x0, y0 = source[0] + BOX_WIDTH / 2, source[1] + BOX_HEIGHT
    x1, y1 = target[0] + BOX_WIDTH / 2, target[1]
    bend = max(18.0, (y1 - y0) / 2)
    return f'<path class="edge" d="M{x0:g} {y0:g}C{x0:g} {y0 + bend:g} {x1:g} {y1 - bend:g} {x1:g} {y1:g}"/>'


def _box(group: Group, x: float, y: float) -> str:
    first = group.members[0]
    name, note = label(group)
    tooltip = [f"{group.kind}, identity {first.identity}"] if len(group.members) == 1 else [group.kind]
    tooltip += [member.path for member in group.members[:20]]
    tooltip += [f"and {len(group.members) - 20} more"] if len(group.members) > 20 else []
    center = x + BOX_WIDTH / 2
    return (
        f'<g><title>{escape(chr(10).join(tooltip))}</title><rect class="box c{COLOURS[_sort(group.kind)]}" x="{x:g}"'
        f' y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"/>'
        f'<text class="name" text-anchor="middle" x="{center:g}" y="{y + 19:g}">{escape(name)}</text>'
        f'<text class="note" text-anchor="middle" x="{center:g}" y="{y + 35:g}">{escape(note)}</text></g>'
    )


def label(group: Group) -> tuple[str, str]:
    """Name of a box and the line below it: its size in tokens or rows, and of how many artifacts."""
    first = group.members[0]
    name = first.path if len(group.members) == 1 else f"{group.kind} × {len(group.members)}"
    name = name.removeprefix("data/")
    note = f"identity {first.identity[:8]}" if len(group.members) == 1 else "shard groups"
    for key in ("tokens", "rows"):
        sizes = [_total(member.statistics.get(key)) for member in group.members]
        if None not in sizes:
            note = f"{number(sum(sizes))} {key}"
            break
    return (name if len(name) <= 22 else f"…{name[-21:]}"), note


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
