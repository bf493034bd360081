"""The estimate against arithmetic by hand."""

from pathlib import Path

import pytest

from nano3 import estimate
from nano3.recipe import load_recipe

NANO3 = load_recipe(Path("config/recipes/nano3.yaml"))
COSTS = {cost.stage: cost for cost in estimate.costs(NANO3)}


def test_pretraining_nano3_takes_472_thousand_gpu_hours():
    # 25e12 tokens / (14,719 tokens/s/GPU) / (3,600 s/h) = 471,803 h
    hours = COSTS["pretrain/phase1"].hours + COSTS["pretrain/phase2"].hours
    assert hours == pytest.approx(25e12 / 14_719 / 3600)
    assert hours == pytest.approx(472e3, rel=1e-3)


def test_wall_time_is_gpu_hours_over_the_recipes_gpus():
    cost = COSTS["pretrain/phase1"]
    assert cost.devices == 384 * 8
    assert cost.days * 24 * 384 * 8 == pytest.approx(cost.hours)
    assert cost.starts == -(-cost.days * 24 // 4)  # jobs of four hours


def test_operations_are_six_for_a_parameter_and_token_and_a_little_more():
    # 3.2e9 active parameters; the scan and attention over 8,192 tokens add a few percent
    flops = COSTS["pretrain/phase1"].flops / 23.5e12
    assert 6 * 3.2e9 < flops < 1.15 * 6 * 3.2e9


def test_longer_sequences_cost_more_operations_and_so_more_hours_for_a_token():
    short, long = COSTS["pretrain/phase1"], COSTS["pretrain/long_context"]
    slower = (long.hours / long.tokens) / (short.hours / short.tokens)
    assert slower == pytest.approx((long.flops / long.tokens) / (short.flops / short.tokens))
    assert slower > 3


def test_sft_and_rl_count_every_token_the_recipe_allows():
    assert COSTS["sft"].tokens == 13_000 * 64 * 262_144
    assert COSTS["rl/rlvr1"].tokens == 600 * 128 * 16 * 49_152


def test_every_rl_stage_is_counted_in_the_order_of_the_run():
    stages = [stage for stage in COSTS if stage.startswith("rl/")]
    assert stages == ["rl/rlvr1", "rl/genrm", "rl/rlhf", "rl/rlvr2", "rl/dpo"]


def test_rlhf_also_writes_a_verdict_on_every_response():
    # 200 x 128 x 16 responses of 49,152 tokens and as many verdicts of 16,384, at 2,000 tokens/s/GPU
    rlhf, rlvr = COSTS["rl/rlhf"], COSTS["rl/rlvr1"]
    update = (rlvr.hours / rlvr.tokens - 1 / 2_000 / 3600) * rlhf.tokens
    assert rlhf.hours == pytest.approx(update + 200 * 128 * 16 * (49_152 + 16_384) / 2_000 / 3600)


def test_disk_of_checkpoints_is_fourteen_bytes_a_parameter_three_times():
    assert estimate.disk(NANO3)["rolling checkpoints of a stage"] == 3 * 14 * 31_577_940_288
    assert estimate.disk(NANO3)["tokenised data, at most"] == 4 * (25_000 + 121) * 10**9


def test_the_page_names_what_it_assumes():
    page = estimate.text(NANO3, "nano3")
    assert "31,577,940,288 in total" in page and "14,719 tokens a second" in page and "$2.5" in page
    assert "443,493" in page  # phase 1: 23.5e12 / 14,719 / 3,600


def test_a_recipe_without_a_stated_throughput_says_so_and_invents_nothing():
    tiny = load_recipe(Path("config/recipes/tiny.yaml"))
    tiny = tiny.model_copy(
        update={"execution": tiny.execution.model_copy(update={"assumptions": estimate.Assumptions()})}
    )
    assert all(cost.hours is None for cost in estimate.costs(tiny))
    assert "train_tokens_per_second is not stated" in estimate.text(tiny, "tiny")
