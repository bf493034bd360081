# What the rules share: the recipe of a target, and the checks before the first job.

import hashlib
import os
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from nano3.artifacts.code_version import code_version
from nano3.artifacts.lineage import find_manifests
from nano3.artifacts.manifest import PROVENANCE
from nano3.errors import UserError
from nano3.preflight import problems, unknown_names
from nano3.recipe import load_recipe, stages

# Rules call `python`: make that the interpreter that runs Snakemake, also when its environment is not activated.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@cache
def recipe_named(name):
    file = f"config/recipes/{name}.yaml"
    try:
        recipe = load_recipe(file)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    if unknown := unknown_names(recipe):
        raise WorkflowError("\n  ".join([f"{file} is not a valid recipe:", *unknown]))
    return recipe


def recipe_of(wildcards):
    return recipe_named(wildcards.recipe)


def recipe_file(wildcards):
    return f"config/recipes/{wildcards.recipe}.yaml"


@cache
def rules_version():
    """Changes whenever a rule does."""
    digest = hashlib.sha256()
    top = Path(workflow.basedir)
    for file in (top / "Snakefile", *sorted(top.glob("rules/*.smk"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def groups_of(wildcards, datasets, step):
    """Manifests of all shard groups of some data sets; step: "raw" or "tokens"."""
    stop_unless_controller_answers()
    known = recipe_of(wildcards).datasets
    return [
        f"results/{wildcards.recipe}/data/{step}/{dataset}/{group}/manifest.json"
        for dataset in datasets
        for group in range(known[dataset].groups)
    ]


def blend_datasets(wildcards, phase):
    """Names of the data sets that a pretraining blend samples from, in the recipe's order."""
    categories = getattr(recipe_of(wildcards).blends, phase).categories.values()
    return list(
        dict.fromkeys(name for category in categories for name in category.datasets)
    )


def stop_unless_machine_fits():
    """Before the first job: an error that says what the jobs of a recipe need and this machine lacks."""
    if workflow.remote_exec or not workflow.is_main_process:
        return
    sections = defaultdict(set)
    for job in workflow.dag.needrun_jobs():
        if "section" in job.resources.keys():
            sections[job.wildcards.recipe].add(job.resources.section)
    for name in sorted(sections):
        found = problems(
            recipe_named(name), name, sections[name], on_cluster=workflow.non_local_exec
        )
        if found:
            raise WorkflowError("\n".join(found))


def show_where_to_look():
    """After the last job: the paths that a person opens next."""
    for file in sorted({str(file) for job in workflow.dag.jobs for file in job.output}):
        if file.endswith("report.html"):
            print(f"report: {file}")
        if file.endswith("rl/final"):
            print(f"model:  {file}    talk to it:  python scripts/chat.py {file}")
