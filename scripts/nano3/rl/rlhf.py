"""RLHF with a generative reward model and group-relative length control (report, section 3.3.2).

The N responses to a prompt are compared in a circle, (1, 2), (2, 3), ..., (N, 1): N calls, and every response is judged
twice, once in each position. Its base reward is the mean of its two scores. Thinking and answer then compete for
brevity inside the group, each with terms that sum to zero, and the shortest get a bonus if they are good.

What compares is any callable; a reward model, a verifier or an endpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nano3.chat.verdict import TIE, Verdict, comparison_prompt, parse_verdict
from nano3.data.tokenizer import END_THINK
from nano3.environments import ENVIRONMENTS, side_by_side, verify
from nano3.environments.text import split_response
from nano3.recipe.training import Rlhf
from nano3.rl.genrm import AGENT, NEUTRAL
from nano3.rl.order import derived_seed
from nano3.rl.rollout import ChatTokenizer, Rollout, rollouts

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Two responses to compare; texts as the policy wrote them, thinking included.

    rewards: of two conversations, which only their end can score; the texts are their last turns then"""

    row: Row
    first: str
    second: str
    rewards: tuple[float, float] | None = None


# Verdicts on comparisons, in their order; None for one that could not be reached.
Compare = Callable[[Sequence[Comparison], int], list[Verdict | None]]


def circle(count: int) -> list[tuple[int, int]]:
    """The comparisons of a group: (first, second) indices. Raises ValueError for fewer than two responses."""
    if count < 2:
        raise ValueError(f"a comparison needs at least 2 responses, found {count}")
    return [(i, (i + 1) % count) for i in range(count)]


def scores_of(verdict: Verdict | None) -> tuple[float, float]:
    """Scores of the first and the second response; ties are broken by the ranking: s1 += 3.5 - r, s2 += r - 3.5."""
    if verdict is None:
        return NEUTRAL, NEUTRAL
    if verdict.score_1 != verdict.score_2:
        return verdict.score_1, verdict.score_2
    return verdict.score_1 + TIE - verdict.ranking, verdict.score_2 + verdict.ranking - TIE


def base_rewards(verdicts: Sequence[Verdict | None]) -> np.ndarray:
    """Mean of the two scores of every response of a group, from the verdicts on its circle: float64 [N]."""
    pairs = circle(len(verdicts))
    total = np.zeros(len(verdicts))
    for (first, second), verdict in zip(pairs, verdicts, strict=True):
        total[[first, second]] += scores_of(verdict)
    return total / 2


def length_terms(lengths: Sequence[int]) -> np.ndarray:
    """How much shorter than its group each response is: w_i - mean(w), w_i = 1 - (l_i - l_min) / (l_max - l_min).

    float64 [N]; sums to zero; all 0 where the lengths are equal."""
    length = np.asarray(lengths, dtype=np.float64)
    span = length.max() - length.min()
    if span == 0:
        return np.zeros_like(length)
    weight = 1 - (length - length.min()) / span
    return weight - weight.mean()


def conciseness_bonus(base: np.ndarray, lengths: Sequence[int], *, bonus: float, percentile: float) -> np.ndarray:
    """`bonus` for the shortest of a group if its base reward reaches the group's percentile; the first one of several
    equally short ones that do. float64 [N]."""
    length = np.asarray(lengths)
    good = base >= np.percentile(base, percentile)
    chosen = np.flatnonzero(good & (length == length.min()))
    found = np.zeros(len(base))
    found[chosen[:1]] = bonus
    return found


def group_rewards(
    base: np.ndarray, thinking: Sequence[int], answer: Sequence[int], settings: Rlhf, usable: Sequence[bool]
) -> np.ndarray:
    """Rewards of a group: base + length terms + bonuses, for thinking and answer each: float64 [N].

    usable: responses with closed thinking and an answer. Others are no example of brevity: they count as long as the
    longest and get no bonus."""
    total = base.copy()
    for lengths, weight in ((thinking, settings.thinking_weight), (answer, settings.answer_weight)):
        longest = max(lengths)
        fair = [length if fine else longest for length, fine in zip(lengths, usable, strict=True)]
        total += weight * length_terms(fair)
        if any(usable):
            bonus = conciseness_bonus(base, fair, bonus=settings.bonus, percentile=settings.bonus_percentile)
            total += np.where(usable, bonus, 0.0)
    return total


