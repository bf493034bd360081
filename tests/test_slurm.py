"""The user's main command on a real Slurm: a fresh clone, every job through sbatch, one of them on two nodes."""

import json
import re
from pathlib import Path

import pytest

from slurm import cluster
from slurm.site import Site, skip_without_slurm

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]

FINAL = "results/cluster/rl/final"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    skip_without_slurm()
    directory = tmp_path_factory.mktemp("slurm")
    environment = cluster.up(directory / "cluster", nodes=2, gpus=8)
    yield Site(directory, environment)
    cluster.down(directory / "cluster")


@pytest.fixture(scope="module")
def built(site):
    """The site after the main command, and what that printed."""
    return site, site.snakemake(FINAL, timeout=600)


def states(site):
    """Job id -> (state, comment, nodes) of every job that the cluster has seen."""
    rows = site.slurm("squeue", "--states=all", "--noheader", "--format=%i|%T|%k|%D").splitlines()
    return {row.split("|")[0]: row.split("|")[1:] for row in rows}


def test_the_main_command_makes_the_final_model_and_every_job_goes_through_sbatch(built):
    site, output = built
    assert (site.path / FINAL / "model.safetensors").stat().st_size > 0
    submitted = re.findall(r"has been submitted with SLURM jobid (\d+)", output)
    planned = dict(re.findall(r"^(\w+) +(\d+)$", output.split("Job stats:")[1].split("\n\n")[0], re.M))
    local = {"blend", "report", "lineage", "total"}
    assert len(submitted) == sum(int(count) for rule, count in planned.items() if rule not in local)
    jobs = states(site)
    assert {jobs[job][0] for job in submitted} == {"COMPLETED"}
    trained = {"pretrain_phase1", "pretrain_phase2", "pretrain_long_context", "sft", "rlvr1"}
    assert {f"rule_{rule}_wildcards_cluster" for rule in trained} <= {job[1] for job in jobs.values()}


def test_sixteen_processes_on_two_nodes_train_what_one_process_trains(built):
    from safetensors.torch import load_file

    site, _ = built
    assert [job[2] for job in states(site).values() if job[1].startswith("rule_pretrain_long_context")] == ["2"]
    log = (site.path / "results/cluster/logs/pretrain_long_context.log").read_text()
    assert "16 processes on 2 nodes train together, over gloo" in log
    results = site.path / "results"
    site.run(
        *("python", "scripts/pretrain_long_context.py", "--recipe", "config/recipes/alone.yaml"),
        *("--model", "results/cluster/pretrain/phase2", "--blend", "results/cluster/data/blend/long_context"),
        *("--tokenizer", "results/cluster/tokenizer", "--output", "results/alone/pretrain/long_context"),
    )
    together, alone = (
        load_file(results / recipe / "pretrain/long_context/model.safetensors") for recipe in ("cluster", "alone")
    )
    assert together.keys() == alone.keys()
    assert max((together[name] - alone[name]).abs().max().item() for name in alone) < 1e-5
    steps = [json.loads(line) for line in (results / "cluster/pretrain/long_context/metrics.jsonl").open()]
    before = load_file(results / "cluster/pretrain/phase2/model.safetensors")
    assert len(steps) > 2 and max((together[name] - before[name]).abs().max().item() for name in before) > 1e-5


def test_a_second_invocation_submits_nothing(built):
    site, _ = built
    output = site.snakemake(FINAL)
    assert "Nothing to be done" in output and "has been submitted" not in output


WRONG = {
    "partition": ({"NANO3_PARTITION": "nowhere"}, ["NANO3_PARTITION is 'nowhere'", "batch, gated, high, low"]),
    "account": ({"NANO3_PARTITION": "gated"}, ["NANO3_ACCOUNT is not set", "only for the accounts nano"]),
    "gpu": ({"NANO3_GPU_TYPE": "b300"}, ["Requested node configuration is not available", "NANO3_GPU_TYPE"]),
    "container runtime": ({"NANO3_CONTAINER_RUNTIME": "pyxis"}, ["pyxis plugin is missing"]),
    "container image": (
        {"NANO3_CONTAINER_RUNTIME": "apptainer", "NANO3_IMAGE_TRAIN": "/nowhere.sif"},
        ["/nowhere.sif does not exist", "set NANO3_IMAGE_TRAIN"],
    ),
    "controller": ({"SLURM_CONF": "dead.conf"}, ["Slurm can't be used", "is DOWN", "SLURM_CONF is dead.conf"]),
}


@pytest.mark.parametrize("setting", WRONG)
def test_a_wrong_setting_is_named_within_thirty_seconds_and_nothing_is_submitted(site, setting):
    environment, expected = WRONG[setting]
    if setting == "controller":
        config = Path(site.environment["SLURM_CONF"]).read_text()
        (site.path / "dead.conf").write_text(re.sub(r"(SlurmctldPort)=\d+", r"\1=1", config))
        wrappers = str(site.path.parent / "cluster" / "bin")  # they know their cluster; take Slurm's own commands
        environment = environment | {"PATH": site.environment["PATH"].replace(wrappers, "/nowhere")}
    output = site.snakemake("results/alone/sft/model", check=False, timeout=30, **environment)
    for text in expected:
        assert text in output
    assert "has been submitted" not in output
