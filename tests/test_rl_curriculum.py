"""Curriculum: solved prompts dropped, fixed shares, a Gaussian whose mean falls, profiles that replace each other."""

import json

import numpy as np
import pytest

from nano3.errors import UserError
from nano3.recipe.training import CurriculumSettings
from nano3.rl.curriculum import Curriculum, mean_at, plateau, read_profile, schedule, unsolved, write_profile
from nano3.rl.loop import Position

ROWS = {"math": list(range(400)), "mcqa": list(range(400, 600))}
RATES = {index: (index % 11) / 10 for index in range(600)}
SETTINGS = CurriculumSettings(mean=(0.8, 0.2), width=0.1)


def planned(steps=20, per_step=8, seed=3, ratio=None, settings=SETTINGS, first=0, rates=RATES, rows=ROWS):
    running = schedule(rows, rates, settings, first=first, steps=steps, per_step=per_step, ratio=ratio or {}, seed=seed)
    return [next(running) for _ in range(first, steps)]


def test_solved_prompts_are_never_drawn_and_an_all_solved_environment_is_left_out():
    used = {index for step in planned(steps=60) for index in step}
    assert all(RATES[index] < 1 for index in used)
    rates = RATES | {index: 1.0 for index in ROWS["mcqa"]}
    assert set(unsolved(ROWS, rates, 1.0)) == {"math"}
    steps = planned(rates=rates, ratio={"math": 1, "mcqa": 3})
    assert {index < 400 for step in steps for index in step} == {True}
    with pytest.raises(UserError, match="no prompts left"):
        unsolved(ROWS, dict.fromkeys(RATES, 1.0), 1.0)


def test_every_step_has_the_fixed_shares():
    for step in planned(ratio={"math": 1, "mcqa": 3}):
        assert sum(index < 400 for index in step) == 2
        assert len(step) == 8


def test_the_mean_pass_rate_falls_linearly_from_easy_to_hard():
    steps = planned(steps=20, per_step=16)
    found = np.array([np.mean([RATES[index] for index in step]) for step in steps])
    expected = [mean_at(step / 19, SETTINGS.mean) for step in range(20)]
    assert np.abs(found - expected).max() < 0.12
    assert np.abs(found - expected).mean() < 0.05


def test_the_pass_rates_follow_the_gaussian_and_not_the_data():
    easy = {index: 0.9 if index % 10 else 0.5 for index in range(4000)}  # nine in ten are easy
    settings = CurriculumSettings(mean=(0.7, 0.7), width=0.2)
    steps = planned(steps=40, rates=easy, rows={"math": list(range(4000))}, settings=settings)
    share = np.mean([easy[index] == 0.5 for step in steps for index in step])
    assert share == pytest.approx(0.5, abs=0.08)


def test_no_prompt_comes_twice_before_all_have_come():
    rows, rates = {"math": list(range(30))}, {index: index / 40 for index in range(30)}
    chosen = [index for step in planned(steps=12, per_step=5, rows=rows, rates=rates) for index in step]
    assert sorted(chosen[:30]) == sorted(chosen[30:]) == list(range(30))


def test_it_is_a_function_of_seed_and_step():
    assert planned() == planned()
    assert planned(seed=1) != planned(seed=2)


def curriculum(tmp_path, **changes):
    settings = CurriculumSettings(mean=(0.8, 0.2), width=0.1, patience=2, least_gain=0.01, **changes)
    return Curriculum(settings, ROWS, RATES, steps=20, per_step=8, ratio={}, seed=3, work=tmp_path)


def test_a_resumed_curriculum_continues_where_the_interrupted_one_was(tmp_path):
    whole = curriculum(tmp_path)
    expected = [whole.prompts_of_step(step, Position()) for step in range(20)]
    assert [curriculum(tmp_path).prompts_of_step(step, Position()) for step in (13, 4, 19)] == [
        expected[13],
        expected[4],
        expected[19],
    ]
    assert expected == planned()


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([0.1, 0.2, 0.3], False),
        ([0.1, 0.3, 0.3, 0.305], True),
        ([0.1, 0.3, 0.2, 0.31], False),
        ([0.3, 0.3], False),
    ],
)
def test_a_plateau_is_patience_validations_without_a_gain(history, expected):
    assert plateau(history, 2, 0.01) == expected


def test_on_a_plateau_new_pass_rates_count_and_a_resumed_run_reads_them_from_the_work_directory(tmp_path):
    mine, at = curriculum(tmp_path), Position(step=10)
    harder = [{"index": index, "pass_rate": 0.0 if index % 2 else 1.0} for index in RATES]
    profiled = [mine.after_validation(at, reward, lambda: harder) for reward in (0.3, 0.3, 0.3)]
    assert profiled == [False, False, True]
    state = json.loads(json.dumps(at.state))  # as a checkpoint keeps it
    assert state == {"history": [], "profiles": [[10, "profile_10.jsonl"]]}
    resumed, later = curriculum(tmp_path), Position(step=12, state=state)
    assert resumed.prompts_of_step(12, later) == mine.prompts_of_step(12, at)
    assert all(index % 2 for index in resumed.prompts_of_step(12, later))
    assert resumed.prompts_of_step(9, later) == planned()[9]


def test_profiles_read_back_and_broken_ones_are_refused(tmp_path):
    file = tmp_path / "profile.jsonl"
    write_profile(file, [{"index": 3, "pass_rate": 0.25, "id": "ü"}])
    assert read_profile(file) == {3: 0.25}
    for text in ("", "{}\n", "no\n", '{"index": 1, "pass_rate": 2}\n'):
        file.write_text(text)
        with pytest.raises(UserError, match="is no profile"):
            read_profile(file)
    with pytest.raises(UserError, match="does not exist"):
        read_profile(tmp_path / "missing.jsonl")
