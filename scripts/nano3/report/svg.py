"""Charts as inline SVG: small, sharp, readable without JavaScript, and themed by the page's CSS variables.

Colours are the page's `--c1` ... `--c8`; every chart carries a title and a description for screen readers, and native
tooltips. Numbers are rounded to a tenth of a pixel, so equal data gives equal bytes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 560, 52, 14, 14, 40
COLOURS = 8
HOVER_STRIPS = 60
MAX_POINTS = 400


@dataclass(frozen=True)
class Series:
    """One line: points (x, y) in the order of x. colour counts from 0; dots also draws the points."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False
    dots: bool = False
    faint: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: int = WIDTH,
    height: int = 250,
    from_zero: bool = False,
    percent: bool = False,
    boundaries: Sequence[tuple[float, str]] = (),
) -> str:
    """Lines over a common x axis. boundaries: (x, label) of vertical rules, e.g. where a phase begins."""
    series = [s for s in series if s.points]
    if not series:
        return ""
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    x_low, x_high = min(xs), max(xs)
    nothing = from_zero and max(ys) == 0  # an axis of its own, not one around 0
    y_ticks = ticks(0 if from_zero else min(ys), 1 if nothing else max(ys), 5)
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
    top = TOP + (18 if boundaries else 0)  # room for the names of the phases
    to_x = _scale(x_low, x_high, LEFT, width - RIGHT)
    to_y = _scale(y_low, y_high, height - BOTTOM, top)
    write = _percentages(y_ticks) if percent else number
    x_ticks = ticks(x_low, x_high, max(3, width // 90))
    parts = [_grid(y_ticks, to_y, write, width), _x_axis(x_ticks, x_low, x_high, to_x, width, height, x_label)]
    parts.append(_boundaries(boundaries, to_x, top, height - BOTTOM, width))
    parts += [_line(s, to_x, to_y) for s in series]
    parts.append(_hover(series, x_low, x_high, to_x, height, x_label, write))
    described = f"{y_label} over {x_label}: " + "; ".join(
        f"{s.name} from {write(s.points[0][1])} to {write(s.points[-1][1])}" for s in series
    )
    return _svg(parts, height, title, described, width)


def interval_chart(
    rows: Sequence[tuple[str, Sequence[tuple[float, float, float] | None]]], names: Sequence[str], *, title: str
) -> str:
    """Means with intervals on an axis from 0 to 100%: one row a thing, one dot a model.

    rows: (label, one (mean, low, high) or None for each of `names`)"""
    left, step, pad = 12, 15 if len(names) <= 4 else 12, 30
    row_height = pad + step * len(names)
    height = TOP + row_height * len(rows) + BOTTOM - 12
    to_x = _scale(0, 1, left, WIDTH - RIGHT - 4)
    base = height - BOTTOM + 8
    parts = [
        f'<line class="grid" x1="{_r(to_x(t))}" x2="{_r(to_x(t))}" y1="{TOP}" y2="{base}"/>'
        f'<text class="tick" text-anchor="middle" x="{_r(to_x(t))}" y="{base + 18}">{t:.0%}</text>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    described = []
    for index, (label, values) in enumerate(rows):
        y = TOP + index * row_height
        parts.append(f'<text class="row" x="{left + 2}" y="{y + 15}">{escape(label)}</text>')
        for position, (name, value) in enumerate(zip(names, values, strict=True)):
            if value is None:
                continue
            mean, low, high = value
            text = f"{label}, {name}: {mean:.1%}, 95% interval {low:.1%} to {high:.1%}"
            described.append(text)
            center = y + 28 + position * step
            parts.append(
                f'<g class="c{position + 1}"><title>{escape(text)}</title>'
                f'<rect class="target" x="{left}" y="{center - 7}" width="{WIDTH - left - RIGHT}" height="14"/>'
                f'<line class="whisker" x1="{_r(to_x(low))}" x2="{_r(to_x(high))}" y1="{center}" y2="{center}"/>'
                f'<circle r="5" cx="{_r(to_x(mean))}" cy="{center}"/></g>'
            )
    return _svg(parts, height, title, "; ".join(described))


def heat_map(
    values: Sequence[Sequence[float]], rows: Sequence[str], *, title: str, x_label: str, neutral: float
) -> str:
    """Cells [row][column], blue below `neutral` and orange above; the strength is the ratio to it, up to twofold."""
    columns = len(values[0])
    cell = (WIDTH - LEFT - RIGHT - 30) / columns
    size = min(max(cell, 22), 30) if columns <= 32 else 16
    height = TOP + round(size * len(values)) + BOTTOM - 4
    left = LEFT + 30
    parts = []
    for r, (name, line) in enumerate(zip(rows, values, strict=True)):
        y = TOP + r * size
        parts.append(
            f'<text class="tick" text-anchor="end" x="{left - 8}" y="{_r(y + size / 2 + 4)}">{escape(name)}</text>'
        )
        for c, value in enumerate(line):
            ratio = value / neutral if neutral else 1
            strength = min(1.0, abs(math.log2(max(ratio, 1e-6))))
            text = f"{name}, {x_label} {c}: {ratio:.2f} × the even share"
            parts.append(
                f'<rect class="{"c2" if ratio > 1 else "c1"}" fill-opacity="{max(strength, 0.04):.2f}"'
                f' x="{_r(left + c * cell)}" y="{_r(y)}" width="{_r(cell - 1)}" height="{_r(size - 1)}" rx="2">'
                f"<title>{escape(text)}</title></rect>"
            )
    every = max(1, math.ceil(columns / 16))
    parts += [
        f'<text class="tick" text-anchor="middle" x="{_r(left + (c + 0.5) * cell)}" y="{height - 20}">{c}</text>'
        for c in range(0, columns, every)
    ]
    parts.append(_label(x_label, height))
    worst = max(max(line) for line in values) / neutral if neutral else 1
    return _svg(
        parts, height, title, f"load of {len(values)} layers by {columns} {x_label}s; largest {worst:.2f} times even"
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that cover low ... high."""
    if not high > low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / max(1, count - 1)
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _percentages(marks: Sequence[float]) -> Callable[[float], str]:
    """Writes shares as percentages, with as many decimals as keep the marks of an axis apart."""
    digits = next((n for n in (0, 1, 2) if all(abs(round(mark, n + 2) - mark) < 1e-9 for mark in marks)), 3)
    return lambda value: f"{value:.{digits}%}"


def number(value: float) -> str:
    """A number for people: 1234567 -> "1.23M", 0.00123 -> "0.00123", 3.0 -> "3"."""
    size = abs(value)
    if size >= 1e15:
        return f"{value:.2e}"
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scaled = value / (1e3 if suffix == "k" else limit)
            return f"{_trim(f'{scaled:.3g}' if abs(scaled) < 1000 else f'{scaled:.0f}')}{suffix}"
    if size >= 1000:
        return f"{value:,.0f}"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{_trim(mantissa)}e{int(exponent)}"
    return _trim(f"{value:.3g}") if size < 100 else _trim(f"{value:.1f}")


def thinned(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points: means of consecutive ones, each at the last x of its bin. Fewer stay as they are."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / limit)
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in bins]


def histograms(rows: Sequence[tuple[str, Sequence[float]]], *, title: str, x_label: str) -> str:
    """One small histogram a row over shares in [0, 1]; the last bar of each is of those that are 1.

    rows: (label, values). Bars are shares of the row's values, all rows on one scale."""
    left, row_height, bins = 12, 54, 10
    height = TOP + row_height * len(rows) + BOTTOM
    cell = (WIDTH - left - RIGHT) / (bins + 1)
    shares = [(label, _shares(values, bins)) for label, values in rows]
    highest = max(max(found) for _, found in shares)
    parts, described = [], []
    for index, (label, found) in enumerate(shares):
        base = TOP + (index + 1) * row_height - 4
        parts.append(f'<text class="row" x="{left + 2}" y="{base - 35}">{escape(label)}</text>')
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
        for place, share in enumerate(found):
            tall = 30 * share / highest
            where = "1" if place == bins else f"{place / bins:.0%} to {(place + 1) / bins:.0%}"
            text = f"{label}, {x_label} {where}: {share:.1%} of the prompts"
            parts.append(
                f'<rect class="{"c8" if place == bins else "c1"}" x="{_r(left + place * cell + 1)}"'
                f' y="{_r(base - tall)}" width="{_r(cell - 2)}" height="{_r(tall)}" rx="1.5">'
                f"<title>{escape(text)}</title></rect>"
            )
        described.append(f"{label}: {found[0]:.0%} below 10%, {found[-1]:.0%} at 100%")
    for place in range(0, bins + 1, 2):
        x = left + (place + (0.5 if place == bins else 0)) * cell
        y = height - BOTTOM + 17
        parts.append(f'<text class="tick" text-anchor="middle" x="{_r(x)}" y="{y}">{place / bins:.0%}</text>')
    parts.append(_label(x_label, height))
    return _svg(parts, height, title, "; ".join(described))


def _shares(values: Sequence[float], bins: int) -> list[float]:
    counts = [0] * (bins + 1)
    for value in values:
        counts[min(bins, math.floor(value * bins + 1e-9))] += 1
    return [count / len(values) for count in counts]


def _svg(parts: Sequence[str], height: int, title: str, description: str, width: int = WIDTH) -> str:
    name = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="t-{name} d-{name}">'
        f'<title id="t-{name}">{escape(title)}</title><desc id="d-{name}">{escape(description)}</desc>'
        + "".join(parts)
        + "</svg>"
    )


def _grid(values: Sequence[float], to_y, write, width: int) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{_r(to_y(v))}" y2="{_r(to_y(v))}"/>'
        f'<text class="tick" text-anchor="end" x="{LEFT - 8}" y="{_r(to_y(v) + 4)}">{write(v)}</text>'
        for v in values
    )


def _x_axis(values: Sequence[float], low: float, high: float, to_x, width: int, height: int, label: str) -> str:
    inside = [v for v in values if low - 1e-9 <= v <= high + 1e-9]
    return "".join(
        f'<text class="tick" text-anchor="middle" x="{_r(to_x(v))}" y="{height - BOTTOM + 17}">{number(v)}</text>'
        for v in inside
    ) + _label(label, height, width)


def _label(text: str, height: int, width: int = WIDTH) -> str:
    return f'<text class="label" text-anchor="end" x="{width - RIGHT}" y="{height - 5}">{escape(text)}</text>'


def _boundaries(boundaries: Sequence[tuple[float, str]], to_x, top: float, bottom: float, width: int) -> str:
    """Vertical rules with their names above the plot; a name that would leave the picture or touch its neighbour is
    set to the left of its rule, or left to the tooltip."""
    drawn, free = [], float("-inf")
    for x, label in boundaries:
        at, wide = to_x(x), 6.5 * len(label)
        drawn.append(
            f'<line class="boundary" x1="{_r(at)}" x2="{_r(at)}" y1="{_r(top - 14)}" y2="{bottom}">'
            f"<title>{escape(label)}</title></line>"
        )
        end = at + 5 + wide > width
        start = at - 5 - wide if end else at + 5
        if start >= free:
            anchor = ' text-anchor="end"' if end else ""
            beside = _r(at - 5 if end else at + 5)
            drawn.append(f'<text class="mark"{anchor} x="{beside}" y="{_r(top - 5)}">{escape(label)}</text>')
            free = start + wide + 6
    return "".join(drawn)


def _line(series: Series, to_x, to_y) -> str:
    points = thinned(series.points)
    path = "M" + "L".join(f"{_r(to_x(x))} {_r(to_y(y))}" for x, y in points)
    extra = " dashed" if series.dashed else ""
    extra += " faint" if series.faint else ""
    drawn = f'<path class="line c{series.colour % COLOURS + 1}{extra}" d="{path}"/>'
    if series.dots or len(points) == 1:
        drawn += f'<g class="c{series.colour % COLOURS + 1}">' + "".join(
            f'<circle r="3" cx="{_r(to_x(x))}" cy="{_r(to_y(y))}"/>' for x, y in points
        )
        drawn += "</g>"
    return drawn


def _hover(series: Sequence[Series], low: float, high: float, to_x, height: int, x_label: str, write) -> str:
    """Vertical strips whose tooltips read all lines at that x."""
    count = min(HOVER_STRIPS, max(len(s.points) for s in series))
    if not high > low:
        return ""
    width = (high - low) / count
    strips = []
    for index in range(count):
        center = low + (index + 0.5) * width
        lines = []
        for s in series:
            x, y = min(s.points, key=lambda point: abs(point[0] - center))
            if abs(x - center) <= max(width, (high - low) / 25):
                lines.append(f"{s.name}: {write(y)}")
        if lines:
            text = escape("\n".join([f"{x_label} {number(round(center))}", *lines]))
            x0, x1 = to_x(low + index * width), to_x(low + (index + 1) * width)
            strips.append(
                f'<rect class="strip" x="{_r(x0)}" y="{TOP}" width="{_r(x1 - x0)}" height="{height - TOP - BOTTOM}">'
                f"<title>{text}</title></rect>"
            )
    return "".join(strips)


def _scale(low: float, high: float, start: float, end: float):
    span = (high - low) or 1
    return lambda value: start + (value - low) / span * (end - start)


def _r(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
