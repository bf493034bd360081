"""The report's curves, from metrics rows alone. Those of reinforcement learning are in `reinforcement`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nano3.model.config import MOE
from nano3.report.read import SHORT_TITLES, Stage
from nano3.report.svg import Series, heat_map, line_chart

Row = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A chart with what stands around it. legend: (name, colour from 0, dashed)."""

    title: str
    svg: str
    note: str = ""
    legend: tuple[tuple[str, int, bool], ...] = ()


def pretraining(stages: Sequence[Stage]) -> list[Figure]:
    """Loss, bits per byte, learning rate, gradient norm and expert load over all pretraining stages."""
    rows = joined(stages)
    if not rows.train:
        return []
    loss = [Series("training", rows.points("loss"), 0)]
    loss.append(Series("validation, mean of data sets", rows.valid_points(_mean_of("loss")), 1, dashed=True, dots=True))
    bits = _bits_by_dataset(rows)
    rate = [Series("learning rate", rows.points("lr"), 0)]
    norm = [Series("gradient norm", rows.points("grad_norm"), 4)]
    load = [Series("worst layer", rows.points("max_violation"), 2)]
    named = [
        ("Loss", loss, "nats per token", False, "Phases differ in their data, so the loss may jump where one begins."),
        (
            "Bits per byte on held-out text",
            bits,
            "bits per byte",
            False,
            "Comparable between tokenizers; lower is better.",
        ),
        ("Learning rate", rate, "learning rate", True, "Warmup, stable, decay; then a constant rate for long context."),
        ("Gradient norm", norm, "global norm before clipping", True, ""),
        (
            "Uneven load of the experts",
            load,
            "(largest − mean) / mean",
            True,
            "0 is perfect balance: every expert sees the same number of tokens.",
        ),
    ]
    figures = [
        chart(title, series, "tokens", y_label, note, from_zero=zero, boundaries=rows.boundaries)
        for title, series, y_label, zero, note in named
    ]
    return [figure for figure in (*figures, expert_load(stages)) if figure]


def _bits_by_dataset(rows: "Rows") -> list[Series]:
    """One line a data set. Where a set is measured at several lengths ("name@1024"), the shortest goes on with the
    set's line and the others are dashed ones of its colour."""
    keys = {name for row in rows.valid for name in row.get("bits_per_byte", {})}
    names = sorted({key.split("@")[0] for key in keys})
    lengths = sorted({int(key.split("@")[1]) for key in keys if "@" in key})
    drawn = []
    for colour, name in enumerate(names):
        short = [name, *(f"{name}@{length}" for length in lengths[:1])]
        points = [point for key in short for point in rows.valid_points(_entry_of("bits_per_byte", key))]
        drawn.append(Series(name, sorted(points), colour, dots=True))
        for length in lengths[1:]:
            points = rows.valid_points(_entry_of("bits_per_byte", f"{name}@{length}"))
            drawn.append(Series(f"{name}, {length:,} tokens", points, colour, dashed=True, dots=True))
    return drawn


def fine_tuning(stage: Stage) -> list[Figure]:
    """Loss and learning rate of SFT."""
    rows = joined([stage], x="step")
    loss = [
        Series("training", rows.points("loss"), 0),
        Series("validation", rows.valid_points(_mean_of("loss")), 1, dashed=True, dots=True),
    ]
    rate = [Series("learning rate", rows.points("lr"), 0)]
    figures = (
        chart("SFT loss", loss, "step", "nats per supervised token", "Only assistant turns count."),
        chart("SFT learning rate", rate, "step", "learning rate", "", from_zero=True),
    )
    return [figure for figure in figures if figure]


def expert_load(stages: Sequence[Stage]) -> Figure | None:
    """Share of the tokens that each expert of each layer saw in the last step that recorded it."""
    for stage in reversed(stages):
        shares = next((row["expert_shares"] for row in reversed(stage.train) if "expert_shares" in row), None)
        if shares:
            pattern = (stage.manifest.config or {}).get("model", {}).get("pattern", "")
            layers = [index for index, letter in enumerate(pattern) if letter == MOE]
            names = [f"layer {layers[i] if i < len(layers) else i}" for i in range(len(shares))]
            title = "Load of every expert"
            svg = heat_map(shares, names, title=title, x_label="expert", neutral=1 / len(shares[0]))
            where = SHORT_TITLES.get(stage.path, stage.path)
            note = f"At the end of {where}. Orange: more than the even share, blue: less; full colour is twofold."
            return Figure(title, svg, note)
    return None


@dataclass(frozen=True)
class Rows:
    """Rows of one or more stages on a common x axis, "step" or "tokens"; each row has its x under "x"."""

    train: list[Row]
    valid: list[Row]
    boundaries: list[tuple[float, str]]

    def points(self, key: str) -> list[tuple[float, float]]:
        return [(row["x"], row[key]) for row in self.train if _finite(row.get(key))]

    def valid_points(self, value: Callable[[Row], float | None]) -> list[tuple[float, float]]:
        return [(row["x"], found) for row in self.valid if (found := value(row)) is not None]


def joined(stages: Sequence[Stage], x: str = "tokens") -> Rows:
    """Stages end to end: where a stage counts from 0 again, its x goes on after the stage before it."""
    train: list[Row] = []
    valid: list[Row] = []
    boundaries = []
    end = 0
    for stage in stages:
        if not stage.train:
            continue
        first = min(row.get(x, 0) for row in (*stage.train, *stage.valid))
        offset = end if first < end else 0
        if len(stages) > 1:
            boundaries.append(
                (float(max(end, first if stage.valid else end)), SHORT_TITLES.get(stage.path, stage.path))
            )
        train += [{**row, "x": row[x] + offset} for row in stage.train]
        valid += [{**row, "x": row[x] + offset} for row in stage.valid]
        end = train[-1]["x"]
    return Rows(train, valid, boundaries)


def chart(
    title: str, series: Iterable[Series], x: str, y: str, note: str, *, stage: str = "", **options: Any
) -> Figure | None:
    """A line chart; None without points. stage: tells charts of the same title apart."""
    drawn = [line for line in series if line.points]
    if not drawn:
        return None
    legend = tuple(dict.fromkeys((line.name, line.colour, line.dashed) for line in drawn if not line.faint))
    svg = line_chart(drawn, title=f"{stage}: {title}" if stage else title, x_label=x, y_label=y, **options)
    unit = f"{y[0].upper()}{y[1:]}." if y.lower() not in title.lower() else ""
    return Figure(title, svg, f"{unit} {note}".strip(), legend)


def pair(rows: Rows, key: str, colour: int) -> list[Series]:
    """A measure on the training steps, and on held-out data."""
    return [
        Series("training", rows.points(key), colour),
        Series("held out", rows.valid_points(value_of(key)), colour + 1, dashed=True, dots=True),
    ]


def _mean_of(key: str) -> Callable[[Row], float | None]:
    """Mean of a row's values by data set; a single number is itself."""

    def value(row: Row) -> float | None:
        found = row.get(key)
        if isinstance(found, dict):
            return fmean(found.values()) if found else None
        return found if _finite(found) else None

    return value


def _entry_of(key: str, name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(key, {}).get(name)


def value_of(key: str) -> Callable[[Row], float | None]:
    """A row's number of this name, None if it has none."""
    return lambda row: row[key] if _finite(row.get(key)) else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and value == value and abs(value) != float("inf")
