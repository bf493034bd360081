"""What is right and wrong about a machine and a cluster, with the remedy."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from nano3 import launch, sandbox, slurm
from nano3.errors import UserError
from nano3.preflight import memory_mb, visible_gpus
from nano3.software import Software, package_problems

LEAST_DISK_GB, LEAST_MEMORY_MB = 5, 4000


@dataclass(frozen=True)
class Finding:
    """One check. remedy: what to do when it is not good."""

    subject: str
    good: bool
    says: str
    remedy: str = ""


def machine(software: Software, name: str, directory: Path) -> list[Finding]:
    """This machine against the environment `name`; `directory` is where results go."""
    python = platform.python_version()
    right_python = SpecifierSet(software.python).contains(python, prereleases=True)
    memory, disk = memory_mb(), shutil.disk_usage(directory).free / 1e9
    findings = [
        Finding("environment", True, f"{name}: {software.purpose}"),
        Finding(
            "python", right_python, f"{python}, wanted {software.python}", "" if right_python else software.install
        ),
        *_packages(software, name),
        _sandbox(),
        Finding("processors", True, f"{len(os.sched_getaffinity(0))} usable"),
        _least("memory", memory, LEAST_MEMORY_MB, "MB", "use a machine with more"),
        _least("disk", disk, LEAST_DISK_GB, "GB free", f"make room in {directory}, or run in another directory"),
    ]
    return findings + (_gpus() if software.gpu else [])


def cluster(environment: Mapping[str, str]) -> list[Finding]:
    """Slurm as the slurm profile would use it."""
    problem = slurm.controller_problem()
    if problem:
        return [Finding("slurm", False, "can't be used", "; ".join(map(str.strip, problem.splitlines())))]
    findings = [Finding("slurm", True, slurm.ask("sinfo", "--version").strip() + ", controller up")]
    problems = [("partition", text) for text in slurm.partition_problems(environment)]
    problems += [("container", text) for text in launch.container_problems(launch.ENVIRONMENTS, environment)]
    if not problems:
        options = {"account": "NANO3_ACCOUNT", "partition": "NANO3_PARTITION", "qos": "NANO3_QOS"}
        given = [f"--{name}={environment[key]}" for name, key in options.items() if environment.get(key)]
        refused = slurm.refusal("a minute on one processor", [*given, "--time=1", "--ntasks=1"])
        problems += [("submission", refused)] if refused else []
    for subject in ("partition", "container", "submission"):
        texts = [text for kind, text in problems if kind == subject]
        findings += [Finding(subject, False, *_says_and_remedy(text)) for text in texts]
        findings += [] if texts or (subject == "submission" and problems) else [Finding(subject, True, "as configured")]
    return findings


def _packages(software: Software, name: str) -> list[Finding]:
    problems = package_problems(software)
    remedy = f"{software.install}    or use the image {software.image}"
    if not problems:
        return [Finding("packages", True, f"the {len(software.packages)} of envs/{name}.yaml")]
    return [Finding("packages", False, problem, "" if index else remedy) for index, problem in enumerate(problems)]


def _sandbox() -> Finding:
    try:
        return Finding("sandbox", True, f"programs that a model writes are held by {sandbox.kind()}")
    except UserError as error:
        says, _, remedy = str(error).partition(". ")
        return Finding("sandbox", False, says, remedy)


def _least(subject: str, value: float, least: float, unit: str, remedy: str) -> Finding:
    good = value >= least
    return Finding(subject, good, f"{value:,.0f} {unit}, at least {least:,}", "" if good else remedy)


def _gpus() -> list[Finding]:
    count = visible_gpus()
    if not count:
        return [
            Finding(
                "gpus", False, "none visible", "run this on a GPU node: srun --gres=gpu:1 python scripts/doctor.py ..."
            )
        ]
    findings = [Finding("gpus", True, f"{count} visible")]
    try:
        names = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout.splitlines()
        findings.append(Finding("driver", True, "; ".join(sorted(set(names)))))
    except (OSError, subprocess.SubprocessError) as error:
        findings.append(
            Finding("driver", False, f"nvidia-smi: {error}", "install NVIDIA's driver, or pass the GPUs in (--nv)")
        )
    return [*findings, _cuda()]


def _cuda() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("cuda", False, "torch is not installed", "see packages above")
    if not torch.cuda.is_available():
        return Finding(
            "cuda", False, f"torch {torch.__version__} sees no GPU", "install torch for CUDA: pip install torch"
        )
    return Finding(
        "cuda", True, f"torch {torch.__version__} sees {torch.cuda.device_count()} GPUs, CUDA {torch.version.cuda}"
    )


def _says_and_remedy(text: str) -> tuple[str, str]:
    says, _, remedy = text.partition("\n")
    return says, " ".join(remedy.split())
