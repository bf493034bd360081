"""Is this machine fit for an environment of envs/, and for the cluster behind it? Says what to do where it is not.

    python scripts/doctor.py                                          this machine, environment cpu
    srun --gres=gpu:8 python scripts/doctor.py --environment train    a GPU node
    python scripts/doctor.py --slurm        a login node: also Slurm, and the NANO3_ variables of profiles/README.md

Exits 1 if something is wrong.
"""

import argparse
import os
import sys
from pathlib import Path

from nano3 import cli, doctor, software


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="cpu", choices=software.names(), help="file in envs/")
    parser.add_argument("--slurm", action="store_true", help="also check the cluster")
    options = parser.parse_args(argv)
    findings = doctor.machine(software.load_software(options.environment), options.environment, Path.cwd())
    if options.slurm:
        findings += doctor.cluster(os.environ)
    for finding in findings:
        cli.say(f"{'ok' if finding.good else 'NO':<4}{finding.subject:<14}{finding.says}")
        if finding.remedy:
            cli.say(f"    {'':<14}-> {finding.remedy}")
    wrong = sum(not finding.good for finding in findings)
    cli.say(f"\n{wrong} of {len(findings)} checks failed" if wrong else "\neverything fits")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    cli.run(main)
