"""Start a training command on the processes that the recipe's execution section gives its job.

    python scripts/launch.py --recipe config/recipes/tiny.yaml --job pretrain -- python scripts/pretrain_phase1.py ...

One process, one process for each GPU of this node (torchrun's agent), or that on many nodes of a Slurm job (srun);
with NANO3_CONTAINER_RUNTIME also in a container (envs/README.md). The command is the same in all cases and knows
nothing of it: its processes find each other by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

Exits with the command's status. A command that exits 75 has saved and wants to go on: inside a Slurm job that still
runs, the job is put back into the queue and resumes there.
"""

import argparse
import os
import sys
from pathlib import Path

from nano3 import cli, launch
from nano3.recipe import load_recipe


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, help="recipe file, e.g. config/recipes/tiny.yaml")
    parser.add_argument("--job", required=True, choices=launch.ENVIRONMENTS, help="key of the recipe's `execution`")
    parser.add_argument("--single", action="store_true", help="one process, however many GPUs the job has")
    parser.add_argument("--on-node", action="store_true", help=argparse.SUPPRESS)  # used by the launcher itself
    parser.add_argument("command", nargs="+", help="the command, after --")
    options = parser.parse_args(argv)
    layout = launch.layout(load_recipe(options.recipe).execution, options.job, single=options.single)
    if options.on_node:
        sys.exit(launch.on_node(layout, options.command, os.environ))
    me = ["python", __file__, "--recipe", str(options.recipe), "--job", options.job, "--on-node"]
    node_command = [*me, *(["--single"] if options.single else []), "--", *options.command]
    sys.exit(launch.run(layout, options.command, node_command, os.environ))


if __name__ == "__main__":
    cli.run(main)
