"""The workflow as a whole, on the recipe `mini`: it runs, runs once, and rebuilds what a change concerns."""

import os
import re
import shutil
from pathlib import Path

import pytest

from workspace import ROOT, Workspace

pytestmark = pytest.mark.workflow

FINAL = "results/mini/rl/final"
TRAINING = {"pretrain_phase1", "pretrain_phase2", "pretrain_long_context", "sft", "rlvr1"}
AFTER_SFT = {"sft", "rlvr1", "evaluate", "report", "lineage", "final"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("built"), (ROOT / "tests" / "recipes" / "mini.yaml",))
    workspace.snakemake("--profile", "profiles/local", FINAL)
    return workspace


@pytest.fixture
def restored(built):
    """The built workspace; files that a test changes are put back with their times."""
    watched = [built.path / part for part in ("scripts", "config")]
    files = {file: (file.read_bytes(), file.stat()) for part in watched for file in part.rglob("*") if file.is_file()}
    yield built
    for file, (content, status) in files.items():
        if file.read_bytes() != content:
            file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_one_command_makes_the_final_model_the_report_and_the_lineage(built):
    for made in (FINAL + "/model.safetensors", FINAL + "/README.md", "results/mini/report.html"):
        assert (built.path / made).stat().st_size > 0
    assert (built.path / "results/mini/lineage.json").is_file()


def test_a_second_run_does_nothing(built):
    assert built.planned(FINAL) == {}


def test_touching_every_file_reruns_nothing(restored):
    for part in ("scripts", "rules", "config", "results"):
        for file in (restored.path / part).rglob("*"):
            if file.is_file() and ".work" not in file.parts:
                file.touch()
    assert restored.planned(FINAL) == {}


def test_another_sft_learning_rate_reruns_sft_and_what_follows(restored):
    restored.edit("config/recipes/mini.yaml", "sft:\n  data:", "sft:\n  learning_rate: 1.0e-4\n  data:")
    planned = restored.planned(FINAL)
    assert set(planned) == AFTER_SFT
    assert planned["evaluate"] == 2  # sft and rlvr1, not base


def test_another_rl_value_reruns_only_rl_and_what_follows(restored):
    restored.edit("config/recipes/mini.yaml", "rlvr1:\n    steps: 2", "rlvr1:\n    steps: 3")
    assert set(restored.planned(FINAL)) == AFTER_SFT - {"sft"}


def test_execution_values_rerun_nothing(restored):
    restored.edit("config/recipes/mini.yaml", "log_interval: 2", "log_interval: 3")
    assert restored.planned(FINAL) == {}


def test_editing_a_data_script_rebuilds_data_and_what_is_trained_on_it(restored):
    with (restored.path / "scripts" / "tokenize_shards.py").open("a") as script:
        script.write("\n# another version\n")
    planned = restored.planned(FINAL)
    assert {"tokenize_shards", "blend"} | TRAINING <= set(planned)
    assert not {"raw_shards", "tokenizer", "sft_data", "rl_prompts"} & set(planned)


def test_editing_training_code_reruns_no_training(restored):
    with (restored.path / "scripts" / "nano3" / "train" / "loop.py").open("a") as module:
        module.write("\n# another version\n")
    assert not TRAINING & set(restored.planned(FINAL))


@pytest.fixture(scope="module")
def fresh(built, tmp_path_factory):
    """A copy of the built artifacts without work directories, so that every stage would train again."""
    workspace = Workspace(tmp_path_factory.mktemp("fresh"), (ROOT / "tests" / "recipes" / "mini.yaml",))
    shutil.copytree(
        built.path / "results", workspace.path / "results", ignore=shutil.ignore_patterns(".work"), symlinks=True
    )
    return workspace


@pytest.mark.parametrize(
    ("file", "script", "inputs"),
    [
        ("data/tokens/task_text/0/train.bin", "pretrain_phase1", ["blend=data/blend/phase1", "tokenizer=tokenizer"]),
        ("data/tokens/task_text/0/train.idx", "pretrain_phase1", ["blend=data/blend/phase1", "tokenizer=tokenizer"]),
        ("pretrain/long_context/model.safetensors", "sft", ["model=pretrain/long_context", "data=sft/data"]),
        ("sft/data/train/input_ids.npy", "sft", ["model=pretrain/long_context", "data=sft/data"]),
        ("rl/prompts/train.jsonl", "rlvr1", ["model=sft/model", "prompts=rl/prompts"]),
    ],
)
def test_a_flipped_byte_is_found_before_training_and_the_error_names_the_file(fresh, file, script, inputs):
    damaged = fresh.path / "results" / "mini" / file
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    outputs = {"pretrain_phase1": "pretrain/phase1", "sft": "sft/model", "rlvr1": "rl/rlvr1"}
    arguments = [f"--{name}=results/mini/{path}" for name, path in (pair.split("=") for pair in inputs)]
    try:
        result = fresh.python(
            f"scripts/{script}.py", "--recipe=config/recipes/mini.yaml", *arguments,
            f"--output=results/mini/{outputs[script]}",
        )  # fmt: skip
    finally:
        content[-3] ^= 1
        damaged.write_bytes(content)
    assert result.returncode == 1, result.stdout
    assert file in result.stdout and "expected sha256" in result.stdout
    assert "step 1/" not in result.stdout and "validation" not in result.stdout