@dataclass(frozen=True)
class GroupJudge:
    """The judge of RLHF, see `nano3.rl.draw.Judge`."""

    compare: Compare
    settings: Rlhf
    chat: ChatTokenizer

    def __call__(self, rows: Sequence[Row], rolled: list[Rollout], seed: int) -> tuple[list[Rollout], dict[str, float]]:
        size = len(rolled) // len(rows)
        pairs = circle(size)
        asked = [
            _comparison(row, rolled[group * size + i], rolled[group * size + j])
            for group, row in enumerate(rows)
            for i, j in pairs
        ]
        verdicts = self.compare(asked, seed)
        lengths = [whole_lengths(rollout, self.chat) for rollout in rolled]
        judged, bases = [], []
        for start in range(0, len(rolled), size):
            mine = rolled[start : start + size]
            faults = [_fault(rollout) for rollout in mine]
            base = base_rewards(verdicts[start : start + size])
            bases += base.tolist()
            thinking, answer = zip(*lengths[start : start + size], strict=True)
            rewards = group_rewards(base, thinking, answer, self.settings, [not fault for fault in faults])
            judged += [
                replace(
                    rollout,
                    reward=float(reward),
                    reason=f"judged {score:.2f}; {t} thinking, {a} answer tokens" + (f"; {fault}" if fault else ""),
                    well_formed=not fault,
                )
                for rollout, reward, score, t, a, fault in zip(
                    mine, rewards, base, thinking, answer, faults, strict=True
                )
            ]
        return judged, {
            "judge_score": float(np.mean(bases)),
            "judge_broken_share": sum(verdict is None for verdict in verdicts) / len(verdicts),
            "judge_calls": float(len(asked)),
            "thinking_tokens": float(np.mean([t for t, _ in lengths])),
            "answer_tokens": float(np.mean([a for _, a in lengths])),
        }


def _comparison(row: Row, first: Rollout, second: Rollout) -> Comparison:
    rewards = (first.reward, second.reward) if first.context else None
    return Comparison(row, first.text, second.text, rewards)


def _fault(rollout: Rollout) -> str:
    if rollout.context:
        return "" if rollout.well_formed else rollout.reason
    return split_response(rollout.text).fault


def whole_lengths(rollout: Rollout, chat: ChatTokenizer) -> tuple[int, int]:
    """Tokens of thinking and of answers, of all turns."""
    thinking, answers = zip(*(part_lengths(turn.response, chat) for turn in rollout.turns), strict=True)
    return sum(thinking), sum(answers)


def part_lengths(response: Sequence[int], chat: ChatTokenizer) -> tuple[int, int]:
    """Tokens of thinking and of the answer after it, the closing tag with the thinking. Unclosed: all is thinking."""
    close = chat.tokenizer.token_to_id(END_THINK)
    if close not in response:
        return len(response), 0
    thinking = list(response).index(close) + 1
    return thinking, len(response) - thinking


@dataclass(frozen=True)
class RewardModel:
    """Compares with a generative reward model on this machine. Only answers are shown to it, not the thinking."""

    model: Any
    chat: ChatTokenizer
    max_new_tokens: int
    temperature: float

    def __call__(self, comparisons: Sequence[Comparison], seed: int) -> list[Verdict | None]:
        if not comparisons:
            return []
        rolled = rollouts(
            self.model,
            self.chat,
            [_asked(comparison) for comparison in comparisons],
            generations=1,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=1.0,
            seed=derived_seed(seed, "verdict"),
            score=_not_scored,
        )
        return [parse_verdict(rollout.text) for rollout in rolled]


def _asked(comparison: Comparison) -> Row:
    from nano3.chat.request import messages_of

    context, _ = messages_of(comparison.row["responses_create_params"])
    prompt = comparison_prompt(context, *(_shown(text) for text in (comparison.first, comparison.second)))
    request = {"input": [{"role": "user", "content": prompt}]}
    return {"agent_ref": {"name": AGENT}, "responses_create_params": request}


def _shown(response: str) -> str:
    parts = split_response(response)
    return f"(no answer: {parts.fault})" if parts.fault else parts.answer


def _not_scored(row: Row, response: str):
    from nano3.rl.draw import unscored

    return unscored(row, response)


def by_verifier(comparisons: Sequence[Comparison], seed: int) -> list[Verdict | None]:
    """Compare with the row's own environment: scores 1 to 5 are 1 + 4 rewards, the ranking is their difference.

    A response is scored once, however often it is compared."""
    asked = {
        (id(each.row), text): (each.row, text)
        for each in comparisons
        if each.rewards is None
        for text in (each.first, each.second)
    }
    scored = dict(zip(asked, side_by_side(lambda pair: verify(*pair).value, asked.values()), strict=True))
    found: list[Verdict | None] = []
    for each in comparisons:
        first, second = each.rewards or (scored[id(each.row), text] for text in (each.first, each.second))
        found.append(Verdict(1 + 4 * first, 1 + 4 * second, TIE + 2.5 * (second - first)))
    return found


@dataclass(frozen=True)
class Mixed:
    """Rows that a verifier can score are compared by it, all others by `open_ended`."""

    open_ended: Compare

    def __call__(self, comparisons: Sequence[Comparison], seed: int) -> list[Verdict | None]:
        verifiable = [comparison.row["agent_ref"]["name"] in ENVIRONMENTS for comparison in comparisons]
        answers = {
            flag: iter(compare([c for c, known in zip(comparisons, verifiable, strict=True) if known == flag], seed))
            for flag, compare in ((True, by_verifier), (False, self.open_ended))
        }
        return [next(answers[known]) for known in verifiable]
