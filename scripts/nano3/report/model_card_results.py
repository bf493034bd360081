"""The measured part of the model card: what post-training did, and the tables of held-out results, as Markdown."""

from collections.abc import Sequence
from typing import Any

from nano3.recipe import Recipe
from nano3.report import results, tables
from nano3.report.read import Evaluated, Stage

MARKS = {"higher": " ▲", "lower": " ▼"}  # against the SFT model, with disjoint intervals
WHAT = {
    "rl/rlvr1": "GRPO on rewards that programs check",
    "rl/genrm": "GRPO on comparisons, rewarded for verdicts near to people's; it is no ancestor of this model",
    "rl/rlhf": "GRPO with the reward model as judge, in a circle over each group, with group-relative length control",
    "rl/rlvr2": "GRPO on rewards that programs check, again",
    "rl/dpo": "preference pairs mined on policy, with calls of tools that were not offered on the rejected side",
}


def post_training(recipe: Recipe, stages: Sequence[Stage], evaluations: Sequence[Evaluated]) -> str:
    """What each RL stage did, from its own measurements and from the evaluations before and after it."""
    after = {evaluated.path.split("/")[-1]: evaluated for evaluated in evaluations}
    lines, before = [], after.get("sft")
    for stage in stages:
        if not stage.path.startswith("rl/"):
            continue
        here = after.get(stage.path.split("/")[-1])
        effect = "; ".join(_effects(stage, before, here))
        lines.append(f"- **{stage.title}**: {WHAT.get(stage.path, stage.path)}{f'. {effect}' if effect else ''}.")
        before = here or before
    return "## Post-training\n\n" + "\n".join(lines) if lines else ""


def _effects(stage: Stage, before: Evaluated | None, after: Evaluated | None) -> list[str]:
    if stage.path == "rl/genrm":
        ends = [stage.statistics.get("validation", {}).get(when, {}) for when in ("start", "end")]
        if all("ranking_accuracy" in end for end in ends):
            shares = " → ".join(f"{end['ranking_accuracy']:.1%}" for end in ends)
            return [f"Held-out ranking accuracy {shares} (guessing: 50%)"]
    if before is None or after is None:
        return []
    found = []
    scores = [results.overall(results.scores(evaluated)) for evaluated in (before, after)]
    if all(scores):
        found.append(f"Mean held-out reward {scores[0].mean:.1%} → {scores[1].mean:.1%}")
    if stage.path == "rl/rlhf":
        found += [_shortened(name, *sides) for name, sides in _common(before, after).items()]
    rates = [results.tools(evaluated).get("tools_taken_away") or results.tools(evaluated).get("all")
             for evaluated in (before, after)]  # fmt: skip
    if stage.path == "rl/dpo" and all(rates):
        found.append(f"absent tools called in {_rate(rates[0])} → {_rate(rates[1])} of the responses")
    return found


def _common(before: Evaluated, after: Evaluated) -> dict[str, tuple[results.Length, results.Length]]:
    """Whole responses of all environments and of the open conversations, before and after."""
    sides = [results.lengths(evaluated) for evaluated in (before, after)]
    names = [name for name in (results.ALL, results.CONVERSATIONS) if all(name in side for side in sides)]
    return {name: (sides[0][name]["response"], sides[1][name]["response"]) for name in names}


def _shortened(name: str, before: results.Length, after: results.Length) -> str:
    change = results.shortened(before, after)
    if change is None:
        return f"responses of {name} {after.mean:.1f} tokens"
    interval = "" if change[1] is None else f" ({change[0] - change[1]:+.1%} to {change[0] + change[1]:+.1%})"
    return f"length over {name} {before.mean:.1f} → {after.mean:.1f} tokens, {change[0]:+.1%}{interval}"


def evaluation(evaluations: Sequence[Evaluated]) -> str:
    """Rewards, lengths, tools that were not offered, open conversations and bits per byte: one column a model."""
    rewards = _rewards(evaluations)
    if not rewards:
        return ""
    parts = [rewards, _lengths(evaluations), _tools(evaluations), _won(evaluations), _bits(evaluations)]
    return "## Evaluation\n\n" + "\n\n".join(part for part in parts if part)


def _rewards(evaluations: Sequence[Evaluated]) -> str:
    found = tables.rewards(evaluations)
    if not found:
        return ""
    every = [*found["rows"], *([(results.ALL, found["total"])] if found["total"] else [])]
    rows = []
    for name, cells in every:
        n = next((f"{cell['value'].n:,}" for cell in cells if cell), "")
        rows.append((name, n, *map(_cell, cells)))
    return (
        "Mean reward on held-out problems, with 95% intervals over prompts; n counts sampled answers of each model."
        " ▲ and ▼: higher and lower than the SFT model with intervals that don't overlap.\n\n"
        + table(("Environment", "n", *found["models"]), rows)
    )


def _cell(cell: tables.Cell) -> str:
    if cell is None:
        return ""
    marks = [MARKS.get(change.mark, "") for name, change in cell["changes"] if name == "SFT"]
    return _rate(cell["value"]) + "".join(marks)


def _rate(rate: results.Rate) -> str:
    return f"{rate.mean:.1%} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def _lengths(evaluations: Sequence[Evaluated]) -> str:
    found = tables.lengths(evaluations)
    if not found:
        return ""
    rows = [
        (block["name"], part, *(_length(cell) for cell in cells))
        for block in found["top"]
        for part, cells in block["rows"]
    ]
    text = "Mean length of the responses in tokens, and the change from the column before.\n\n"
    return text + table(("Prompts", "Part", *found["models"]), rows)


def _length(cell: tables.Cell) -> str:
    if cell is None:
        return ""
    margin = "" if cell["value"].margin is None else f" ± {cell['value'].margin:.1f}"
    return f"{cell['value'].mean:.1f}{margin}" + "".join(f", {change[0]:+.1%}" for _, change in cell["changes"])


def _tools(evaluations: Sequence[Evaluated]) -> str:
    found = tables.tools(evaluations)
    if not found:
        return ""
    rows = [(label, *map(_cell, cells)) for label, cells in found["rows"]]
    text = "Share of responses that call a tool which was not offered, with 95% intervals; lower is better.\n\n"
    return text + table(("Probes", *found["models"]), rows)


def _won(evaluations: Sequence[Evaluated]) -> str:
    won = [(evaluated.title, rate) for evaluated in evaluations if (rate := results.win_rate(evaluated))]
    if not won:
        return ""
    rates = ", ".join(f"{title} {_rate(rate)}, n = {rate.n}" for title, rate in won)
    return f"On open conversations the reward model prefers a response to the SFT model's: {rates}."


def _bits(evaluations: Sequence[Evaluated]) -> str:
    found = tables.bits(evaluations)
    if not found:
        return ""
    rows = [
        (
            row["dataset"],
            "" if row["unigram"] is None else f"{row['unigram']:.3f}",
            *(_bits_cell(entry) for entry in row["entries"]),
        )
        for row in found["rows"]
    ]
    head = ("Data set", "Unigram", *found["models"])
    said = "Bits per byte of held-out text, lower is better; fine-tuned on chats, a model expects plain text less.\n\n"
    return said + table(head, rows)


def _bits_cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    return f"{entry['model']:.3f}" + (f" ± {entry['margin']:.3f}" if entry.get("margin") else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
