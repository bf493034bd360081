"""Before the first job: what a recipe needs and a machine lacks, and names that nothing answers to."""

from pathlib import Path

import pytest

from nano3 import preflight
from nano3.recipe import load_recipe

TINY = load_recipe(Path("config/recipes/tiny.yaml"))
NANO3 = load_recipe(Path("config/recipes/nano3.yaml"))


def test_tiny_needs_nothing_special():
    assert preflight.problems(TINY, "tiny", on_cluster=False) == []


def test_nano3_names_gpus_memory_and_the_way_out(monkeypatch):
    monkeypatch.setattr(preflight, "visible_gpus", lambda: 0)
    monkeypatch.setattr(preflight, "memory_mb", lambda: 16_000)
    text = "\n".join(preflight.problems(NANO3, "nano3", on_cluster=False))
    assert "nodes with 8 GPUs each" in text and "this machine is one node with 0 GPUs" in text
    assert "1800000 MB of memory" in text and "16000 MB" in text
    assert "this version can plan but not run" in text and "On a Slurm cluster" not in text
    torch = NANO3.model_copy(update={"execution": NANO3.execution.model_copy(update={"backend": "torch"})})
    text = "\n".join(preflight.problems(torch, "nano3", on_cluster=False))
    assert "On a Slurm cluster:  snakemake --profile slurm results/nano3/rl/final" in text


def test_a_part_of_a_recipe_may_run_where_the_whole_can_not(monkeypatch):
    monkeypatch.setattr(preflight, "visible_gpus", lambda: 0)
    monkeypatch.setattr(preflight, "memory_mb", lambda: NANO3.execution.data.memory_mb)
    monkeypatch.setattr("nano3.sandbox.launch._possible", tuple)
    assert preflight.problems(NANO3, "nano3", {"data"}, on_cluster=False) == []
    text = "\n".join(preflight.problems(NANO3, "nano3", {"data", "sft"}, on_cluster=False))
    assert "(execution.sft)" in text and "bubblewrap" not in text
    monkeypatch.setattr(preflight, "memory_mb", lambda: NANO3.execution.data.memory_mb - 1)
    (_, found, *_) = preflight.problems(NANO3, "nano3", {"data"}, on_cluster=False)
    assert "(execution.data)" in found


def test_gpus_and_memory_of_this_machine_do_not_matter_on_a_cluster():
    text = "\n".join(preflight.problems(NANO3, "nano3", on_cluster=True))
    assert "this machine" not in text.split("What would run")[0]


def test_visible_gpus_follow_the_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert preflight.visible_gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert preflight.visible_gpus() == 0


def test_a_machine_without_a_sandbox_is_told_before_the_first_job(monkeypatch):
    monkeypatch.setattr("nano3.sandbox.launch._possible", tuple)
    text = "\n".join(preflight.problems(TINY, "tiny", on_cluster=False))
    assert "bubblewrap" in text and "execution.allow_unsafe" in text
    unsafe = TINY.model_copy(update={"execution": TINY.execution.model_copy(update={"allow_unsafe": True})})
    assert preflight.problems(unsafe, "tiny", on_cluster=False) == []


@pytest.mark.parametrize("recipe", [TINY, NANO3])
def test_everything_that_the_own_recipes_name_exists(recipe):
    assert preflight.unknown_names(recipe) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            "rl: {rlvr1: {environment_ratio: {mth: 2}}}",
            "rl.rlvr1.environment_ratio: unknown 'mth'; the environments are math_with_judge, ",
        ),
        ("datasets: {task_text: {families: {arithmetics: {rows: 1}}}}", "unknown task family 'arithmetics'"),
        ("datasets: {task_text: {families: {code: {rows: 1, difficulty: [3, 1]}}}}", "(3, 1) is not a range of levels"),
        ("datasets: {task_text: {families: {code: {rows: 1, options: {size: 3}}}}}", "unknown difficulty options"),
    ],
)
def test_a_name_that_nothing_answers_to_is_found_before_the_first_job(tmp_path, change, expected):
    (tmp_path / "tiny.yaml").write_text(Path("config/recipes/tiny.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(f"extends: tiny\n{change}")
    (found,) = preflight.unknown_names(load_recipe(tmp_path / "mine.yaml"))
    assert expected in found
