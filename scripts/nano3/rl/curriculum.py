"""Curriculum over pass rates: easy prompts first, hard ones last (report, section 3.2.2).

Pass rates come from a profile, the mean reward of a few responses to every prompt. Solved prompts are dropped. Every
step has a fixed number of prompts of each environment. Within an environment the pass rate of a prompt is drawn from
a Gaussian whose mean falls linearly over the run, and the prompt from those of this pass rate that were not used yet:
so the steps follow the Gaussian whatever the data set is made of. Once all of them are used, a new epoch begins.

When the held-out reward no longer rises, the prompts are profiled again with the best policy so far, and the
curriculum starts afresh over the steps that are left.

Which prompts a step trains on is a function of the profiles, the seed and the step's number alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nano3.errors import UserError
from nano3.recipe.training import CurriculumSettings
from nano3.rl.loop import Position
from nano3.rl.order import derived_seed, environment_shares, prompts_before

LEVELS = 20  # pass rates are told apart in steps of 1 / LEVELS

PassRates = Mapping[int, float]  # index of a prompt -> pass rate in [0, 1]


def mean_at(progress: float, mean: tuple[float, float]) -> float:
    """The Gaussian's mean after this share of the run: linear from mean[0] to mean[1]."""
    return mean[0] + (mean[1] - mean[0]) * min(max(progress, 0.0), 1.0)


def unsolved(by_environment: Mapping[str, Sequence[int]], rates: PassRates, solved: float) -> dict[str, list[int]]:
    """The profiled prompts of every environment whose pass rate is below `solved`; environments without any are left
    out. Raises UserError when nothing is left."""
    kept = {
        name: [index for index in indices if index in rates and rates[index] < solved]
        for name, indices in by_environment.items()
    }
    kept = {name: indices for name, indices in kept.items() if indices}
    if not kept:
        raise UserError(
            f"the curriculum has no prompts left: all {len(rates)} profiled prompts have a pass rate of {solved:g} or"
            " more.\n  Give rl.prompts.train harder tasks, or raise curriculum.solved."
        )
    return kept


def schedule(
    by_environment: Mapping[str, Sequence[int]],
    rates: PassRates,
    settings: CurriculumSettings,
    *,
    first: int,
    steps: int,
    per_step: int,
    ratio: Mapping[str, float],
    seed: int,
) -> Iterator[list[int]]:
    """Indices of the prompts of step `first`, `first` + 1, ...: `per_step` of them each, shuffled; never ends.

    The mean is at its start at step `first` and at its end at step `steps` - 1 and after."""
    kept = unsolved(by_environment, rates, settings.solved)
    shares = environment_shares({name: len(indices) for name, indices in kept.items()}, _present(ratio, kept))
    streams = {
        name: _Stream(indices, rates, settings.width, derived_seed(seed, "curriculum", name, first))
        for name, indices in kept.items()
    }
    step = first
    while True:
        before, after = (prompts_before(number, per_step, shares) for number in (step, step + 1))
        mean = mean_at((step - first) / max(1, steps - 1 - first), settings.mean)
        chosen = [index for name in shares for index in streams[name].take(after[name] - before[name], mean)]
        order = np.random.default_rng(derived_seed(seed, "curriculum", "shuffle", step)).permutation(len(chosen))
        yield [chosen[i] for i in order]
        step += 1


