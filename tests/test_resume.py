"""A training that was stopped or killed and started again equals one that ran through."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from nano3.artifacts import read_manifest, verify
from train_toy import BEFORE, OUTPUTS, ROOT, arguments, script_main, toy_world

PROGRAM = [sys.executable, str(ROOT / "tests" / "train_toy.py")]
WITHOUT_EACH_OTHER = {
    "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'tests'}",
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "disabled",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    toy_world(root)
    return root


@pytest.fixture(autouse=True)
def _as_in_a_script(world, monkeypatch):
    """Run in the world's root, and give torch's global settings back afterwards."""
    monkeypatch.chdir(world)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def start(script, seconds_per_step=0.0, **environment):
    return subprocess.Popen(
        [*PROGRAM, str(seconds_per_step), script, *arguments(script)],
        env=os.environ | WITHOUT_EACH_OTHER | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def result(script):
    """What must not differ: weights, metrics and the manifest."""
    output = Path("results/toy", OUTPUTS[script])
    return {name: (output / name).read_bytes() for name in ("model.safetensors", "metrics.jsonl", "manifest.json")}


def straight(script):
    """The result of an uninterrupted run of a stage, and of those before it where they are missing."""
    output = Path("results/toy", OUTPUTS[script])
    if not (output / "manifest.json").exists():
        if script in BEFORE:
            straight(next(name for name, path in OUTPUTS.items() if path == BEFORE[script]))
        script_main(script)(arguments(script))
    return result(script)


def forget(script):
    """Remove a stage's result and its work directory."""
    output = Path("results/toy", OUTPUTS[script])
    stage = read_manifest(output).kind
    shutil.rmtree(output)
    shutil.rmtree(Path("results/toy/.work", stage))
    return Path("results/toy/.work", stage)


def wait_for_checkpoint(process, work):
    until = time.monotonic() + 60
    while not list(work.glob("*/checkpoints/step_*")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until, "no checkpoint after a minute"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "script",
    [
        "pretrain_phase1",
        pytest.param("pretrain_phase2", marks=pytest.mark.slow),
        pytest.param("pretrain_long_context", marks=pytest.mark.slow),
        pytest.param("sft", marks=pytest.mark.slow),
    ],
)
def test_a_killed_stage_goes_on_to_the_same_bytes(script):
    expected = straight(script)
    work = forget(script)
    process = start(script, seconds_per_step=0.2)
    wait_for_checkpoint(process, work)
    time.sleep(0.3)  # into the steps that no checkpoint holds
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("results/toy", OUTPUTS[script]).exists()
    script_main(script)(arguments(script))
    assert result(script) == expected


def test_a_stage_asked_to_stop_saves_exits_75_and_goes_on_to_the_same_bytes():
    expected = straight("pretrain_phase1")
    work = forget("pretrain_phase1")
    process = start("pretrain_phase1", seconds_per_step=0.2)
    wait_for_checkpoint(process, work)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 75, printed
    assert "the same command goes on from there" in printed
    script_main("pretrain_phase1")(arguments("pretrain_phase1"))
    assert result("pretrain_phase1") == expected


def test_two_processes_train_the_same_model_as_one():
    expected = load(straight("pretrain_phase1")["model.safetensors"])
    forget("pretrain_phase1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [start("pretrain_phase1", RANK=rank, LOCAL_RANK=rank, **together) for rank in ("0", "1")]
    for process in processes:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
    trained = load(result("pretrain_phase1")["model.safetensors"])
    forget("pretrain_phase1")
    for name, value in expected.items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_finished_stage_is_published_again_without_training(capsys):
    expected = straight("pretrain_phase1")
    shutil.rmtree(Path("results/toy", OUTPUTS["pretrain_phase1"]))
    script_main("pretrain_phase1")(arguments("pretrain_phase1"))
    assert result("pretrain_phase1") == expected
    assert "publishing its result again" in capsys.readouterr().out


def test_a_stage_publishes_a_whole_model_and_what_it_measured():
    straight("pretrain_phase1")
    output = Path("results/toy", OUTPUTS["pretrain_phase1"])
    manifest = verify(output)
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(manifest.files)
    assert "training_state/optimizer.safetensors" in manifest.files
    assert (output / "timing.jsonl").exists() and "timing.jsonl" not in manifest.files
    statistics = manifest.statistics
    assert statistics["steps"] == 12 and statistics["tokens"] == 3072
    assert statistics["sampled_tokens"] == {"counting": 768, "sums": 2304}
    for data in ("sums", "counting"):
        start, end = (statistics["validation"][when] for when in ("start", "end"))
        assert end["bits_per_byte"][data] < start["bits_per_byte"][data] - 1
        assert end["bytes"][data] > 0 and end["sequences"][data] == 6
