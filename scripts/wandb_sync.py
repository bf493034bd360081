"""Send offline W&B runs to the server, and add what offline runs can't have: which artifact went into which run.

    python scripts/wandb_sync.py results/tiny            needs WANDB_API_KEY and a network
    python scripts/wandb_sync.py results/tiny --dry-run  lists what would be sent

The edges come from lineage.json. Every step may be repeated; what W&B has already is left alone."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nano3 import cli
from nano3.artifacts.lineage import Lineage, Node, load_lineage
from nano3.artifacts.manifest import PROVENANCE
from nano3.errors import UserError
from nano3.train.weights_and_biases import PROJECT, artifact_name, reference_artifact, run_id

SYNC_SECONDS = 600


def main(argv: list[str] | None = None) -> None:
    """Sync the runs, then the edges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results/{recipe}")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--log", type=Path, help="also write every message to this file")
    arguments = cli.parse(parser, argv)
    results = arguments.results
    lineage = load_lineage(results / "lineage.json")
    runs = offline_runs(results)
    stages = logged_stages(lineage, results)
    cli.say(f"{len(runs)} offline runs, {len(stages)} stages with a run")
    if arguments.dry_run:
        for path in [*runs, *(results / node.path for node in stages)]:
            cli.say(f"  {path}")
        return
    if not os.environ.get("WANDB_API_KEY"):
        raise UserError("WANDB_API_KEY is not set. Put your key there:  export WANDB_API_KEY=...")
    for run in runs:
        send(run)
    for node in stages:
        add_inputs(node, lineage, results)


def offline_runs(results: Path) -> list[Path]:
    """Directories of offline runs that were not sent yet, oldest first; also those in WANDB_DIR if that is set."""
    found = list(results.glob(".work/**/wandb/offline-run-*"))
    if os.environ.get("WANDB_DIR"):
        found += Path(os.environ["WANDB_DIR"]).glob("wandb/offline-run-*")
    return sorted((run for run in found if not list(run.glob("*.synced"))), key=lambda run: run.name)


def logged_stages(lineage: Lineage, results: Path) -> list[Node]:
    """The published artifacts that a W&B run made, as their provenance says."""
    return [node for node in lineage.nodes if _wandb_run(results / node.path) == _id(lineage, node)]


def _wandb_run(directory: Path) -> str | None:
    file = directory / PROVENANCE
    return json.loads(file.read_text()).get("wandb_run") if file.is_file() else None


def send(run: Path) -> None:
    """Upload one offline run; a failure is a UserError with W&B's own last words."""
    command = [sys.executable, "-m", "wandb", "sync", str(run)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SYNC_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"sending {run} took longer than {SYNC_SECONDS} s; try again, it goes on where it was"
        ) from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise UserError(f"W&B could not send {run}: {words}")
    cli.say(f"sent {run}")


def add_inputs(node: Node, lineage: Lineage, results: Path) -> None:
    """Mark the inputs of a stage's run: the artifact of the run that made it, or a reference with our digest."""
    import wandb

    made_by_run = {stage.path: stage for stage in logged_stages(lineage, results)}
    edges = [edge for edge in lineage.edges if edge.target == node.path]
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=_id(lineage, node),
        resume="allow",
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )
    try:
        for edge in edges:
            run.use_artifact(_input(edge.source, made_by_run, lineage, results))
    finally:
        run.finish()
    cli.say(f"{node.path}: {len(edges)} inputs")


def _input(path: str, made_by_run: dict[str, Node], lineage: Lineage, results: Path) -> Any:
    if path in made_by_run:
        stage = made_by_run[path]
        return f"{artifact_name(lineage.recipe, stage.kind)}:{stage.identity}"
    return reference_artifact(results / path, artifact_name(lineage.recipe, path), recipe=lineage.recipe)


def _id(lineage: Lineage, node: Node) -> str:
    return run_id(lineage.recipe, node.kind, node.identity)


if __name__ == "__main__":
    cli.run(main)
