"""Jobs that a Snakemake left behind in this directory, for example because it was killed.

    python scripts/slurm_orphans.py             list them; exits 1 if there are any
    python scripts/slurm_orphans.py --wait      wait until they have ended
    python scripts/slurm_orphans.py --cancel    cancel them; training goes on from its last checkpoint later

Afterwards run the same snakemake command again (with --unlock once, if it says so). A training that has finished in
the meantime is not repeated: its result is published again within seconds.
"""

import argparse
import sys
import time
from pathlib import Path

from nano3 import cli, slurm


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--wait", action="store_true", help="wait until they have ended")
    what.add_argument("--cancel", action="store_true", help="cancel them")
    parser.add_argument("--poll-seconds", type=float, default=30, help="between two looks, with --wait")
    options = parser.parse_args(argv)
    jobs = slurm.jobs_of(Path.cwd())
    if not jobs:
        cli.say("no jobs of this directory are in Slurm")
        return
    cli.say(f"{len(jobs)} jobs of this directory are in Slurm:\n{slurm.table(jobs)}")
    if options.cancel:
        slurm.ask("scancel", *(job.id for job in jobs))
        cli.say("cancelled")
    elif not options.wait:
        sys.exit(1)
    while jobs:
        time.sleep(min(options.poll_seconds, 2) if options.cancel else options.poll_seconds)
        jobs = slurm.jobs_of(Path.cwd())
    cli.say("they have ended; run the snakemake command again")


if __name__ == "__main__":
    cli.run(main)
