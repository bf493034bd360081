"""From one command to the processes of a job: on this process, on this node, or on many nodes; in a container or not.

    run ──> [srun, one task a node] ──> [container] ──> on_node ──> one process for each GPU

Signals. Slurm sends its warning (SIGUSR1) and SIGTERM to every process of a job step, so training processes hear them
directly; everything above them only has to stay alive until they have saved. A command that saved exits 75.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nano3.cli import EXIT_PREEMPTED, say
from nano3.errors import UserError
from nano3.recipe.execution import Execution, Job
from nano3.software import load_software

# Key of the recipe's execution section -> file in envs/ that its jobs run in.
ENVIRONMENTS = {
    "pretrain": "train",
    "long_context": "train",
    "sft": "train",
    "rl": "rl",
    "evaluation": "train",
}
RUNTIMES = ("none", "pyxis", "apptainer")
# Between the exits of the last node that saved and of the first one, whose status Slurm then reports for all.
SECONDS_TO_LEAVE = 10
# How long torchrun's agent waits for processes that it has asked to end.
SECONDS_TO_SAVE = 300


@dataclass(frozen=True)
class Layout:
    """What a job runs on. processes: of each node; gpus: of each node, visible or not."""

    nodes: int
    processes: int
    gpus: int
    threads: int
    environment: str

    @property
    def threads_per_process(self) -> int:
        return max(1, self.threads // self.processes)


def layout(execution: Execution, section: str, *, single: bool = False) -> Layout:
    """The layout of a job of `execution.{section}`: one process for each GPU; single: one process in all."""
    job: Job = getattr(execution, section)
    return Layout(
        nodes=1 if single else job.nodes,
        processes=1 if single else max(1, job.gpus_per_node),
        gpus=job.gpus_per_node,
        threads=job.threads,
        environment=ENVIRONMENTS[section],
    )


def run(layout: Layout, command: Sequence[str], node_command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run `command` on the layout and return its status; `node_command` is this launcher's call on one node.

    Raises UserError when the layout needs many nodes and this is no Slurm job."""
    job = environment.get("SLURM_JOB_ID")
    if layout.nodes > 1 and not job:
        raise UserError(
            f"this job needs {layout.nodes} nodes, and this is no Slurm job.\n"
            "  Run it through snakemake --profile slurm, or set nodes: 1 in the recipe's execution section."
        )
    call = on_nodes(layout, node_command, environment)
    if call is None and not job:
        return on_node(layout, command, environment)
    stay_alive()
    if call is None and layout.processes == 1:
        status = _status(_wait(subprocess.Popen(command, env=_process_environment(layout, environment))))
    elif call is None:
        status = on_node(layout, command, environment)
    else:
        say(f"launch: {shlex.join(call)}")
        status = _status(_wait(subprocess.Popen(call, env=dict(environment))))
    if status == EXIT_PREEMPTED and job:
        requeue(job)
    return status


def stay_alive() -> None:
    """Outlive the signals on which training processes save and exit.

    SIGUSR1 is ignored, which children inherit, so that a warning before they listen does not kill them."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)


def on_nodes(layout: Layout, node_command: Sequence[str], environment: Mapping[str, str]) -> list[str] | None:
    """The command that starts `node_command` on every node and in its container; None if neither is asked for."""
    runtime = environment.get("NANO3_CONTAINER_RUNTIME") or "none"
    if runtime not in RUNTIMES:
        raise UserError(f"NANO3_CONTAINER_RUNTIME is {runtime!r}; it can be {', '.join(RUNTIMES)}")
    inner = list(node_command)
    if runtime == "apptainer":
        inner = [*_apptainer(layout, environment), *inner]
    if layout.nodes == 1 and runtime != "pyxis":
        return inner if runtime == "apptainer" else None
    options = {
        "nodes": layout.nodes,
        "ntasks": layout.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": layout.threads,
        "cpu-bind": "none",
        "kill-on-bad-exit": 1,
    }
    if layout.gpus:
        options["gres"] = f"gpu:{layout.gpus}"
    if runtime == "pyxis":
        options |= {
            "container-image": _pyxis_image(container_image(layout.environment, environment)),
            "container-mounts": _mounts(environment),
            "container-workdir": Path.cwd(),
        }
    flags = [f"--{name}={value}" for name, value in options.items()]
    if layout.nodes == 1:
        flags.append("--overlap")  # one node: this already is a task of a step that holds the resources
    if runtime == "pyxis":
        flags.append("--no-container-mount-home")
    return ["srun", *flags, *inner]


def on_node(layout: Layout, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command's processes on this node and return their status.

    Of many nodes that all saved, only the first exits with 75, and last: srun kills what still runs when a task
    exits with a status other than 0, and reports the largest status."""
    node = int(environment.get("SLURM_NODEID", "0")) if layout.nodes > 1 else 0
    if layout.nodes == 1 and layout.processes == 1:
        os.execvpe(command[0], list(command), _process_environment(layout, environment))
    stay_alive()
    os.environ.update(_process_environment(layout, environment))
    status = _torchrun(layout, command, node, environment)
    if layout.nodes > 1 and status == EXIT_PREEMPTED:
        if node:
            return 0
        time.sleep(SECONDS_TO_LEAVE)
    return status


