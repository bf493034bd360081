"""The doctor: what is wrong with a machine or a cluster, and what to do."""

import os
import stat
from pathlib import Path

import pytest

from nano3 import doctor, slurm
from nano3.errors import UserError
from nano3.launch import ENVIRONMENTS
from nano3.software import Software, load_software, names, package_problems


def test_every_environment_that_a_job_runs_in_is_defined_with_a_pinned_image():
    assert set(ENVIRONMENTS.values()) <= set(names())
    for name in names():
        image = load_software(name).image
        assert ":" in image and not image.endswith(":latest")


def test_an_unknown_environment_names_the_known_ones():
    with pytest.raises(UserError, match="cpu, rl, train"):
        load_software("gpu")


def software(**packages):
    return Software(
        purpose="test", image="a/b:1", python=">=3.11", gpu=False, packages=packages, install="pip install it"
    )


def test_missing_and_outdated_packages_are_named_with_what_is_wanted():
    problems = package_problems(software(torch=">=99", nowhere=">=1", pydantic=">=2"))
    assert len(problems) == 2
    assert "torch is" in problems[0] and "wanted >=99" in problems[0]
    assert problems[1] == "nowhere >=1 is not installed"


def test_the_doctor_says_whether_programs_can_be_held(tmp_path, monkeypatch):
    def finding():
        return next(each for each in doctor.machine(software(), "test", tmp_path) if each.subject == "sandbox")

    monkeypatch.setattr("nano3.sandbox.launch._possible", lambda: ("bubblewrap",))
    assert finding().good and "bubblewrap" in finding().says
    monkeypatch.setattr("nano3.sandbox.launch._possible", lambda: ())
    assert not finding().good and "Install bubblewrap" in finding().remedy


def test_the_doctor_says_how_to_install_what_is_missing(tmp_path):
    wrong = [finding for finding in doctor.machine(software(nowhere=">=1"), "cpu", tmp_path) if not finding.good]
    assert [finding.subject for finding in wrong] == ["packages"]
    assert "pip install it" in wrong[0].remedy and "a/b:1" in wrong[0].remedy


def test_a_gpu_environment_without_a_gpu_names_the_command_for_a_gpu_node(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    findings = doctor.machine(software().model_copy(update={"gpu": True}), "train", tmp_path)
    assert any(finding.subject == "gpus" and "srun --gres=gpu:1" in finding.remedy for finding in findings)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Fake Slurm commands: commands(scontrol="echo UP", ...)."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def make(**scripts):
        for name, body in scripts.items():
            file = tmp_path / name
            file.write_text(f"#!/bin/sh\n{body}\n")
            file.chmod(file.stat().st_mode | stat.S_IXUSR)

    return make


def test_a_machine_without_slurm_is_told_to_use_a_login_node(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "run this on a login node" in slurm.controller_problem()


def test_a_controller_that_does_not_answer_is_an_error_within_seconds(commands, monkeypatch):
    monkeypatch.setattr(slurm, "PING_SECONDS", 0.3)
    commands(scontrol="exec sleep 20")
    assert "SLURM_CONF" in slurm.controller_problem()
    commands(scontrol="echo 'Slurmctld(primary) at head is DOWN'")
    assert "DOWN" in slurm.controller_problem()


def test_an_unknown_partition_names_the_variable_and_the_partitions(commands):
    commands(sinfo="echo batch; echo gpu", scontrol="echo AllowAccounts=ALL")
    (problem,) = slurm.partition_problems({"NANO3_PARTITION": "gpu", "NANO3_GPU_PARTITION": "h100"})
    assert "NANO3_GPU_PARTITION is 'h100'" in problem and "batch, gpu" in problem


def test_a_partition_of_other_accounts_names_the_account_to_set(commands):
    commands(sinfo="echo gpu", scontrol="echo 'AllowGroups=ALL AllowAccounts=llm,vision AllowQos=ALL'")
    (problem,) = slurm.partition_problems({"NANO3_PARTITION": "gpu"})
    assert "llm,vision" in problem and "NANO3_ACCOUNT is not set" in problem
    assert slurm.partition_problems({"NANO3_PARTITION": "gpu", "NANO3_ACCOUNT": "llm"}) == []


def test_a_refused_job_shows_slurms_reason_and_the_variables(commands):
    commands(sbatch="echo 'allocation failure: Invalid account' >&2; exit 1")
    problem = slurm.refusal("rule sft", ["--account=x"])
    assert "rule sft: Invalid account" in problem and "NANO3_ACCOUNT" in problem and "--account=x" in problem


def test_only_jobs_of_this_directory_that_make_the_same_thing_are_duplicates(commands):
    here = Path.cwd()
    rows = f"7|RUNNING|rule_sft_wildcards_nano3|{here}\n8|PENDING|rule_sft_wildcards_tiny|{here}"
    commands(squeue=f"cat <<'E'\n{rows}\n9|RUNNING|rule_sft_wildcards_nano3|/elsewhere\n10|RUNNING|(null)|{here}\nE")
    jobs = slurm.jobs_of(here)
    assert [job.id for job in jobs] == ["7", "8"]
    problem = slurm.duplicates(jobs, [slurm.work_of("sft", ["nano3"])])
    assert "7  RUNNING" in problem and "8  PENDING" not in problem
    assert "scripts/slurm_orphans.py --wait" in problem and "--cancel" in problem
    assert slurm.duplicates(jobs, [slurm.work_of("sft", ["other"])]) is None
