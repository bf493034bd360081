"""Before the first job: does this machine have what a recipe needs, and does everything exist that the recipe names?"""

import importlib.util
import os
from collections.abc import Collection
from pathlib import Path

from nano3 import sandbox
from nano3.data import generators
from nano3.data.generators.problem import PREFERENCE
from nano3.environments import ENVIRONMENTS, short_name
from nano3.errors import UserError, to_make
from nano3.recipe import stages
from nano3.recipe.execution import Execution, Job
from nano3.recipe.schema import Recipe

SECTIONS = ("data", "pretrain", "long_context", "sft", "rl", "evaluation")
WITHOUT_MODEL = {"data"}
SCORING = {"rl", "evaluation"}  # jobs that run what a model wrote
BACKEND_PACKAGES = {"torch": ("torch",), "megatron": ("megatron.core", "transformer_engine", "mamba_ssm")}
BUILT_BACKENDS = ("torch",)


def problems(recipe: Recipe, name: str, sections: Collection[str] = SECTIONS, *, on_cluster: bool) -> list[str]:
    """What keeps jobs of a recipe from running, as lines for the user; an empty list if nothing does.

    sections: of `execution`, those that the jobs belong to. A part of a recipe may run where the whole can't.
    on_cluster: jobs run on other machines, so this one's GPUs, memory and packages don't matter."""
    jobs = {section: getattr(recipe.execution, section) for section in sorted(sections)}
    found = _backend_problems(recipe.execution, on_cluster) if set(jobs) - WITHOUT_MODEL else []
    if not on_cluster:
        found += _machine_problems(jobs)
        found += _sandbox_problems(recipe.execution) if set(jobs) & SCORING else []
    if not found:
        return []
    cluster = [f"  On a Slurm cluster:  snakemake --profile slurm results/{name}/rl/final"]
    advice = [
        *(cluster if recipe.execution.backend in BUILT_BACKENDS and not on_cluster else []),
        f"  What would run:      snakemake --dryrun results/{name}/rl/final",
        f"  On this machine:     {to_make('results/tiny/rl/final')}",
    ]
    return [f"recipe {name} can't run here:", *(f"  - {line}" for line in found), *advice]


def unknown_names(recipe: Recipe) -> list[str]:
    """What a recipe names and nothing answers to, as lines for the user: task families, their levels and options, and
    environments. The schema does not know them, and a stage would find them only hours later."""
    found = []
    for name, dataset in recipe.datasets.items():
        for family, amount in dataset.families.items() if dataset.kind == "tasks" else ():
            difficulty = {"level": amount.difficulty, **amount.options}
            try:
                generators.generate(
                    family, rows=0, seed=0, difficulty=difficulty, split=dataset.split, form=dataset.form
                )
            except UserError as problem:
                found.append(f"datasets.{name}.families: {problem}")
    known = [short_name(agent) for agent in (*ENVIRONMENTS, PREFERENCE)]
    for stage in stages.RL_STAGES:
        unknown = [name for name in getattr(getattr(recipe.rl, stage), "environment_ratio", ()) if name not in known]
        if unknown:
            names = ", ".join(map(repr, unknown))
            found.append(f"rl.{stage}.environment_ratio: unknown {names}; the environments are {', '.join(known)}")
    return found


def _backend_problems(execution: Execution, on_cluster: bool) -> list[str]:
    backend = execution.backend
    if backend not in BUILT_BACKENDS:
        return [
            f"execution.backend is {backend!r}, which this version can plan but not run;"
            f" it runs {', '.join(BUILT_BACKENDS)}"
        ]
    missing = [] if on_cluster else [name for name in BACKEND_PACKAGES[backend] if not _installed(name)]
    return [f"backend {backend!r} needs {', '.join(missing)}, not installed here"] if missing else []


def _machine_problems(jobs: dict[str, Job]) -> list[str]:
    found = []
    gpus = visible_gpus()
    worst, job = max(jobs.items(), key=lambda item: item[1].nodes * item[1].gpus_per_node)
    if job.nodes > 1 or job.gpus_per_node > gpus:
        found.append(
            f"it needs up to {job.nodes} node{'s' * (job.nodes > 1)} with {job.gpus_per_node} GPUs each"
            f" (execution.{worst}); this machine is one node with {gpus} GPUs"
        )
    memory = memory_mb()
    section, job = max(jobs.items(), key=lambda item: item[1].memory_mb)
    if job.memory_mb > memory:
        found.append(f"it needs {job.memory_mb} MB of memory (execution.{section}); this machine has {memory} MB")
    return found


def _sandbox_problems(execution: Execution) -> list[str]:
    if execution.allow_unsafe:
        return []
    try:
        sandbox.kind()
    except UserError as problem:
        return [str(problem)]
    return []


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def visible_gpus() -> int:
    """NVIDIA GPUs that jobs of this process may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([device for device in chosen.split(",") if device.strip() not in {"", "-1"}])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def memory_mb() -> int:
    """Memory of this machine in megabytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000