def _present(ratio: Mapping[str, float], kept: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """The ratio without environments all of whose prompts are solved."""
    return {name: share for name, share in ratio.items() if name in kept}


class _Stream:
    """The prompts of one environment, by level of their pass rate."""

    def __init__(self, indices: Sequence[int], rates: PassRates, width: float, seed: int):
        self._by_level: dict[float, list[int]] = {}
        for index in indices:
            self._by_level.setdefault(round(rates[index] * LEVELS) / LEVELS, []).append(index)
        self._width, self._random = width, np.random.default_rng(seed)
        self._left = self._epoch()

    def _epoch(self) -> dict[float, list[int]]:
        return {level: list(self._random.permutation(mine)) for level, mine in sorted(self._by_level.items())}

    def take(self, count: int, mean: float) -> list[int]:
        """The next `count` prompts, with the Gaussian around `mean`."""
        chosen = []
        for _ in range(count):
            if not self._left:
                self._left = self._epoch()
            levels = np.array(list(self._left))
            # Relative to the nearest level, so that a narrow Gaussian far from all levels doesn't vanish.
            exponent = -0.5 * ((levels - mean) / self._width) ** 2
            weights = np.exp(exponent - exponent.max())
            level = float(levels[self._random.choice(len(levels), p=weights / weights.sum())])
            chosen.append(int(self._left[level].pop()))
            if not self._left[level]:
                del self._left[level]
        return chosen


@dataclass
class Curriculum:
    """The curriculum of one stage. `work`: its work directory, where new profiles go.

    The position's state holds what changes during a run:
        profiles  [[step from which it counts, file in `work`], ...], after the first profile
        history   held-out rewards since the last profile"""

    settings: CurriculumSettings
    by_environment: Mapping[str, Sequence[int]]
    rates: PassRates
    steps: int
    per_step: int
    ratio: Mapping[str, float]
    seed: int
    work: Path
    _planned: dict[int, list[list[int]]] = field(default_factory=dict)
    _rates: dict[int, PassRates] = field(default_factory=dict)
    _running: dict[int, Iterator[list[int]]] = field(default_factory=dict)

    def prompts_of_step(self, step: int, at: Position) -> list[int]:
        """Indices of the prompts of one step (0 is the first)."""
        begins, rates = self._profile(step, at)
        if begins not in self._running:
            self._running[begins] = schedule(
                self.by_environment,
                rates,
                self.settings,
                first=begins,
                steps=self.steps,
                per_step=self.per_step,
                ratio=self.ratio,
                seed=self.seed,
            )
            self._planned[begins] = []
        planned = self._planned[begins]
        while len(planned) <= step - begins:
            planned.append(next(self._running[begins]))
        return planned[step - begins]

    def pass_rates(self, step: int, at: Position) -> PassRates:
        """The profile that a step's prompts are chosen by."""
        return self._profile(step, at)[1]

    def _profile(self, step: int, at: Position) -> tuple[int, PassRates]:
        """The step from which the profile of this step counts, and that profile."""
        begins, file = max(
            ((first, file) for first, file in [[0, None], *at.state.get("profiles", [])] if first <= step),
            key=lambda profile: profile[0],
        )
        if begins not in self._rates:
            self._rates[begins] = self.rates if file is None else read_profile(self.work / file)
        return begins, self._rates[begins]

    def after_validation(self, at: Position, reward: float, profile: Callable[[], list[dict]]) -> bool:
        """Note a held-out reward; on a plateau, profile again. Returns whether it did."""
        history = at.state.setdefault("history", [])
        history.append(reward)
        if self.settings.patience is None or not plateau(history, self.settings.patience, self.settings.least_gain):
            return False
        if at.step >= self.steps:
            return False
        file = f"profile_{at.step}.jsonl"
        write_profile(self.work / file, profile())
        at.state.setdefault("profiles", []).append([at.state.get("draws", at.step), file])
        at.state["history"] = []
        return True


def plateau(history: Sequence[float], patience: int, least_gain: float) -> bool:
    """Whether none of the last `patience` values beats the best one before them by `least_gain`."""
    if len(history) <= patience:
        return False
    return max(history[-patience:]) < max(history[:-patience]) + least_gain


def write_profile(file: Path, rows: Sequence[dict]) -> None:
    """Write a profile: JSONL, one prompt a line with its `index` and `pass_rate` and what else is known."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_profile(file: Path) -> dict[int, float]:
    """Index of a prompt -> pass rate. Raises UserError for a file that is no profile."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rates = {int(row["index"]): float(row["pass_rate"]) for row in rows}
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; expected the profile that scripts/rl_profile.py writes") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no profile ({type(error).__name__}: {error}): every line needs index and pass_rate"
        ) from None
    wrong = [index for index, rate in rates.items() if not 0 <= rate <= 1]
    if wrong or not rates:
        problem = f"prompt {wrong[0]} has pass rate {rates[wrong[0]]}" if wrong else "it is empty"
        raise UserError(f"{file} is no profile: {problem}; expected rates from 0 to 1. Make it again.")
    return rates
