"""Evaluations side by side: rewards with intervals, which changes are significant, lengths, sampled answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nano3.report.conversations import shown, turns_of
from nano3.report.read import Evaluated

ALL, CONVERSATIONS = "all environments", "open conversations"
Z95 = 1.959964  # of a two-sided 95% normal interval


@dataclass(frozen=True)
class Rate:
    """A mean in [0, 1] of n responses, and its 95% interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def error(self) -> float:
        """Standard error that the interval stands for."""
        return (self.high - self.low) / (2 * Z95)


@dataclass(frozen=True)
class Score(Rate):
    """A model in one environment: its reward, and shares and lengths of its responses."""

    prompts: int
    generations: int
    finished: float
    well_formed: float
    mean_length: float


@dataclass(frozen=True)
class Length:
    """Mean tokens; margin: half of the 95% interval, None for a single prompt."""

    mean: float
    margin: float | None = None


@dataclass(frozen=True)
class Change:
    """The difference of two rates. margin: half of its 95% interval; disjoint: their own intervals don't overlap."""

    difference: float
    margin: float
    disjoint: bool

    @property
    def significant(self) -> bool:
        """Whether the interval of the difference excludes 0. Disjoint intervals say more."""
        return abs(self.difference) > self.margin

    @property
    def mark(self) -> str:
        """higher or lower with disjoint intervals; rather_higher or rather_lower when only the difference is
        significant; else same."""
        if not (self.disjoint or self.significant):
            return "same"
        return ("" if self.disjoint else "rather_") + ("higher" if self.difference > 0 else "lower")


def scores(evaluated: Evaluated) -> dict[str, Score]:
    """Environment -> score."""
    fields = set(Score.__dataclass_fields__) - {"n"}
    return {
        name: Score(**{key: entry[key] for key in fields}, n=entry["prompts"] * entry["generations"])
        for name, entry in sorted(evaluated.measured.get("environments", {}).items())
    }


def change(before: Rate, after: Rate) -> Change:
    """Compare two rates as if their errors were independent. With common prompts that is the careful side: errors
    of the same prompts go together, so the true interval of the difference is narrower."""
    margin = Z95 * math.hypot(before.error, after.error)
    disjoint = after.low > before.high or after.high < before.low
    return Change(after.mean - before.mean, margin, disjoint)


def overall(found: dict[str, Score]) -> Score | None:
    """Mean over environments, each with the same weight; errors add as those of independent measurements."""
    if not found:
        return None
    every = list(found.values())
    count = len(every)
    mean = sum(score.mean for score in every) / count
    half = Z95 * math.sqrt(sum(score.error**2 for score in every)) / count
    return Score(
        prompts=sum(score.prompts for score in every),
        generations=every[0].generations,
        n=sum(score.n for score in every),
        mean=mean,
        low=max(0.0, mean - half),
        high=min(1.0, mean + half),
        finished=sum(score.finished for score in every) / count,
        well_formed=sum(score.well_formed for score in every) / count,
        mean_length=sum(score.mean_length for score in every) / count,
    )


def bits_per_byte(evaluated: Evaluated) -> dict[str, dict[str, float]]:
    """Data set -> {"model", "unigram", and perhaps "margin"}."""
    return dict(sorted(evaluated.measured.get("bits_per_byte", {}).items()))


def samples(evaluations: Sequence[Evaluated], each: int = 2) -> dict[str, list[dict[str, Any]]]:
    """Environment -> prompts, each with the answers of every model: {"turns", "answers": [{"name", ...}]}.

    Models answer the same held-out prompts; a prompt that only one of them was sampled on stands alone. Conversations
    that no verifier scores come last."""
    by_prompt: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for evaluated in evaluations:
        scored = [(sample["environment"], sample) for sample in evaluated.measured.get("samples", [])]
        talked = evaluated.measured.get("conversations") or {}
        for environment, sample in [*scored, *((CONVERSATIONS, sample) for sample in talked.get("samples", []))]:
            answers = by_prompt.setdefault((environment, sample["prompt"]), {})
            answers.setdefault(evaluated.title, shown(evaluated.title, sample))
    found: dict[str, list[dict[str, Any]]] = {}
    order = sorted(by_prompt.items(), key=lambda item: (item[0][0] == CONVERSATIONS, item[0][0], -len(item[1])))
    for (environment, prompt), answers in order:
        mine = found.setdefault(environment, [])
        if len(mine) < each:
            mine.append({"turns": turns_of(prompt), "answers": list(answers.values())})
    return found


def lengths(evaluated: Evaluated) -> dict[str, dict[str, Length]]:
    """ALL, the open conversations where there are any, and every environment -> thinking, answer, response.

    The mean over environments weighs them equally, as `overall` does."""
    found = {
        name: {part: Length(**entry) for part, entry in parts.items()}
        for name, parts in sorted(evaluated.measured.get("lengths", {}).items())
    }
    every = list(found.values())
    talked = (evaluated.measured.get("conversations") or {}).get("lengths", {})
    first = {ALL: {part: _mean_length([parts[part] for parts in every]) for part in every[0]}} if every else {}
    first |= {CONVERSATIONS: {part: Length(**entry) for part, entry in talked.items()}} if talked else {}
    return first | found


def shortened(before: Length, after: Length) -> tuple[float, float | None] | None:
    """Relative change of a mean length, and half of its 95% interval (delta method, errors taken as independent);
    None from a length below one token, from which every percentage is absurd."""
    if before.mean < 1:
        return None
    ratio = after.mean / before.mean
    if before.margin is None or after.margin is None or not after.mean:
        return ratio - 1, None
    return ratio - 1, ratio * math.hypot(before.margin / before.mean, after.margin / after.mean)


def tools(evaluated: Evaluated) -> dict[str, Rate]:
    """Probes -> how often a tool was called that was not offered."""
    return {
        name: Rate(entry["rate"], entry["low"], entry["high"], entry["n"])
        for name, entry in (evaluated.measured.get("tools_not_offered") or {}).items()
    }


def win_rate(evaluated: Evaluated) -> Rate | None:
    """How often the reward model prefers this model's responses to those of the SFT model."""
    entry = (evaluated.measured.get("conversations") or {}).get("win_rate")
    return Rate(entry["mean"], entry["low"], entry["high"], entry["n"]) if entry else None


def _mean_length(every: Sequence[Length]) -> Length:
    margins = [length.margin for length in every]
    margin = None if None in margins else math.hypot(*margins) / len(every)
    return Length(sum(length.mean for length in every) / len(every), margin)
