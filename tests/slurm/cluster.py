"""A real Slurm of several nodes with fake GPUs, on this one machine, for tests.

    python tests/slurm/cluster.py up   /tmp/cluster --nodes 2 --gpus 8
    . /tmp/cluster/env                 # sinfo, sbatch, snakemake --profile slurm ...
    python tests/slurm/cluster.py down /tmp/cluster

Needs the programs of the packages slurm-wlm and munge; no systemd, nothing below /etc. Every daemon writes its process
id below the cluster's directory, and only those processes are stopped.

Nodes are slurmd processes n1, n2, ... on ports of 127.0.0.1. A fake GPU is a symlink to /dev/null: Slurm wants a
character device before it counts indices and sets CUDA_VISIBLE_DEVICES. There are no cgroups: cores are not enforced,
and memory only by looking at it every two seconds.
"""

import argparse
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
SYSTEM_PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
ACCOUNT = "nano"  # the only account that the partition `gated` takes

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job starts again only when its old credential has expired.
AuthInfo=socket={root}/run/munge.socket,cred_expire=5
AccountingStorageType=accounting_storage/none
# Memory without cgroups: a job that is seen to use more than it asked for is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/none
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
PlugStackConfig={root}/etc/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# The machine has fewer processors than the nodes pretend to have.
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
MinJobAge=3600
KillWait={kill_wait}
SlurmctldTimeout=60
SlurmdTimeout={slurmd_timeout}
GresTypes=gpu
"""


def missing_programs() -> list[str]:
    """Programs of Slurm and munge that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]


def up(root: Path, *, nodes: int = 2, gpus: int = 8, kill_wait: int = 15, slurmd_timeout: int = 120) -> dict[str, str]:
    """Start a cluster below `root`; returns the environment variables that make its commands work.

    Partitions: `batch` (default), `low` (preempted and requeued by `high`), `high`, and `gated` (one account only).
    Raises RuntimeError with the log when it does not come up."""
    if missing_programs():
        raise RuntimeError(f"not installed: {', '.join(missing_programs())}  (apt-get install slurm-wlm munge)")
    root = root.resolve()
    for part in ("etc", "run", "log", "state", "spool", "bin"):
        (root / part).mkdir(parents=True, exist_ok=True)
    names = [f"n{number}" for number in range(1, nodes + 1)]
    _write_config(root, names, gpus, kill_wait, slurmd_timeout)
    environment = _write_commands(root)
    try:
        _start_munge(root)
        _run(root, ["slurmctld", "-i"])
        _wait("slurmctld", root, lambda: "UP" in _ask(environment, "scontrol", "ping"))
        for name in names:
            start_node(root, name)
        _wait("nodes", root, lambda: idle_nodes(environment) == nodes)
    except BaseException:
        down(root)
        raise
    return environment


def start_node(root: Path, name: str) -> None:
    """Start the daemon of one node."""
    _run(root, ["slurmd", "-N", name])


def kill_node(root: Path, name: str) -> None:
    """Kill a node's daemon and everything that runs on it, as a power failure would; Slurm notices by itself."""
    jobs = [pid for pid in _processes() if _runs_on(pid, root.resolve(), name)]
    steps = {parent for parent in map(_parent, jobs) if _name(parent) == "slurmstepd"}
    daemon = int((root / "run" / f"slurmd-{name}.pid").read_text())
    for pid in (daemon, *steps, *jobs):  # the steps before their jobs, or they would report their end
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def down(root: Path, *, purge: bool = False) -> None:
    """Cancel the cluster's jobs and stop its daemons; purge: remove its directory as well."""
    root = root.resolve()
    environment = {"SLURM_CONF": str(root / "etc" / "slurm.conf")}
    if (root / "run" / "slurmctld.pid").exists():
        _ask(environment, "scancel", "--user", getpass.getuser())
        time.sleep(1)
    _stop([root / "run" / "slurmctld.pid", *(root / "run").glob("slurmd-*.pid")])
    _stop([root / "run" / "munged.pid"])
    if purge:
        shutil.rmtree(root, ignore_errors=True)


def idle_nodes(environment: dict[str, str]) -> int:
    """Number of idle nodes."""
    return len(set(_ask(environment, "sinfo", "-hN", "-p", "batch", "-t", "idle", "-o", "%N").split()))


