"""Learning-rate schedules against values worked out by hand."""

import pytest

from nano3.recipe import load_recipe
from nano3.recipe.training import Sft, WsdSchedule
from nano3.train.schedule import fine_tuning, remaining, warmup_stable_decay

REPORT = WsdSchedule(
    peak=1e-3,
    final=1e-5,
    warmup_tokens=8_400_000_000,
    stable_tokens=20_000_000_000_000,
    decay_tokens=5_000_000_000_000,
    decay="cosine",
)


@pytest.mark.parametrize(
    ("tokens", "rate"),
    [
        (0, 0.0),
        (4.2e9, 5e-4),
        (8.4e9, 1e-3),
        (10e12, 1e-3),
        (20e12, 1e-3),
        (22.5e12, 5.05e-4),  # half of a cosine: the mean of peak and final
        (23.5e12, 1e-5 + 9.9e-4 * 0.2061073739),  # phase 2 starts: (1 + cos(0.7 pi)) / 2
        (25e12, 1e-5),
        (26e12, 1e-5),
    ],
)
def test_the_reports_schedule_warms_up_stays_and_decays(tokens, rate):
    assert warmup_stable_decay(REPORT, tokens) == pytest.approx(rate, rel=1e-9)


def test_the_nano3_recipe_has_the_reports_schedule():
    schedule = load_recipe("config/recipes/nano3.yaml").pretrain.schedule
    for tokens in (1e9, 8.4e9, 20e12, 22.5e12, 25e12):
        assert warmup_stable_decay(schedule, tokens) == pytest.approx(warmup_stable_decay(REPORT, tokens))


@pytest.mark.parametrize(("shape", "quarter"), [("cosine", 0.8535533906), ("linear", 0.75), ("minus_sqrt", 0.5)])
def test_decay_shapes_go_from_one_to_zero(shape, quarter):
    assert remaining(shape, -1) == remaining(shape, 0) == 1
    assert remaining(shape, 0.25) == pytest.approx(quarter)
    assert remaining(shape, 1) == remaining(shape, 2) == pytest.approx(0, abs=1e-12)


def sft(**changes):
    base = load_recipe("config/recipes/tiny.yaml").sft.model_dump()
    return Sft.model_validate(base | {"steps": 10, "warmup_steps": 4, "learning_rate": 8.0} | changes)


def test_fine_tuning_warms_up_from_its_first_step():
    assert [fine_tuning(sft(decay="constant"), step) for step in range(10)] == [2, 4, 6, 8, 8, 8, 8, 8, 8, 8]


def test_fine_tuning_ends_at_the_final_fraction():
    settings = sft(decay="linear", final_fraction=0.25)
    assert [fine_tuning(settings, step) for step in range(4, 10)] == [7, 6, 5, 4, 3, 2]
    assert fine_tuning(sft(decay="cosine", final_fraction=0.0), 9) == pytest.approx(0, abs=1e-12)


def test_fine_tuning_without_warmup_starts_near_the_peak():
    assert fine_tuning(sft(warmup_steps=0, decay="linear"), 0) == pytest.approx(8 * (0.05 + 0.95 * 0.9))
    assert fine_tuning(sft(warmup_steps=0, decay="constant"), 0) == 8
