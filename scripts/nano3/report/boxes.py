"""Boxes in layers, joined by edges: how the lineage of artifacts and the workflow's rules are drawn, as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 178, 44, 20, 36, 8
SWEEPS = 8
# What a box stands for -> colour of its edge.
COLOURS = {"data": 1, "model": 3, "evaluation": 5}


@dataclass(frozen=True)
class Box:
    """name: first line; note: second line; sort: a key of COLOURS; tooltip: shown under the mouse."""

    name: str
    note: str
    sort: str
    tooltip: str = ""


def draw(boxes: Sequence[Box], edges: Sequence[tuple[int, int]], *, title: str, described: str, css_class: str) -> str:
    """A self-contained `<svg>`; edges are pairs of indices, and those that follow from longer paths are left out."""
    edges = reduced(edges)
    layers = _layers(len(boxes), edges)
    steps = _routed(layers, edges)
    layers = _ordered(layers, steps)
    width = 2 * MARGIN + max(_span(layer) for layer in layers)
    height = 2 * MARGIN + len(layers) * BOX_HEIGHT + (len(layers) - 1) * GAP_Y
    place = _places(layers, width)
    drawn = [_edge(place[source], place[target]) for source, target in steps]
    drawn += [_box(boxes[i], *place[i]) if i >= 0 else _pass(*place[i]) for i in sorted(place)]
    return (
        f'<svg class="{css_class}" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img"'
        f' aria-labelledby="t-{css_class} d-{css_class}"><title id="t-{css_class}">{escape(title)}</title>'
        f'<desc id="d-{css_class}">{escape(described)}</desc>' + "".join(drawn) + "</svg>"
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


def reduced(edges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The edges that don't follow from longer paths: a tokenizer that went into the data of a model is not drawn as an
    input of the model, too."""
    targets: dict[int, set[int]] = {}
    for source, target in edges:
        targets.setdefault(source, set()).add(target)
    reach: dict[int, set[int]] = {}

    def reachable(index: int) -> set[int]:
        if index not in reach:
            reach[index] = set().union(*({t} | reachable(t) for t in targets.get(index, ())))
        return reach[index]

    return [
        (source, target)
        for source, target in edges
        if not any(target in reachable(other) for other in targets[source] - {target})
    ]


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


def _routed(layers: list[list[int]], edges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Edges as steps from one layer to the next. Where an edge passes a layer, that layer gets a place for it, a
    negative index, which all edges of the same source share; so edges run between boxes, never behind them."""
    depth = {index: row for row, layer in enumerate(layers) for index in layer}
    passes: dict[tuple[int, int], int] = {}
    steps = set()
    for source, target in edges:
        at = source
        for row in range(depth[source] + 1, depth[target]):
            if (source, row) not in passes:
                passes[source, row] = -len(passes) - 1
                layers[row].append(passes[source, row])
            steps.add((at, passes[source, row]))
            at = passes[source, row]
        steps.add((at, target))
    return sorted(steps)


def _width(index: int) -> int:
    return BOX_WIDTH if index >= 0 else 0


def _span(layer: list[int]) -> int:
    return sum(map(_width, layer)) + (len(layer) - 1) * GAP_X


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
                index: sum(position[n] for n in near.get(index, [index])) / len(near.get(index, [index]))
                for index in layer
            }
            layer.sort(key=lambda index: (wish[index], index))
            position |= {index: (i + 0.5) / len(layer) for i, index in enumerate(layer)}
    return layers


def _places(layers: list[list[int]], width: float) -> dict[int, tuple[float, float]]:
    """Middle of the upper edge of every box; layers are centred."""
    place = {}
    for row, layer in enumerate(layers):
        x = (width - _span(layer)) / 2
        for index in layer:
            place[index] = (round(x + _width(index) / 2, 1), MARGIN + row * (BOX_HEIGHT + GAP_Y))
            x += _width(index) + GAP_X
    return place


def _edge(source: tuple[float, float], target: tuple[float, float]) -> str:
    x0, y0, x1, y1 = source[0], source[1] + BOX_HEIGHT, *target
    bend = (y1 - y0) / 2
    return f'<path class="edge" d="M{x0:g} {y0:g}C{x0:g} {y0 + bend:g} {x1:g} {y1 - bend:g} {x1:g} {y1:g}"/>'


def _pass(x: float, y: float) -> str:
    return f'<path class="edge" d="M{x:g} {y:g}v{BOX_HEIGHT}"/>'


def _box(box: Box, center: float, y: float) -> str:
    tooltip = f"<title>{escape(box.tooltip)}</title>" if box.tooltip else ""
    x = center - BOX_WIDTH / 2
    return (
        f'<g>{tooltip}<rect class="box c{COLOURS[box.sort]}" x="{x:g}"'
        f' y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"/>'
        f'<text class="name" text-anchor="middle" x="{center:g}" y="{y + 19:g}">{escape(box.name)}</text>'
        f'<text class="note" text-anchor="middle" x="{center:g}" y="{y + 35:g}">{escape(box.note)}</text></g>'
    )
