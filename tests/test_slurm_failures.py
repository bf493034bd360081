"""What a cluster does to jobs: whatever happens, the weights in the end are those of an undisturbed run."""

import re
import signal
import time

import pytest

from slurm import cluster
from slurm.site import PATIENCE, Site, skip_without_slurm, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.workflow]

MODEL = "results/endure/pretrain/phase1"
TRAIN = ("--allowed-rules", "pretrain_phase1", "--", MODEL)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A site with the training's data, and the weights of an undisturbed training."""
    skip_without_slurm()
    directory = tmp_path_factory.mktemp("failures")
    site = Site(directory, cluster.up(directory / "cluster", nodes=2, gpus=8, kill_wait=15, slurmd_timeout=10))
    site.cluster = directory / "cluster"
    site.run("snakemake", "--profile", "profiles/local", "results/endure/data/blend/phase1")
    site.run("snakemake", "--profile", "profiles/local", MODEL)
    site.undisturbed = (site.path / MODEL / "model.safetensors").read_bytes()
    yield site
    cluster.down(site.cluster)


@pytest.fixture
def site(prepared):
    """The prepared site, with nothing trained."""
    for made in ("pretrain", ".work", "logs/pretrain_phase1.log"):
        prepared.run("rm", "-rf", f"results/endure/{made}")
    yield prepared
    prepared.run("scancel", "--me", check=False)
    wait_for("the end of all jobs", lambda: not prepared.slurm("squeue", "--noheader"))
    prepared.run("snakemake", "--unlock", MODEL, check=False)


def log_of_jobs(site):
    """The Slurm logs of the current test's training jobs, oldest first."""
    logs = sorted(
        (site.path / "results/slurm_logs/rule_pretrain_phase1").rglob("*.log"), key=lambda file: int(file.stem)
    )
    return "\n".join(file.read_text() for file in logs if file.stat().st_mtime > site.began)


def start(site, *arguments, steps=150, **environment):
    """Start Snakemake, and wait until its training job is past its first checkpoint; returns both."""
    site.began = time.time() - 1
    snakemake = site.start("snakemake", "--profile", "slurm", *arguments, *TRAIN, **environment)
    wait_for(f"step {steps} of the training", lambda: steps_done(site) >= steps, 300)
    return snakemake, site.slurm("squeue", "--noheader", "--format=%i", "--states=RUNNING").split()[-1]


def steps_done(site):
    return sum(
        len(file.read_text().splitlines()) for file in (site.path / "results/endure/.work").rglob("metrics.jsonl")
    )


def finish(site, snakemake, jobs=1):
    """Wait for Snakemake; the training must have resumed and made the undisturbed weights.

    jobs: how many it must have submitted; None: any number."""
    output, _ = snakemake.communicate(timeout=500 * PATIENCE)
    assert snakemake.returncode == 0, output[-4000:]
    submitted = len(re.findall("has been submitted with SLURM jobid", output))
    assert jobs in (submitted, None), output
    assert "resuming from step" in log_of_jobs(site)
    assert (site.path / MODEL / "model.safetensors").read_bytes() == site.undisturbed
    return output


def assert_went_on_where_it_saved(site, job):
    """Whether the job put itself back into the queue after saving, and lost no step."""
    log = log_of_jobs(site)
    assert f"putting Slurm job {job} back into the queue" in log
    assert re.findall(r"saved step (\d+)", log) == re.findall(r"resuming from step (\d+)", log)


def test_a_preempted_job_starts_again_under_its_id_and_resumes(site):
    snakemake, job = start(site, NANO3_PARTITION="low")
    site.slurm("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    wait_for(
        "the preemption", lambda: site.slurm("squeue", "--noheader", "--format=%T", "--jobs", job).strip() != "RUNNING"
    )
    finish(site, snakemake)


def test_slurms_warning_before_the_time_limit_makes_a_chain_of_one_job(site):
    snakemake, job = start(site)
    site.slurm("scancel", "--signal=USR1", job)  # what --signal=USR1@600 sends
    finish(site, snakemake)
    assert_went_on_where_it_saved(site, job)


def test_a_real_time_limit_is_announced_saved_and_survived(site):
    recipe = site.path / "config/recipes/endure.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("runtime_minutes: 60", "runtime_minutes: 1"))
    try:
        snakemake, job = start(site, steps=1, NANO3_SAVE_SECONDS="30")
        finish(site, snakemake, jobs=None)  # on a slow machine a warning may come before training listens
    finally:
        recipe.write_text(text)
    assert_went_on_where_it_saved(site, job)


def test_a_cancelled_job_is_submitted_again_and_resumes(site):
    snakemake, job = start(site)
    site.slurm("scancel", job)
    output = finish(site, snakemake, jobs=2)
    assert "SLURM status is: 'CANCELLED'" in output
    assert "putting Slurm job" not in log_of_jobs(site)


def test_a_job_of_a_failed_node_starts_again_on_another_and_resumes(site):
    snakemake, job = start(site)
    node = site.slurm("squeue", "--noheader", "--format=%N", "--jobs", job).strip()
    cluster.kill_node(site.cluster, node)
    try:
        finish(site, snakemake)
    finally:
        cluster.start_node(site.cluster, node)
        wait_for("the node", lambda: cluster.idle_nodes(site.environment) == 2)


def test_ctrl_c_cancels_the_jobs_and_the_next_run_resumes(site):
    snakemake, job = start(site)
    snakemake.send_signal(signal.SIGINT)
    wait_for("the end of the job", lambda: job not in site.slurm("squeue", "--noheader", "--format=%i").split(), 60)
    snakemake.communicate(timeout=240 * PATIENCE)
    assert snakemake.returncode != 0
    finish(site, site.start("snakemake", "--profile", "slurm", *TRAIN))


def test_after_a_killed_snakemake_no_duplicate_is_submitted_and_its_job_is_kept(site):
    snakemake, job = start(site)
    snakemake.send_signal(signal.SIGKILL)
    snakemake.communicate()
    assert "unlock" in site.snakemake(*TRAIN, check=False)
    site.run("snakemake", "--unlock", MODEL)
    refused = site.snakemake(*TRAIN, check=False)
    assert re.search(rf"{job} +RUNNING", refused) and "scripts/slurm_orphans.py --wait" in refused
    assert "has been submitted" not in refused
    assert job in site.run("python", "scripts/slurm_orphans.py", check=False)
    site.run("python", "scripts/slurm_orphans.py", "--wait", "--poll-seconds", "1", timeout=500)
    site.snakemake(*TRAIN)
    assert (site.path / MODEL / "model.safetensors").read_bytes() == site.undisturbed
    assert len(re.findall("published again|goes on", log_of_jobs(site))) <= 1


def test_a_job_that_ran_out_of_memory_gets_more_at_the_next_attempt(site):
    recipe = site.path / "config/recipes/endure.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("memory_mb: 2000", "memory_mb: 400"))
    try:
        site.began = time.time() - 1
        output = site.snakemake(*TRAIN, timeout=500)
    finally:
        recipe.write_text(text)
    jobs = re.findall(r"has been submitted with SLURM jobid (\d+)", output)
    assert len(jobs) > 1
    asked = [re.search(r"MinMemoryNode=(\S+)", site.slurm("scontrol", "show", "job", job))[1] for job in jobs]
    assert asked == ["400M", "600M", "800M"][: len(jobs)]
    assert (site.path / MODEL / "model.safetensors").read_bytes() == site.undisturbed