def _torchrun(layout: Layout, command: Sequence[str], node: int, environment: Mapping[str, str]) -> int:
    """Start one process for each GPU through torchrun's agent. A failed process ends the others: no restarts here,
    for a job that is started again resumes from its checkpoint."""
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its account of a failure is a screen of text; the processes' own messages and the line below say it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    host, port = rendezvous(environment)
    many = {"rdzv_backend": "static", "rdzv_endpoint": f"{host}:{port}", "rdzv_configs": {"rank": node, "timeout": 900}}
    one = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(
        min_nodes=layout.nodes,
        max_nodes=layout.nodes,
        nproc_per_node=layout.processes,
        run_id=environment.get("SLURM_JOB_ID", "local"),
        max_restarts=0,
        monitor_interval=0.5,
        # In a Slurm job the processes hear SIGTERM themselves, and the agent waits for them; elsewhere it passes it on.
        signals_to_handle="SIGINT,SIGHUP" if "SLURM_JOB_ID" in environment else "SIGTERM,SIGINT,SIGHUP",
        shutdown_timeout=SECONDS_TO_SAVE,
        **(many if layout.nodes > 1 else one),
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        return _common_status({rank: failure.exitcode for rank, failure in error.failures.items()})
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _common_status(codes: Mapping[int, int]) -> int:
    """One status for all: 75 if they saved (the agent stops the last ones), else that of the first failure."""
    others = {rank: code for rank, code in codes.items() if code not in (EXIT_PREEMPTED, -signal.SIGTERM)}
    if EXIT_PREEMPTED in codes.values() and not others:
        return EXIT_PREEMPTED
    rank, code = min(others.items()) if others else min(codes.items())
    say(f"launch: process {rank} ended with status {_status(code)}; the others were stopped")
    return _status(code)


def rendezvous(environment: Mapping[str, str]) -> tuple[str, int]:
    """Address and port where the processes of many nodes meet: the job's first node, a port of the job's own.

    The address is the one of the node that called srun, which is the first of the job; MASTER_ADDR overrides it."""
    host = environment.get("MASTER_ADDR") or environment.get("SLURM_LAUNCH_NODE_IPADDR") or "127.0.0.1"
    return host, 20_000 + int(environment.get("SLURM_JOB_ID", "0")) % 10_000


def requeue(job: str) -> None:
    """Put this Slurm job back into the queue, if it still runs: a job that is being cancelled stays cancelled.

    A run of weeks is so a chain of one job's starts, whether or not the Snakemake that submitted it still lives."""
    state = _slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    if state != "RUNNING":
        say(f"launch: Slurm is ending job {job} already ({state or 'state unknown'}) and decides if it starts again")
        return
    say(f"launch: putting Slurm job {job} back into the queue")
    problem = _slurm("scontrol", "requeue", job)
    if problem:
        say(f"launch: {problem}\n  The job ends here and counts as a failure; Snakemake's retries start it again.")


def container_problems(sections: Iterable[str], environment: Mapping[str, str]) -> list[str]:
    """Why the jobs of some execution sections can't start in their containers; empty when nothing keeps them."""
    runtime = environment.get("NANO3_CONTAINER_RUNTIME") or "none"
    if runtime == "none":
        return []
    if runtime not in RUNTIMES:
        return [f"NANO3_CONTAINER_RUNTIME is {runtime!r}; it can be {', '.join(RUNTIMES)}"]
    found = []
    if runtime == "pyxis" and "--container-image" not in _slurm("srun", "--help"):
        found.append(
            "NANO3_CONTAINER_RUNTIME is pyxis, but srun has no --container-image: Slurm's pyxis plugin is missing"
        )
    if runtime == "apptainer" and shutil.which("apptainer") is None:
        found.append("NANO3_CONTAINER_RUNTIME is apptainer, which is not on PATH (often: module load apptainer)")
    for name in sorted({ENVIRONMENTS[section] for section in sections}):
        try:
            container_image(name, environment)
        except UserError as error:
            found.append(str(error))
    return found


def container_image(name: str, environment: Mapping[str, str]) -> str:
    """Image of an environment of envs/: NANO3_IMAGE_{NAME} if set, else the pinned one. Raises UserError."""
    variable = f"NANO3_IMAGE_{name.upper()}"
    image = environment.get(variable) or load_software(name).image
    if image.startswith(("/", ".")) and not Path(image).exists():
        raise UserError(
            f"the container image {image} does not exist; set {variable} to one that does (envs/{name}.yaml)"
        )
    return image


def _pyxis_image(image: str) -> str:
    """enroot separates the registry by #: nvcr.io/nvidia/nemo:25.11 -> nvcr.io#nvidia/nemo:25.11."""
    registry, _, rest = image.partition("/")
    return f"{registry}#{rest}" if re.search(r"[.:]", registry) and rest and image[0] not in "/." else image


def _apptainer(layout: Layout, environment: Mapping[str, str]) -> list[str]:
    image = container_image(layout.environment, environment)
    source = image if image.startswith(("/", ".")) else f"docker://{image}"
    gpus = ["--nv"] if layout.gpus else []
    return ["apptainer", "exec", *gpus, "--bind", _mounts(environment), "--pwd", str(Path.cwd()), source]


def _mounts(environment: Mapping[str, str]) -> str:
    """The working directory, and NANO3_MOUNTS (source:target, comma-separated)."""
    more = environment.get("NANO3_MOUNTS")
    return f"{Path.cwd()}:{Path.cwd()}" + (f",{more}" if more else "")


def _process_environment(layout: Layout, environment: Mapping[str, str]) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(layout.threads_per_process)} | dict(environment)


def _wait(process: subprocess.Popen) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # Ctrl-C reaches the child as well, and its end is ours


def _status(code: int) -> int:
    return 128 - code if code < 0 else code


def _slurm(*command: str) -> str:
    """Output of a Slurm command, or its error."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout if done.returncode == 0 else done.stderr).strip()
