"""The generative reward model: compares two responses, writes a verdict, and is rewarded for its distance to people's.

A comparison is a conversation and two responses to its last turn, see `nano3.chat.verdict` (report, section 3.3.1).

Comparisons are JSONL in the manner of HelpSteer3: `context` (messages, or a text), `response1`, `response2`, and what
people said of them: `overall_preference` from -3 (the first is far better) to 3, or `ranking`; and `helpfulness1`,
`helpfulness2` from 1 to 5 where they are known.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from nano3.chat.verdict import TIE, Verdict, comparison_prompt, parse_verdict
from nano3.errors import UserError
from nano3.rl.rollout import Rollout

AGENT = "genrm_compare_simple_agent"
BROKEN = 10.0  # C1, the cost of a broken verdict
RANKING_WEIGHT = 1.0  # C2
NEUTRAL = 3.0  # the score of a response whose verdict is broken

Row = dict[str, Any]


def distance_reward(verdict: Verdict | None, row: Row) -> float:
    """-10 [broken] - |P_h1 - G_h1| - |P_h2 - G_h2| - |P_r - G_r| (report, section 3.3.1); P predicted, G by people.

    A helpfulness that people didn't give costs nothing."""
    if verdict is None:
        return -BROKEN
    known = (
        (1.0, verdict.score_1, row.get("helpfulness1")),
        (1.0, verdict.score_2, row.get("helpfulness2")),
        (RANKING_WEIGHT, verdict.ranking, row["ranking"]),
    )
    return -sum(weight * abs(said - truth) for weight, said, truth in known if truth is not None)


class Grader:
    """The judge of GenRM training, see `nano3.rl.draw.Judge`."""

    def __call__(self, rows: Sequence[Row], rolled: list[Rollout], seed: int) -> tuple[list[Rollout], dict[str, float]]:
        size, graded, right, ranked, broken = len(rolled) // len(rows), [], 0, 0, 0
        for i, rollout in enumerate(rolled):
            row = rows[i // size]
            verdict = parse_verdict(rollout.text)
            broken += verdict is None
            if row["ranking"] != TIE:
                ranked += 1
                right += verdict is not None and (verdict.ranking - TIE) * (row["ranking"] - TIE) > 0
            reason = "broken verdict" if verdict is None else f"{verdict.text()}, people: {truth_of(row)}"
            graded.append(
                replace(rollout, reward=distance_reward(verdict, row), reason=reason, well_formed=verdict is not None)
            )
        return graded, {"ranking_accuracy": right / max(1, ranked), "broken_share": broken / max(1, len(rolled))}


def truth_of(row: Row) -> str:
    """What people said, for readers."""
    return f"helpfulness {row.get('helpfulness1')}, {row.get('helpfulness2')}, ranking {row['ranking']:g}"


def comparisons(examples: Iterable[Row]) -> Iterator[Row]:
    """Training rows of HelpSteer-like examples, each in both orders: NeMo-Gym rows with the truth as fields.

    Raises UserError for an example that lacks something."""
    for number, example in enumerate(examples):
        context, ranking = _context(example, number), ranking_of(example, number)
        responses = [str(example["response1"]), str(example["response2"])]
        helpfulness = [_helpfulness(example.get(f"helpfulness{i}"), number) for i in (1, 2)]
        for order, flip in (("as given", False), ("swapped", True)):
            first, second = responses[::-1] if flip else responses
            scores = helpfulness[::-1] if flip else helpfulness
            prompt = comparison_prompt(context, first, second)
            yield {
                "id": f"{example.get('id', number)}/{order}",
                "agent_ref": {"type": "responses_api_agents", "name": AGENT},
                "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
                "context": context,
                "response1": first,
                "response2": second,
                "helpfulness1": scores[0],
                "helpfulness2": scores[1],
                "ranking": 7 - ranking if flip else ranking,
            }


def ranking_of(example: Row, number: int = 0) -> float:
    """1 to 6 from `ranking`, or from `overall_preference`: -3, -2, -1, 0, 1, 2, 3 -> 1, 2, 3, 3.5, 4, 5, 6."""
    try:
        if example.get("ranking") is not None:
            ranking = float(example["ranking"])
        else:
            preference = float(example["overall_preference"])
            ranking = TIE if preference == 0 else preference + (4 if preference < 0 else 3)
    except (KeyError, TypeError, ValueError):
        ranking = float("nan")
    if not 1 <= ranking <= 6:
        raise UserError(
            f"comparison {number} (id {example.get('id')}) has no usable preference: expected `ranking` from 1 to 6 or"
            " `overall_preference` from -3 to 3"
        )
    return ranking


def _context(example: Row, number: int) -> list[dict[str, Any]]:
    missing = [name for name in ("context", "response1", "response2") if not example.get(name)]
    if missing:
        raise UserError(f"comparison {number} (id {example.get('id')}) lacks {', '.join(missing)}")
    context = example["context"]
    return [{"role": "user", "content": context}] if isinstance(context, str) else list(context)


def _helpfulness(value: Any, number: int) -> float | None:
    if value is None:
        return None
    if not 1 <= float(value) <= 5:
        raise UserError(f"comparison {number}: helpfulness is {value}, expected 1 to 5")
    return float(value)
