"""W&B is a mirror: it is fed, but can neither fail nor delay a job."""

import json
import sys
import time
import types

import pytest

from data_jobs import script
from nano3.artifacts import building, read_manifest
from nano3.artifacts.lineage import read_lineage
from nano3.errors import UserError
from nano3.train import weights_and_biases
from nano3.train.weights_and_biases import mode, numbers, run_id, start


class FakeRun:
    def __init__(self, log, init):
        self.calls, self.init, self.step = log, init, 0

    def __getattr__(self, name):
        return lambda *values, **options: self.calls.append((name, values, options))


class FakeArtifact:
    def __init__(self, name, type, metadata):
        self.name, self.type, self.metadata, self.references = name, type, metadata, []

    def add_reference(self, uri, name, checksum):
        self.references.append((uri, name, checksum))


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the wandb module that records its calls."""
    module = types.ModuleType("wandb")
    module.calls, module.inits = [], []

    def init(**options):
        module.inits.append(options)
        return FakeRun(module.calls, options)

    module.init, module.Artifact, module.Settings = init, FakeArtifact, dict
    module.teardown = lambda: None
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return module


def begin(directory):
    return start(stage="sft", identity="abc", recipe="tiny", config={"steps": 3}, directory=directory)


def test_the_mode_follows_key_and_wish():
    assert mode({}) == "offline"
    assert mode({"WANDB_API_KEY": "k"}) == "online"
    assert mode({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}) == "disabled"
    assert mode({"WANDB_MODE": "offline", "WANDB_API_KEY": "k"}) == "offline"


def test_disabled_means_no_run_and_no_import(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    assert begin(tmp_path) is None


def test_a_run_is_named_by_target_and_identity(wandb, tmp_path):
    begin(tmp_path).finish()
    options = wandb.inits[0]
    assert options["id"] == run_id("tiny", "sft", "abc") != run_id("tiny", "sft", "abd")
    assert (options["group"], options["job_type"], options["mode"]) == ("tiny", "sft", "offline")
    assert options["config"]["steps"] == 3 and options["dir"] == str(tmp_path)


def test_rows_become_flat_numbers_and_validation_gets_its_prefix():
    row = {"step": 3, "loss": 1.5, "by": {"a": 2, "b": {"c": 3}}, "shares": [[1]], "name": "x", "nothing": None}
    assert numbers(row) == {"loss": 1.5, "by/a": 2, "by/b/c": 3}
    assert numbers({"split": "valid", "loss": {"code": 2.0}}) == {"valid/loss/code": 2.0}


def test_steps_that_a_resumed_run_has_already_are_left_out(wandb, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeRun, "__init__", lambda self, log, init: self.__dict__.update(calls=log, step=2))
    run = begin(tmp_path)
    for step in (1, 2, 3):
        run.log({"loss": step}, step)
    run.finish()
    assert [values[0]["loss"] for name, values, _ in wandb.calls if name == "log"] == [2, 3]


def test_the_artifact_is_logged_by_reference_with_our_digests(wandb, tmp_path):
    with building(tmp_path / "model", kind="sft", config={}) as made:
        (made.path / "model.safetensors").write_bytes(b"weights")
    run = begin(tmp_path / "work")
    run.finish(tmp_path / "model" / "manifest.json")
    _, values, options = next(call for call in wandb.calls if call[0] == "log_artifact")
    manifest = read_manifest(tmp_path / "model")
    assert values[0].name == "tiny-sft" and options["aliases"] == [manifest.identity]
    assert values[0].metadata["digest"] == manifest.digest and values[0].metadata["files"] == manifest.files
    assert ((tmp_path / "model/model.safetensors").as_uri(), "model.safetensors", False) in values[0].references


def test_samples_of_an_rl_stage_become_a_table(wandb, tmp_path, monkeypatch):
    wandb.Table = lambda columns, data: [dict(zip(columns, row, strict=True)) for row in data]
    monkeypatch.setattr(weights_and_biases, "MAX_SAMPLES", 2)
    rows = [{"step": step, "environment": "mcqa", "response": "ü", "reward": 0.5, "group": 1} for step in (1, 2, 3)]
    with building(tmp_path / "model", kind="rl/rlvr1", config={}) as made:
        (made.path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = begin(tmp_path / "work")
    run.log({"reward/mcqa": 0.25, "split": "valid", "step": 3}, 3)
    run.finish(tmp_path / "model" / "manifest.json")
    logged = [values[0] for name, values, _ in wandb.calls if name == "log"]
    assert logged[0] == {"valid/reward/mcqa": 0.25}
    assert [(row["step"], row["response"]) for row in logged[1]["samples"]] == [(2, "ü"), (3, "ü")]
    assert "log_artifact" in [name for name, _, _ in wandb.calls]


@pytest.mark.parametrize("broken", ["init", "log", "finish", "log_artifact"])
def test_whatever_fails_costs_one_line_and_not_the_job(wandb, tmp_path, monkeypatch, capsys, broken):
    def fail(*values, **options):
        raise RuntimeError("no space left\nsecond line")

    if broken == "init":
        wandb.init = fail
    else:
        monkeypatch.setattr(FakeRun, broken, fail, raising=False)
    with building(tmp_path / "model", kind="sft", config={}):
        pass
    run = begin(tmp_path / "work")
    run.log({"loss": 1.0}, 1)
    run.finish(tmp_path / "model")
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == ["W&B: RuntimeError: no space left; the stage goes on without it"]


def test_without_the_package_the_job_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    begin(tmp_path).finish()
    assert capsys.readouterr().out.startswith("W&B: ")


def test_a_server_that_does_not_answer_makes_the_run_go_on_offline(wandb, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    good = wandb.init

    def init(**options):
        if options["mode"] == "online":
            raise ConnectionError("no answer")
        return good(**options)

    wandb.init = init
    run = begin(tmp_path)
    run.log({"loss": 1.0}, 1)
    run.finish()
    assert [name for name, _, _ in wandb.calls] == ["log", "finish"]
    assert "going on offline" in capsys.readouterr().out


def test_neither_logging_nor_finishing_waits_for_a_hanging_service(wandb, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights_and_biases, "FINISH_SECONDS", {"offline": 0.2, "online": 0.2})
    wandb.init = lambda **options: time.sleep(1.5)
    began = time.monotonic()
    run = begin(tmp_path)
    run.log({"loss": 1.0}, 1)
    assert time.monotonic() - began < 0.1
    run.finish()
    assert time.monotonic() - began < 1.2
    assert "wandb_sync.py" in capsys.readouterr().out


@pytest.fixture
def logged(tmp_path, wandb):
    """Data -> sft -> rl, where the two stages have W&B runs and one offline directory waits."""
    root = tmp_path / "results" / "tiny"
    with building(root / "sft/data", kind="sft/data", config={}):
        pass
    for path, kind, source in (("sft/model", "sft", "sft/data"), ("rl/rlvr1", "rl/rlvr1", "sft/model")):
        with building(root / path, kind=kind, config={}, inputs={"input": root / source}):
            pass
        identity = read_manifest(root / path).identity
        provenance = root / path / "provenance.json"
        record = json.loads(provenance.read_text()) | {"wandb_run": run_id("tiny", kind, identity)}
        provenance.write_text(json.dumps(record))
    for name in ("offline-run-2-b", "offline-run-1-a"):
        (root / ".work/sft/abc/wandb" / name).mkdir(parents=True)
    (root / ".work/sft/abc/wandb/offline-run-1-a/run-a.wandb.synced").touch()
    (root / "lineage.json").write_text(read_lineage(root).text())
    return root


def test_sync_sends_what_was_not_sent_and_adds_the_input_edges(logged, wandb, monkeypatch):
    module, sent = script("wandb_sync"), []

    def run(command, **options):
        sent.append(command[-1])
        return types.SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    module.main([str(logged)])
    assert sent == [str(logged / ".work/sft/abc/wandb/offline-run-2-b")]
    used = [values[0] for name, values, _ in wandb.calls if name == "use_artifact"]
    sft = read_manifest(logged / "sft/model").identity
    assert f"tiny-sft:{sft}" in used
    data = next(value for value in used if isinstance(value, FakeArtifact))
    assert data.name == "tiny-sft-data" and data.metadata["digest"] == read_manifest(logged / "sft/data").digest
    assert all(options["resume"] == "allow" for options in wandb.inits)


def test_sync_without_a_key_says_so_and_a_dry_run_needs_none(logged, wandb, capsys):
    module = script("wandb_sync")
    module.main([str(logged), "--dry-run"])
    assert "1 offline runs, 2 stages" in capsys.readouterr().out and not wandb.inits
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        module.main([str(logged)])


def test_a_failed_upload_names_the_run_and_the_reason(logged, wandb, monkeypatch):
    module = script("wandb_sync")
    answer = types.SimpleNamespace(returncode=1, stdout="", stderr="trace\npermission denied\n")
    monkeypatch.setattr(module.subprocess, "run", lambda *values, **options: answer)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    with pytest.raises(UserError, match="offline-run-2-b: permission denied"):
        module.main([str(logged)])


@pytest.mark.slow
def test_the_real_package_starts_and_finishes_offline_within_seconds(tmp_path):
    import subprocess

    code = f"""
import time
from pathlib import Path
from nano3.train.weights_and_biases import start
began = time.monotonic()
run = start(stage="sft", identity="abc", recipe="tiny", config={{}}, directory=Path({str(tmp_path)!r}))
run.log({{"loss": 1.0}}, 1)
run.finish()
assert time.monotonic() - began < 10
"""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": "scripts", "WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "" and list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
