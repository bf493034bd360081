"""Prompt order: a pure function of seed and step that neither skips nor repeats."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano3.errors import UserError
from nano3.rl.order import environment_shares, prompts_before, prompts_of_step

ROWS = {
    "math": list(range(0, 23)),
    "mcqa": list(range(100, 110)),
    "structured_outputs": list(range(200, 237)),
}
RATIO = {"math": 2.0, "mcqa": 1.0, "structured_outputs": 3.0}


def taken(steps, seed=5, per_step=8, ratio=RATIO):
    return [
        index for step in steps for index in prompts_of_step(ROWS, step=step, per_step=per_step, ratio=ratio, seed=seed)
    ]


def test_no_prompt_is_skipped_or_repeated_within_an_epoch_over_three_interruptions():
    pieces = [taken(range(0, 7)), taken(range(7, 8)), taken(range(8, 19)), taken(range(19, 40))]
    whole = [index for piece in pieces for index in piece]
    assert whole == taken(range(40))
    for name, indices in ROWS.items():
        mine = [index for index in whole if index in set(indices)]
        assert len(mine) > len(indices), name
        for start in range(0, len(mine) - len(indices) + 1, len(indices)):
            assert sorted(mine[start : start + len(indices)]) == indices


def test_every_epoch_has_its_own_order():
    mine = [index for index in taken(range(60)) if index < 100]
    assert mine[:23] != mine[23:46]
    assert mine[:23] != sorted(mine[:23])


def test_another_seed_is_another_order():
    assert taken(range(5), seed=1) != taken(range(5), seed=2)


def test_every_step_has_its_full_number_of_prompts():
    for step in range(30):
        assert len(taken([step])) == 8


def test_the_ratio_holds_over_the_run():
    counts = Counter(index // 100 for index in taken(range(60)))
    assert counts == {0: 160, 1: 80, 2: 240}


def test_an_empty_ratio_follows_the_data():
    counts = Counter(index // 100 for index in taken(range(35), per_step=10, ratio={}))
    assert counts == {0: 115, 1: 50, 2: 185}


def test_a_ratio_for_an_unknown_environment_names_the_known_ones():
    with pytest.raises(UserError, match=r"code.*math, mcqa"):
        environment_shares({"math": 3, "mcqa": 2}, {"code": 1.0})


@settings(max_examples=60, deadline=None)
@given(
    shares=st.lists(st.floats(0.01, 10), min_size=1, max_size=7),
    per_step=st.integers(1, 40),
    steps=st.integers(1, 25),
)
def test_counts_add_up_never_fall_and_stay_near_the_shares(shares, per_step, steps):
    total = sum(shares)
    named = {f"e{i}": share / total for i, share in enumerate(shares)}
    before = dict.fromkeys(named, 0)
    for step in range(1, steps + 1):
        after = prompts_before(step, per_step, named)
        assert sum(after.values()) == step * per_step
        assert all(after[name] >= before[name] for name in named)
        assert all(abs(after[n] - named[n] * step * per_step) <= (len(named) + 1) / 2 for n in named)
        before = after