@pytest.mark.parametrize("target", ["results/nano3/rl/final", "results/nano3/report.html"])
def test_a_laptop_can_plan_the_whole_of_nano3(built, target):
    planned = built.planned(target)
    assert set(planned) >= TRAINING
    assert planned["raw_shards"] > 1000 and planned["tokenize_shards"] > 1000


def test_nano3_stops_at_once_on_a_laptop_and_says_what_it_needs(built):
    result = built.snakemake("--profile", "profiles/local", "results/nano3/rl/final", check=False, timeout=60)
    assert result.returncode != 0
    assert re.search(r"it needs up to \d+ nodes with 8 GPUs each", result.stdout), result.stdout[-2000:]
    assert not (built.path / "results" / "nano3" / "data").exists()


def test_data_is_made_on_a_machine_that_could_not_train(built):
    (built.path / "config/recipes/large.yaml").write_text("extends: mini\nexecution: {sft: {memory_mb: 900_000_000}}\n")
    made = "results/large/data/raw/rl_train/0"
    built.snakemake("--profile", "profiles/local", made)
    assert (built.path / made / "manifest.json").is_file()
    result = built.snakemake("--profile", "profiles/local", "results/large/sft/model", check=False)
    assert result.returncode and "900000000 MB of memory (execution.sft)" in result.stdout


def test_the_final_model_is_described_by_what_it_descends_from(built):
    """The comparison in random order is in the report, not in the card."""
    final = "results/tiny/rl/final"
    planned = built.snakemake("--profile", "profiles/local", "--dryrun", "--printshellcmds", final).stdout
    given = {}
    for job in ("report", "final"):
        command = re.search(rf"python scripts/{job}\.py .*", planned)[0]
        given[job] = command.split("--evaluations ")[1].split(" --")[0].split()
    assert given["final"][-1] == "results/tiny/evaluation/dpo/manifest.json"
    assert given["report"] == [*given["final"], "results/tiny/evaluation/rlvr1_random/manifest.json"]


def test_an_unknown_recipe_names_the_known_ones(built):
    result = built.snakemake("--dryrun", "results/nothing/rl/final", check=False)
    assert "there is no recipe config/recipes/nothing.yaml" in result.stdout
    assert "tiny" in result.stdout


def test_names_that_nothing_answers_to_stop_a_dry_run(restored):
    result = restored.snakemake("--dryrun", "results/mini/rl/profile/rlvr1", check=False)
    assert result.returncode and "rl.rlvr1 of the recipe has no curriculum" in result.stdout
    restored.edit("config/recipes/mini.yaml", "environment_ratio: null", "environment_ratio: {mth: 1}")
    result = restored.snakemake("--dryrun", FINAL, check=False)
    assert result.returncode and "unknown 'mth'; the environments are math_with_judge," in result.stdout
    result = restored.snakemake("--dryrun", "results/tiny/data/raw/nothing/0", check=False)
    assert result.returncode and "the recipe has no data set 'nothing'" in result.stdout


def test_the_drift_list_is_made_again_when_code_changes_and_only_then(restored):
    drift = "results/mini/drift.txt"
    restored.snakemake("--profile", "profiles/local", drift)
    assert restored.planned(drift) == {}
    with (restored.path / "scripts/sft.py").open("a") as file:
        file.write("# changed\n")
    assert restored.planned(drift) == {"drift": 1}


def test_the_profile_symlink_makes_the_literal_command_work():
    assert os.readlink(ROOT / "slurm") == "profiles/slurm"
    assert not (ROOT / "profiles" / "default").exists()


def test_the_top_level_holds_what_the_design_says_and_nothing_else():
    tracked = os.popen(f"git -C {ROOT} ls-files").read().split()
    top = {Path(name).parts[0] for name in tracked if not name.startswith(".")}
    expected = {"Snakefile", "rules", "scripts", "config", "profiles", "envs", "tests", "pyproject.toml", "README.md"}
    assert top <= expected | {"slurm"}
