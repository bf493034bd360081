"""RLHF: circular comparison, tie-break, length control and bonus, against the report's formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano3.chat.verdict import Verdict
from nano3.environments import Reward, verify
from nano3.recipe.training import Rlhf
from nano3.rl import rlhf
from nano3.rl.rollout import rollouts
from rl_toy import toy_model, toy_rows

SETTINGS = Rlhf(
    steps=1,
    max_new_tokens=8,
    learning_rate=1e-3,
    judge_max_new_tokens=8,
    validation={"interval": 1, "prompts": 1, "generations": 2},
)


@pytest.mark.parametrize("count", [2, 3, 8, 16])
def test_a_circle_has_n_comparisons_and_every_response_once_in_each_position(count):
    pairs = rlhf.circle(count)
    assert len(pairs) == count
    assert sorted(first for first, _ in pairs) == sorted(second for _, second in pairs) == list(range(count))
    assert all(first != second for first, second in pairs)


def test_one_response_alone_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        rlhf.circle(1)


def test_ties_are_broken_by_the_ranking_and_only_ties():
    assert rlhf.scores_of(Verdict(3, 3, 1)) == (5.5, 0.5)
    assert rlhf.scores_of(Verdict(3, 3, 6)) == (0.5, 5.5)
    assert rlhf.scores_of(Verdict(3, 3, 3.5)) == (3, 3)
    assert rlhf.scores_of(Verdict(4, 3, 6)) == (4, 3)
    assert rlhf.scores_of(None) == (3, 3)


def test_the_base_reward_is_the_mean_of_a_responses_two_scores():
    verdicts = [Verdict(5, 1, 1), Verdict(2, 4, 5), Verdict(3, 4, 4)]  # (0, 1), (1, 2), (2, 0)
    assert rlhf.base_rewards(verdicts).tolist() == [(5 + 4) / 2, (1 + 2) / 2, (4 + 3) / 2]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50_000), min_size=2, max_size=16))
def test_length_terms_sum_to_zero_and_never_reward_the_longer(lengths):
    terms = rlhf.length_terms(lengths)
    assert abs(terms.sum()) < 1e-9
    for i in range(len(lengths)):
        for j in range(len(lengths)):
            assert lengths[i] <= lengths[j] or terms[i] <= terms[j]


def test_length_terms_follow_the_formula_and_equal_lengths_give_none():
    np.testing.assert_allclose(rlhf.length_terms([10, 20, 40]), np.array([1, 2 / 3, 0]) - 5 / 9)
    assert rlhf.length_terms([7, 7, 7]).tolist() == [0, 0, 0]


def test_the_bonus_goes_to_the_shortest_only_if_it_is_good():
    base = np.array([1.0, 5.0, 2.0, 3.0, 4.0])
    options = {"bonus": 0.5, "percentile": 80}
    assert rlhf.conciseness_bonus(base, [9, 3, 9, 9, 9], **options).tolist() == [0, 0.5, 0, 0, 0]
    assert rlhf.conciseness_bonus(base, [3, 9, 9, 9, 9], **options).tolist() == [0] * 5
    assert rlhf.conciseness_bonus(base, [3, 3, 9, 9, 9], **options).tolist() == [0, 0.5, 0, 0, 0]
    assert rlhf.conciseness_bonus(np.ones(3), [2, 2, 2], **options).sum() == 0.5


def test_a_group_is_rewarded_for_quality_and_brevity_of_both_parts():
    base = np.array([4.0, 2.0])
    found = rlhf.group_rewards(base, [10, 30], [5, 5], SETTINGS, [True, True])
    # thinking: terms +-0.5, half of them; the better one is the shortest in both parts: two bonuses
    np.testing.assert_allclose(found, [4 + 0.25 + 0.5 + 0.5, 2 - 0.25])


def test_a_broken_response_gains_nothing_by_being_short():
    base = np.array([5.0, 3.0, 3.0])
    found = rlhf.group_rewards(base, [1, 30, 20], [0, 6, 5], SETTINGS, [False, True, True])
    without = rlhf.group_rewards(base, [30, 30, 20], [6, 6, 5], SETTINGS, [False, True, True])
    np.testing.assert_allclose(found, without)
    assert found[0] < base[0]


class Counting:
    """Compares by the number of e's, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, comparisons, seed):
        self.asked += comparisons
        return [
            Verdict(1 + min(4, one.first.count("e")), 1 + min(4, one.second.count("e")), 3.5) for one in comparisons
        ]


def test_the_judge_makes_n_calls_a_group_and_judges_each_response_twice(chat):
    compare, rows = Counting(), toy_rows(3)
    rolled = rollouts(
        *(toy_model().eval(), chat, rows),
        generations=4,
        max_new_tokens=12,
        temperature=1.0,
        top_p=1.0,
        seed=1,
        score=lambda row, text: Reward(0.0, "", False),
    )
    judged, measured = rlhf.GroupJudge(compare, SETTINGS, chat)(rows, rolled, 5)
    assert len(compare.asked) == measured["judge_calls"] == 12
    for group, row in enumerate(rows):
        mine = compare.asked[group * 4 : group * 4 + 4]
        texts = [rollout.text for rollout in rolled[group * 4 : group * 4 + 4]]
        assert [one.first for one in mine] == texts
        assert [one.second for one in mine] == [*texts[1:], texts[0]]
        assert all(one.row is row for one in mine)
    assert [rollout.text for rollout in judged] == [rollout.text for rollout in rolled]
    assert measured["thinking_tokens"] > 0


def test_thinking_and_answer_are_measured_apart(chat):
    ids = chat.tokenizer.encode("abc</think>de<|im_end|>", add_special_tokens=False).ids
    assert rlhf.part_lengths(ids, chat) == (4, 3)
    assert rlhf.part_lengths(ids[:3], chat) == (3, 0)


def test_verifiable_rows_are_compared_by_their_verifier_and_others_by_the_reward_model():
    row = toy_rows(1)[0]
    open_row = {**row, "agent_ref": {"name": "genrm_simple_agent"}}
    right, wrong = "</think>\\boxed{A}", "</think>\\boxed{B}"
    compare = Counting()
    found = rlhf.Mixed(compare)(
        [
            rlhf.Comparison(row, right, wrong),
            rlhf.Comparison(open_row, "e", "x"),
            rlhf.Comparison(row, wrong, wrong),
        ],
        0,
    )
    assert found == [Verdict(5, 1, 1), Verdict(2, 1, 3.5), Verdict(1, 1, 3.5)]
    assert len(compare.asked) == 1


def test_a_verifier_scores_a_response_once_however_often_it_is_compared(monkeypatch):
    scored = []
    monkeypatch.setattr(rlhf, "verify", lambda row, text: scored.append(text) or verify(row, text))
    row = toy_rows(1)[0]
    texts = [f"</think>\\boxed{{{letter}}}" for letter in "ABC"]
    circle = [rlhf.Comparison(row, texts[i], texts[j]) for i, j in rlhf.circle(3)]
    assert [verdict.score_1 for verdict in rlhf.by_verifier(circle, 0)] == [5, 1, 1]
    assert sorted(scored) == texts


def test_the_local_reward_model_answers_every_comparison_or_says_none(chat):
    judge = rlhf.RewardModel(toy_model().eval(), chat, max_new_tokens=4, temperature=0.6)
    row = toy_rows(1)[0]
    assert judge([rlhf.Comparison(row, "a</think>b", "c")] * 2, 1) == [None, None]  # an untrained model writes no JSON
    assert judge([], 1) == []
