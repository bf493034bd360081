"""Questions to Slurm: does it answer, would it take these jobs, and which jobs of this directory does it have?"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nano3.errors import UserError

# Longest waits for an answer; commands hang for minutes when the controller is away, which a ping finds out.
SECONDS, PING_SECONDS = 20, 5
SITE = "profiles/README.md"


@dataclass(frozen=True)
class ClusterJob:
    """A job that Slurm has not finished. work: what it makes, as `work_of` names it."""

    id: str
    state: str
    work: str


def ask(*command: str, seconds: float = SECONDS) -> str:
    """Standard output of a Slurm command. Raises UserError when there is none, it fails or it hangs."""
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is not on PATH; run this on a login node of the cluster (often after: module load slurm)"
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"{shlex.join(command)} got no answer within {seconds} s") from None
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def controller_problem() -> str | None:
    """Why Slurm can't be talked to, or None."""
    try:
        answer = ask("scontrol", "ping", seconds=PING_SECONDS)
    except UserError as error:
        answer = str(error)
    if " UP" in answer:
        return None
    lines = answer.strip().splitlines()
    said = next((line for line in lines if " DOWN" in line), lines[-1]).removeprefix("scontrol: ")
    return (
        f"Slurm can't be used: {said}\n"
        f"    SLURM_CONF is {os.environ.get('SLURM_CONF', 'not set')}: is it the right cluster, and this a login node?"
        " Else ask its administrators."
    )


def partition_problems(environment: Mapping[str, str]) -> list[str]:
    """Partitions that the environment names and the cluster does not have, or that the account may not use.

    A job for a partition that its account may not use is accepted by many clusters, and then waits for ever."""
    known = sorted(set(ask("sinfo", "--noheader", "--format=%R").split()))
    account = environment.get("NANO3_ACCOUNT")
    found = []
    for variable in ("NANO3_PARTITION", "NANO3_GPU_PARTITION"):
        partition = environment.get(variable)
        if not partition:
            continue
        if partition not in known:
            found.append(
                f"{variable} is {partition!r}, which this cluster does not have.\n"
                f"    export {variable}=...    one of {', '.join(known)}"
            )
            continue
        allowed = re.search(r"AllowAccounts=(\S+)", ask("scontrol", "show", "partition", partition))
        if allowed and allowed[1] != "ALL" and account not in allowed[1].split(","):
            found.append(
                f"the partition {partition} is only for the accounts {allowed[1]}, and NANO3_ACCOUNT is"
                f" {account or 'not set'}.\n    export NANO3_ACCOUNT=...    or another {variable}"
            )
    return found


def refusal(what: str, options: Sequence[str]) -> str | None:
    """Slurm's reason not to take a job with these sbatch options, or None. Nothing is submitted."""
    command = ["sbatch", "--test-only", *options, "--wrap=true"]
    try:
        ask(*command)
    except UserError as error:
        reason = str(error).rpartition("failed: ")[2].replace("allocation failure: ", "").strip()
        return (
            f"Slurm refuses the jobs of {what}: {reason}\n"
            f"    asked for: {shlex.join(options)}\n"
            f"    change NANO3_ACCOUNT, NANO3_PARTITION, NANO3_GPU_PARTITION, NANO3_QOS or NANO3_GPU_TYPE ({SITE}),\n"
            "    or the nodes, GPUs, memory or minutes in the recipe's execution section"
        )
    return None


def work_of(rule: str, wildcards: Iterable[str]) -> str:
    """What a job makes, in the words of the comment that Snakemake's executor gives it."""
    values = "_".join(str(value) for value in wildcards).replace("/", "_")
    return f"rule_{rule}_wildcards_{values}" if values else f"rule_{rule}"


def jobs_of(directory: Path) -> list[ClusterJob]:
    """My unfinished jobs that were submitted in a directory, e.g. by a Snakemake that was killed."""
    rows = ask("squeue", "--me", "--noheader", "--format=%i|%T|%k|%Z").splitlines()
    found = []
    for row in rows:
        number, state, comment, place = row.split("|", 3)
        if Path(place).resolve() == directory.resolve() and comment.startswith("rule_"):
            found.append(ClusterJob(number, state, comment))
    return found


def table(jobs: Sequence[ClusterJob]) -> str:
    """The jobs as lines of text."""
    return "\n".join(f"  {job.id:>10}  {job.state:<10}  {job.work.removeprefix('rule_')}" for job in jobs)


def duplicates(jobs: Sequence[ClusterJob], works: Iterable[str]) -> str | None:
    """An error for jobs that still make what is about to be submitted again, or None."""
    asked = set(works)
    running = [job for job in jobs if job.work in asked]
    if not running:
        return None
    return (
        f"{len(running)} jobs of an earlier run in this directory still work on what this run would submit:\n"
        f"{table(running)}\n"
        "  wait for them, then run the same command again:   python scripts/slurm_orphans.py --wait\n"
        "  or cancel them (training goes on from its last checkpoint):   python scripts/slurm_orphans.py --cancel"
    )
