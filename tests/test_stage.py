"""The life of a stage: identity, lock, verified inputs, published once and again."""

import json
import os
import signal
import subprocess
import sys

import pytest

from nano3.artifacts import building, verify
from nano3.artifacts.lock import lock
from nano3.errors import UserError
from nano3.stage import open_stage, recipe_results


@pytest.fixture
def source(tmp_path):
    with building(tmp_path / "results" / "mini" / "source", kind="source", config={}) as artifact:
        (artifact.path / "data.bin").write_bytes(b"12345678")
    return tmp_path / "results" / "mini" / "source"


def run_stage(source, config=1, name="sft"):
    output = recipe_results(source) / name / "model"
    with open_stage(name, config=config, inputs={"source": source}, output=output) as run:
        if not run.finished:
            run.checkpoints.mkdir(parents=True)
            payload = run.work / "payload"
            payload.mkdir()
            (payload / "weights").write_text(f"trained {config}")
            run.publish(payload, statistics={"steps": 1})
    return run


def test_a_finished_stage_is_published_again_without_work(source):
    first = run_stage(source)
    for file in first.output.iterdir():
        file.unlink()
    again = run_stage(source)
    assert not first.finished and again.finished
    assert verify(again.output).statistics == {"steps": 1}
    assert not first.checkpoints.exists()


def test_another_value_or_another_input_is_another_identity(source, tmp_path):
    first, second = run_stage(source, config=1), run_stage(source, config=2)
    assert first.identity != second.identity and not second.finished
    assert (second.output / "weights").read_text() == "trained 2"
    assert run_stage(source, config=1).finished  # the first result was kept


def test_a_damaged_result_is_not_published_again(source):
    first = run_stage(source)
    weights = first.work / "result" / "weights"
    weights.unlink()
    weights.write_text("trained X")
    assert not run_stage(source).finished


def test_a_wrong_input_byte_stops_the_stage_before_it_starts(source):
    (source / "data.bin").write_bytes(b"12345679")
    with pytest.raises(UserError, match=r"data\.bin"):
        run_stage(source)


def test_sigterm_asks_the_stage_to_stop(source):
    with open_stage("sft", config=3, inputs={"source": source}, output=recipe_results(source) / "sft" / "model") as run:
        assert not run.stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.stop_requested()


def test_a_live_owner_of_the_lock_is_named(tmp_path):
    with lock(tmp_path / "lock"), pytest.raises(UserError) as error, lock(tmp_path / "lock"):
        pass
    assert f"process {os.getpid()}" in str(error.value)
    assert not (tmp_path / "lock").exists()


def test_the_lock_of_a_killed_process_is_broken(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from nano3.artifacts.lock import lock
with lock(Path({str(tmp_path / "lock")!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "lock").exists()
    with lock(tmp_path / "lock"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_lock_of_another_machine_is_respected(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "boot": "b", "pid": 1, "started": "1"}))
    with pytest.raises(UserError, match="elsewhere"), lock(tmp_path / "lock"):
        pass


def test_a_requeued_slurm_job_breaks_its_own_old_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    owner = {"host": "elsewhere", "boot": "b", "pid": 1, "started": "1", "slurm_job": "77"}
    (tmp_path / "lock").write_text(json.dumps(owner))
    with lock(tmp_path / "lock"):
        pass


def test_an_output_outside_results_is_an_error(tmp_path):
    with pytest.raises(UserError, match="results"):
        recipe_results(tmp_path / "model")
