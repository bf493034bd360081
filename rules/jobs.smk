# What a job asks for, from the recipe's execution section, and the command that starts its processes. None of it is
# part of an artifact's identity, and changing it re-runs nothing.

import shlex
import signal

from nano3 import launch, slurm

# Slurm's warning before the end of a job's time reaches every process of the job. Training saves and stops on it; the
# Snakemake and the shell that wait for the training must not die of it.
if workflow.remote_exec:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


# Sections of jobs that save and stop when they are told to.
SAVING = set(launch.ENVIRONMENTS) - {"evaluation"}


def job_section(wildcards, section):
    return getattr(recipe_of(wildcards).execution, section)


def threads_of(section):
    """Threads of a job."""
    return lambda wildcards: job_section(wildcards, section).threads


def resources_of(section):
    """Resources of a job. A retry asks for half as much memory again; a resource that is None is not asked for.
    `section` is none that anyone counts: it says what kind of job this is.

    Many nodes: one task on each, started by our own srun. The executor knows that as an MPI job, and needs
    tasks_per_gpu=0 not to ask for tasks on every GPU as well."""

    def resource(value):
        return lambda wildcards, attempt: value(
            job_section(wildcards, section), attempt
        )

    def of_many_nodes(value):
        return resource(lambda job, attempt: value(job) if job.nodes > 1 else None)

    return {
        "section": section,
        "mem_mb": resource(lambda job, attempt: job.memory_mb * (attempt + 1) // 2),
        "runtime": resource(lambda job, attempt: job.runtime_minutes),
        "nodes": of_many_nodes(lambda job: job.nodes),
        "tasks": of_many_nodes(lambda job: job.nodes),
        "tasks_per_gpu": of_many_nodes(lambda job: 0),
        "mpi": of_many_nodes(lambda job: "srun"),
        "gres": resource(lambda job, attempt: gpus_of(job)),
        "slurm_partition": resource(lambda job, attempt: partition_of(job)),
        "slurm_extra": resource(lambda job, attempt: options_of(job, section)),
    }


def gpus_of(job):
    """Slurm's name for the GPUs of each node, e.g. gpu:8, or gpu:h100:8 with NANO3_GPU_TYPE=h100."""
    kind = os.environ.get("NANO3_GPU_TYPE")
    return (
        ":".join(filter(None, ["gpu", kind, str(job.gpus_per_node)]))
        if job.gpus_per_node
        else None
    )


def options_of(job, section):
    """More options of sbatch. A job that starts again goes on in its log; training is warned before its time ends."""
    options = ["--open-mode=append"]
    if section in SAVING:
        wanted = int(os.environ.get("NANO3_SAVE_SECONDS") or 600)
        options.append(f"--signal=USR1@{min(wanted, job.runtime_minutes * 60 // 2)}")
    return " ".join([*options, *os.environ.get("NANO3_SLURM_EXTRA", "").split()])


def partition_of(job):
    """Partition of a job: GPU jobs may have one of their own."""
    variables = ["NANO3_GPU_PARTITION"] * bool(job.gpus_per_node) + ["NANO3_PARTITION"]
    return next((os.environ[name] for name in variables if os.environ.get(name)), None)


def submits():
    """Whether this Snakemake hands jobs to Slurm: it is no dry run, and no job itself."""
    return workflow.is_main_process and workflow.non_local_exec and not workflow.dryrun


@cache
def stop_unless_controller_answers():
    """Called while jobs are planned, for a moment later the executor asks Slurm for its limits and waits long for them."""
    problem = slurm.controller_problem() if submits() else None
    if problem:
        raise WorkflowError(problem)


def stop_unless_cluster_fits():
    """Before the first job goes to Slurm: errors that would otherwise show later, as jobs that fail or wait for ever."""
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    if not jobs or not submits():
        return
    stop_unless_controller_answers()
    found = slurm.partition_problems(os.environ)
    if not found:
        # One refusal at a time: a wrong account is the same for every rule.
        requests = {slurm_request(job): job.rule.name for job in jobs}
        refusals = (
            slurm.refusal(f"rule {rule}", asked) for asked, rule in requests.items()
        )
        found = [next(filter(None, refusals), None)]
        sections = (
            launch.ENVIRONMENTS
            if any("gres" in job.resources.keys() for job in jobs)
            else []
        )
        found += launch.container_problems(sections, os.environ)
        works = [slurm.work_of(job.rule.name, job.wildcards) for job in jobs]
        found.append(slurm.duplicates(slurm.jobs_of(Path.cwd()), works))
    if any(found):
        raise WorkflowError("\n".join(filter(None, found)))


def slurm_request(job):
    """Options of sbatch that decide whether Slurm takes a job; the executor gives the same."""
    asked = job.resources
    options = {
        "account": asked.get("slurm_account"),
        "partition": asked.get("slurm_partition"),
        "qos": asked.get("qos"),
        "time": asked.get("runtime"),
        "mem": asked.get("mem_mb"),
        "nodes": asked.get("nodes"),
        "ntasks": asked.get("tasks"),
        "gres": asked.get("gres"),
        "cpus-per-task": job.threads,
    }
    given = [f"--{name}={value}" for name, value in options.items() if value]
    return (*given, *shlex.split(asked.get("slurm_extra", "")))
