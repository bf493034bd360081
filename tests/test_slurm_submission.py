"""What the recipe nano3 would ask Slurm for: the sbatch lines of its GPU jobs, and how cheaply the whole is planned.

A fake sbatch writes down its arguments and makes the job's outputs as empty files, so no Slurm is needed."""

import os
import re
import shlex
import shutil
import sys

import pytest

from nano3.recipe import load_recipe
from workspace import ROOT, Workspace

pytestmark = pytest.mark.workflow

GPU_RULES = {
    "pretrain_phase1": ("pretrain/phase1", 384),
    "pretrain_phase2": ("pretrain/phase2", 384),
    "pretrain_long_context": ("pretrain/long_context", 32),
    "sft": ("sft/model", 32),
    "rl_profile": ("rl/profile/rlvr1", 1),
    "rlvr1": ("rl/rlvr1", 32),
    "genrm": ("rl/genrm", 32),
    "rlhf": ("rl/rlhf", 32),
    "rlvr2": ("rl/rlvr2", 32),
    "dpo_pairs": ("rl/dpo_pairs", 1),
    "dpo": ("rl/dpo", 32),
    "evaluate": ("evaluation/base", 1),
}
ONE_PROCESS = ("evaluate", "rl_profile", "dpo_pairs")  # the first two are one job for each model
SBATCH = """#!{python}
import pathlib, re, sys
if "--test-only" in sys.argv:
    sys.exit()
log = pathlib.Path("sbatch.log")
with log.open("a") as stream:
    stream.write("\\t".join(sys.argv[1:-1]) + "\\n")
rule, model = re.search(r"--target-jobs '?(\\w+):recipe=\\w+(?:,(?:model|rl_stage)=(\\w+))?", sys.argv[-1]).groups()
made = pathlib.Path("results/recorded") / {outputs}[rule].replace("base", model or "base")
made.mkdir(parents=True, exist_ok=True)
(made / "manifest.json").touch()
benchmark = pathlib.Path("results/recorded/benchmarks") / (f"{{rule}}/{{model}}.tsv" if model else f"{{rule}}.tsv")
benchmark.parent.mkdir(parents=True, exist_ok=True)
benchmark.touch()
print(len(log.read_text().splitlines()))
"""
OTHERS = {
    "scontrol": "echo 'Slurmctld(primary) at head is UP'; echo 'MinJobAge = 300 sec'; echo AllowAccounts=ALL",
    "sinfo": "echo cpu; echo h100",
    "squeue": "[ -f sbatch.log ] && n=$(wc -l < sbatch.log) && seq $n | sed 's/$/|COMPLETED/'; true",
    "sacct": "true",
    "sacctmgr": "echo llm",
    "sshare": "echo llm",
    "scancel": "true",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace whose recipe `recorded` is nano3 with the backend that this version can run."""
    workspace = Workspace(tmp_path_factory.mktemp("submission"))
    recipe = workspace.path / "config/recipes/recorded.yaml"
    recipe.write_text("extends: nano3\nexecution: {backend: torch}\n")
    programs = workspace.path / "bin"
    programs.mkdir()
    outputs = {rule: output for rule, (output, _) in GPU_RULES.items()}
    scripts = {name: f"#!/bin/sh\n{body}\n" for name, body in OTHERS.items()}
    scripts["sbatch"] = SBATCH.format(python=sys.executable, outputs=outputs)
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return workspace


@pytest.fixture(scope="module")
def submitted(workspace):
    """Rule -> options of the sbatch call that its job was submitted with."""
    recipe = load_recipe(workspace.path / "config/recipes/recorded.yaml")
    made = [
        "tokenizer",
        "sft/data",
        "rl/prompts",
        "rl/preferences",
        *(f"data/blend/{phase}" for phase in ("phase1", "phase2", "long_context")),
    ]
    made += [f"data/tokens/{name}/{group}" for name, data in recipe.datasets.items() for group in range(data.groups)]
    for artifact in made:
        directory = workspace.path / "results/recorded" / artifact
        directory.mkdir(parents=True)
        (directory / "manifest.json").touch()
    workspace.snakemake(
        *("--profile", "slurm", "--latency-wait", "1", "--allowed-rules", *GPU_RULES, "--"),
        *("results/recorded/rl/dpo", "results/recorded/evaluation/base"),
        PATH=f"{workspace.path / 'bin'}:{os.environ['PATH']}",
        NANO3_ACCOUNT="llm",
        NANO3_PARTITION="cpu",
        NANO3_GPU_PARTITION="h100",
        NANO3_GPU_TYPE="h100",
        NANO3_QOS="long",
        NANO3_POLL_SECONDS="1",
    )
    calls = [line.split("\t") for line in (workspace.path / "sbatch.log").read_text().splitlines()]
    return {re.search(r"--comment rule_(\w+)_wildcards", " ".join(call))[1]: call for call in calls}


@pytest.mark.parametrize("rule", GPU_RULES)
def test_the_sbatch_line_of_a_gpu_rule(workspace, submitted, rule):
    output, nodes = GPU_RULES[rule]
    call = shlex.join(submitted[rule])
    call = re.sub(r"--job-name \S+", "--job-name RUN", call).replace(str(workspace.path), "HERE")
    wildcards = f"recorded_{output.rpartition('/')[2]}" if rule in ONE_PROCESS[:2] else "recorded"
    many = f" --nodes={nodes}" if nodes > 1 else ""
    tasks = f" --ntasks={nodes}" if nodes > 1 else ""
    warning = "" if rule in ONE_PROCESS else " --signal=USR1@600"
    assert call == (
        f"--parsable --job-name RUN --output HERE/results/slurm_logs/rule_{rule}/{wildcards}/%j.log --export=ALL"
        f" --comment rule_{rule}_wildcards_{wildcards} -A llm -p h100 -t 240 --qos=long --mem 1800000{many} --requeue"
        f"{tasks} --cpus-per-task=96 --open-mode=append{warning} -D HERE --gres=gpu:h100:8"
    )


MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.stdout, used.ru_utime + used.ru_stime, used.ru_maxrss, sep="\\n")
"""


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    """PATH of a machine without Slurm."""
    programs = tmp_path_factory.mktemp("laptop")
    for program in ("bash", "sh", "which"):
        (programs / program).symlink_to(shutil.which(program))
    return str(programs)


@pytest.fixture(scope="module")
def planned(workspace, laptop):
    """What the dry run of nano3's main command printed, and the seconds of processor time and KiB that it took."""
    command = ["-m", "snakemake", "--profile", "slurm", "--dryrun", "results/nano3/rl/final"]
    output = workspace.python("-c", MEASURE, sys.executable, *command, PATH=laptop).stdout
    *_, seconds, kibibytes = output.split()
    return output, float(seconds), int(kibibytes)


def test_nano3_is_planned_without_slurm_in_seconds_and_little_memory(planned):
    output, seconds, kibibytes = planned
    assert int(re.search(r"^total +(\d+)", output, re.M)[1]) > 2000
    assert seconds < 15, "seconds of processor time; on an idle machine the wall time is the same"
    assert kibibytes < 400 * 1024


def test_the_lines_above_are_those_of_every_gpu_rule():
    execution = load_recipe(ROOT / "config/recipes/nano3.yaml").execution
    rules = "".join(file.read_text() for file in sorted((ROOT / "rules").glob("*.smk"))).split("\nrule ")
    sections = {text.split(":")[0]: re.search(r'resources_of\("(\w+)"\)', text) for text in rules[1:]}
    with_gpus = {rule for rule, found in sections.items() if found and getattr(execution, found[1]).gpus_per_node}
    assert with_gpus - {"rlvr1_random"} == set(GPU_RULES)  # a comparison that nano3 does not ask for


def test_the_estimate_of_nano3_needs_no_cluster(workspace, laptop):
    workspace.snakemake("--profile", "slurm", "results/nano3/estimate.txt", PATH=laptop, NANO3_POLL_SECONDS="1")
    assert "31,577,940,288 in total" in (workspace.path / "results/nano3/estimate.txt").read_text()
