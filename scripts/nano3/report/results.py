"""Evaluations side by side: rewards with intervals, which changes are significant, bits per byte, sampled answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nano3.report.read import Evaluated

Z95 = 1.959964  # of a two-sided 95% normal interval


@dataclass(frozen=True)
class Score:
    """A model in one environment. mean, low, high: reward and its 95% interval; shares and lengths of its responses."""

    prompts: int
    generations: int
    mean: float
    low: float
    high: float
    finished: float
    well_formed: float
    mean_length: float

    @property
    def n(self) -> int:
        return self.prompts * self.generations

    @property
    def error(self) -> float:
        """Standard error that the interval stands for."""
        return (self.high - self.low) / (2 * Z95)


@dataclass(frozen=True)
class Change:
    """The difference of two scores; significant: its 95% interval does not hold 0."""

    difference: float
    significant: bool


def scores(evaluated: Evaluated) -> dict[str, Score]:
    """Environment -> score."""
    fields = Score.__dataclass_fields__
    return {
        name: Score(**{key: entry[key] for key in fields})
        for name, entry in sorted(evaluated.measured.get("environments", {}).items())
    }


def change(before: Score, after: Score) -> Change:
    """Compare two scores as if their errors were independent. With common prompts that is the careful side: errors
    of the same prompts go together, so the true interval of the difference is narrower."""
    difference = after.mean - before.mean
    error = math.hypot(before.error, after.error)
    return Change(difference, abs(difference) > Z95 * error)


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
    """Environment -> prompts, each with the answers of every model: {"prompt", "answers": [{"model", ...}]}.

    Models answer the same held-out prompts; a prompt that only one of them was sampled on stands alone."""
    by_prompt: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for evaluated in evaluations:
        for sample in evaluated.measured.get("samples", []):
            opened = sample["prompt"].rstrip().endswith("<think>")
            thinking, answer = split_answer(sample["response"], opened=opened)
            by_prompt.setdefault((sample["environment"], sample["prompt"]), []).append(
                {**sample, "model": evaluated.title, "thinking": thinking, "answer": answer}
            )
    found: dict[str, list[dict[str, Any]]] = {}
    for (environment, prompt), answers in sorted(by_prompt.items(), key=lambda item: (item[0][0], -len(item[1]))):
        first = {answer["model"]: answer for answer in reversed(answers)}
        chosen = [first[evaluated.title] for evaluated in evaluations if evaluated.title in first]
        shown = found.setdefault(environment, [])
        if len(shown) < each:
            shown.append({"turns": turns(prompt), "answers": chosen})
    return dict(sorted(found.items()))


def split_answer(response: str, *, opened: bool = False) -> tuple[str, str]:
    """(thinking, answer) of a response. opened: the prompt ended inside a think block.

    A response that never closed its think block is all thinking."""
    text = response.replace("<|im_end|>", "").replace("<|endoftext|>", "")
    before, closed, after = text.partition("</think>")
    if closed or opened or "<think>" in text:
        return before.replace("<think>", "").strip(), after.strip()
    return "", text.strip()


def turns(prompt: str) -> list[tuple[str, str]]:
    """(role, text) of a rendered prompt, without empty turns and the opened answer."""
    found = []
    for part in prompt.split("<|im_start|>")[1:]:
        role, _, text = part.partition("\n")
        text = text.split("<|im_end|>")[0].strip()
        if text and role != "assistant":
            found.append((role, text))
    return found or [("user", prompt.strip())]
