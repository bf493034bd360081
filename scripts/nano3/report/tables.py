"""The report's tables of evaluated models, as plain values for the template: one column a model, in the recipe's order.

A cell says how its value differs from the column before, and from the SFT model's.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from nano3.report import results
from nano3.report.read import Evaluated, Stage
from nano3.report.svg import interval_chart

T = TypeVar("T")
SFT = "evaluation/sft"
PARTS = (("thinking", "thinking"), ("answer", "answer"), ("response", "both"))
PROBES = {
    "all": "all requests without tools",
    "tools_taken_away": "requests written for tools",
    "never_offered": "requests of other environments",
}

Cell = dict[str, Any] | None


def rewards(evaluations: Sequence[Evaluated]) -> dict[str, Any] | None:
    """Table and chart: environment -> score of every model."""
    scored = [(evaluated, results.scores(evaluated)) for evaluated in evaluations]
    scored = [(evaluated, found) for evaluated, found in scored if found]
    if not scored:
        return None
    environments = sorted({environment for _, found in scored for environment in found})
    rows = [(name.replace("_", " "), [found.get(name) for _, found in scored]) for name in environments]
    models = [evaluated for evaluated, _ in scored]
    chart = interval_chart(
        [(name, [(s.mean, s.low, s.high) if s else None for s in values]) for name, values in rows],
        [evaluated.title for evaluated in models],
        title="Held-out reward by environment",
    )
    total = [results.overall(found) for _, found in scored]
    return {
        "models": [evaluated.title for evaluated in models],
        "rows": [(name, compared(models, values, results.change)) for name, values in rows],
        "total": compared(models, total, results.change) if len(environments) > 1 else None,
        "chart": chart,
        "legend": tuple((evaluated.title, index, False) for index, evaluated in enumerate(models)),
    }


def compared(models: Sequence[Evaluated], values: Sequence[T | None], change: Callable[[T, T], Any]) -> list[Cell]:
    """Cells {"value", "changes": [(what it is compared with, change), ...]}: with the SFT model, and with the column
    before where that is another one."""
    sft = next((i for i, model in enumerate(models) if model.path == SFT), None)
    cells: list[Cell] = []
    before: int | None = None
    for index, value in enumerate(values):
        if value is None:
            cells.append(None)
            continue
        against = [sft] if sft is not None and index > sft and values[sft] is not None else []
        against += [before] if before is not None and before not in against else []
        changes = [(models[other].title, change(values[other], value)) for other in against]
        cells.append({"value": value, "changes": [found for found in changes if found[1] is not None]})
        before = index
    return cells


def lengths(evaluations: Sequence[Evaluated]) -> dict[str, Any] | None:
    """Response lengths: of all environments and of the open conversations, then by environment; each with a row for
    thinking, answer and both."""
    found = [(evaluated, results.lengths(evaluated)) for evaluated in evaluations]
    found = [(evaluated, lengths) for evaluated, lengths in found if lengths]
    if not found:
        return None
    models = [evaluated for evaluated, _ in found]
    names = list(dict.fromkeys(name for _, lengths in found for name in lengths))

    def block(name: str) -> dict[str, Any]:
        rows = []
        for part, label in PARTS:
            values = [lengths.get(name, {}).get(part) for _, lengths in found]
            cells = [
                cell and {**cell, "changes": cell["changes"][-1:]}
                for cell in compared(models, values, results.shortened)
            ]
            rows.append((label, cells))
        return {"name": name.replace("_", " "), "rows": rows}

    top = [name for name in names if name in (results.ALL, results.CONVERSATIONS)]
    return {
        "models": [evaluated.title for evaluated in models],
        "top": [block(name) for name in top],
        "environments": [block(name) for name in names if name not in top],
    }


def tools(evaluations: Sequence[Evaluated]) -> dict[str, Any] | None:
    """How often tools are called that were not offered."""
    found = [(evaluated, results.tools(evaluated)) for evaluated in evaluations]
    found = [(evaluated, rates) for evaluated, rates in found if rates]
    if not found:
        return None
    models = [evaluated for evaluated, _ in found]
    present = [(name, label) for name, label in PROBES.items() if any(name in rates for _, rates in found)]
    return {
        "models": [evaluated.title for evaluated in models],
        "rows": [
            (label, compared(models, [rates.get(name) for _, rates in found], results.change))
            for name, label in present
        ],
    }


def conversations(evaluations: Sequence[Evaluated]) -> dict[str, Any] | None:
    """Open conversations: form, and how often the reward model prefers the responses to the SFT model's."""
    talked = [(evaluated, evaluated.measured.get("conversations")) for evaluated in evaluations]
    talked = [(evaluated, found) for evaluated, found in talked if found]
    if not talked:
        return None
    return {
        "models": [evaluated.title for evaluated, _ in talked],
        "form": [found for _, found in talked],
        "won": [
            {"value": rate, "broken": found["win_rate"]["broken_share"]} if (rate := results.win_rate(e)) else None
            for e, found in talked
        ],
    }


def random_order(
    ordered: Evaluated | None, random: Evaluated | None, stages: tuple[Stage | None, Stage | None]
) -> dict[str, Any] | None:
    """The curriculum against prompts in random order: by environment and in the mean; None without such a run."""
    if ordered is None or random is None:
        return None
    theirs, ours = results.scores(random), results.scores(ordered)
    names = sorted(set(theirs) & set(ours))
    if not names:
        return None
    rows = [(name.replace("_", " "), ours[name], theirs[name]) for name in names]
    mean = [results.overall({name: found[name] for name in names}) for found in (ours, theirs)]
    rows += [(results.ALL, *mean)] if len(names) > 1 else []
    return {
        "rows": [
            {"name": name, "ordered": mine, "random": other, "change": results.change(other, mine)}
            for name, mine, other in rows
        ],
        "steps": tuple(len(stage.train) if stage else None for stage in stages),
    }


def bits(evaluations: Sequence[Evaluated]) -> dict[str, Any] | None:
    """Bits per byte: data set -> (unigram baseline, one value a model)."""
    found = [(evaluated.title, results.bits_per_byte(evaluated)) for evaluated in evaluations]
    found = [(name, values) for name, values in found if values]
    if not found:
        return None
    datasets = sorted({dataset for _, values in found for dataset in values})
    rows = []
    for dataset in datasets:
        entries = [values.get(dataset) for _, values in found]
        unigram = next((entry.get("unigram") for entry in entries if entry and entry.get("unigram")), None)
        best = min((entry["model"] for entry in entries if entry), default=None)
        rows.append({"dataset": dataset, "unigram": unigram, "entries": entries, "best": best})
    return {"models": [name for name, _ in found], "rows": rows}