def _write_config(root: Path, names: list[str], gpus: int, kill_wait: int, slurmd_timeout: int) -> None:
    host = socket.gethostname().split(".")[0]
    ports = _free_ports(1 + len(names))
    text = CONFIG.format(
        root=root,
        host=host,
        user=getpass.getuser(),
        port=ports[0],
        kill_wait=kill_wait,
        slurmd_timeout=slurmd_timeout,
    )
    gres = ""
    for name, port in zip(names, ports[1:], strict=True):
        devices = root / "run" / f"gpus-{name}"
        devices.mkdir(exist_ok=True)
        for index in range(gpus):
            (devices / f"gpu{index}").unlink(missing_ok=True)
            (devices / f"gpu{index}").symlink_to("/dev/null")
        text += f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=16000"
        text += f" Gres=gpu:h100:{gpus} State=UNKNOWN\n"
        gres += f"NodeName={name} Name=gpu Type=h100 File={devices}/gpu[0-{gpus - 1}]\n"
    text += "PartitionName=batch Nodes=ALL Default=YES PriorityTier=10 MaxTime=1-0 State=UP\n"
    text += "PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE MaxTime=1-0 State=UP\n"
    text += "PartitionName=high Nodes=ALL PriorityTier=100 PreemptMode=OFF MaxTime=1-0 State=UP\n"
    text += f"PartitionName=gated Nodes=ALL AllowAccounts={ACCOUNT} MaxTime=1-0 State=UP\n"
    (root / "etc" / "slurm.conf").write_text(text)
    (root / "etc" / "gres.conf").write_text(gres)
    (root / "etc" / "cgroup.conf").write_text("CgroupAutomount=no\n")
    (root / "etc" / "plugstack.conf").write_text("")


def _write_commands(root: Path) -> dict[str, str]:
    """Commands that know their cluster, for Snakemake's job step removes SLURM_CONF from what it runs."""
    config = root / "etc" / "slurm.conf"
    for command in ("srun", "sbatch", "squeue", "scancel", "scontrol", "sinfo"):
        script = root / "bin" / command
        script.write_text(f'#!/bin/sh\nSLURM_CONF={config} exec {shutil.which(command)} "$@"\n')
        script.chmod(0o755)
    environment = {"SLURM_CONF": str(config), "PATH": f"{root / 'bin'}{os.pathsep}{SYSTEM_PATH}"}
    (root / "env").write_text("".join(f"export {name}='{value}'\n" for name, value in environment.items()))
    return environment


def _start_munge(root: Path) -> None:
    key = root / "etc" / "munge.key"
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
    # munge distrusts sockets and logs in directories that others can write to, as /tmp; --force makes that a warning.
    options = {"key-file": key, "socket": root / "run/munge.socket", "pid-file": root / "run/munged.pid"}
    options |= {"log-file": root / "log/munged.log", "seed-file": root / "run/munged.seed"}
    _run(root, ["munged", "--force", *(f"--{name}={value}" for name, value in options.items())])


def _run(root: Path, command: list[str]) -> None:
    log = root / "log" / f"{command[0]}.start.log"
    environment = os.environ | {"SLURM_CONF": str(root / "etc" / "slurm.conf"), "PATH": SYSTEM_PATH}
    with log.open("a") as stream:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=30, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")


def _ask(environment: dict[str, str], *command: str) -> str:
    """Output of a Slurm command; "" when it fails or hangs, as it does while the controller is not up."""
    try:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=5, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def _wait(what: str, root: Path, ready) -> None:
    for _ in range(120):
        if ready():
            return
        time.sleep(0.25)
    logs = "\n".join(f"--- {file}\n{file.read_text()[-1500:]}" for file in sorted((root / "log").glob("slurm*.log")))
    raise RuntimeError(f"{what} did not come up within 30 s\n{logs}")


def _stop(files: list[Path]) -> None:
    """End the processes whose ids are in the files: with SIGTERM, and after ten seconds with SIGKILL."""
    running = set()
    for file in files:
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int(file.read_text())
            os.kill(pid, signal.SIGTERM)
            running.add(pid)
    for _ in range(100):
        running = {pid for pid in running if Path(f"/proc/{pid}").exists()}
        if not running:
            break
        time.sleep(0.1)
    for pid in running:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for file in files:
        file.unlink(missing_ok=True)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _runs_on(pid: int, root: Path, node: str) -> bool:
    """Whether a process belongs to a job on a node of the cluster below `root`."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    variables = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return variables.get("SLURMD_NODENAME") == node and str(root / "bin") in variables.get("PATH", "")


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=8, help="fake GPUs of each node")
    options = parser.parse_args()
    if options.action == "down":
        down(options.directory, purge=True)
        return
    try:
        up(options.directory, nodes=options.nodes, gpus=options.gpus)
    except RuntimeError as error:
        sys.exit(str(error))
    print(f"up; now type:  . {options.directory}/env")


if __name__ == "__main__":
    main()
