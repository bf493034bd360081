"""Before the first job: what a recipe needs and a machine lacks."""

from pathlib import Path

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
    assert "snakemake --profile slurm results/nano3/rl/final" in text


def test_gpus_and_memory_of_this_machine_do_not_matter_on_a_cluster():
    text = "\n".join(preflight.problems(NANO3, "nano3", on_cluster=True))
    assert "this machine" not in text.split("On a Slurm cluster")[0]


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
