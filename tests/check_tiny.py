"""What a finished run of the main job must show, read from its own artifacts.

    python tests/check_tiny.py results/tiny --wall-seconds 480

Prints every figure with its bound; exits 1 if one is broken.
"""

import argparse
import json
import sys
from pathlib import Path

GIB = 2**30


def read(file: Path):
    return json.loads(file.read_text())


def figures(results: Path, wall_seconds: float | None, wall_limit: float) -> list[tuple[str, float, str, float]]:
    """(name, value, comparison, bound) of everything that is promised."""
    base, sft, rlvr = (read(results / "evaluation" / name / "evaluation.json") for name in ("base", "sft", "rlvr1"))
    before = first_validation(results / "pretrain" / "phase1" / "metrics.jsonl")
    after = last_validation(results / "pretrain" / "phase2" / "metrics.jsonl")
    found = []
    if wall_seconds is not None:
        found.append(("wall time of the main job, s", wall_seconds, "<=", wall_limit))
    for provenance in sorted(results.glob("**/provenance.json")):
        if ".work" not in provenance.parts:
            peak = read(provenance)["peak_memory_bytes"] / GIB
            found.append((f"peak memory of {provenance.parent.relative_to(results)}, GiB", peak, "<=", 4.0))
    for dataset, value in after.items():
        found.append((f"phase 2 bits per byte of {dataset}, against the start", value, "<=", 0.75 * before[dataset]))
    for dataset, measured in base["bits_per_byte"].items():
        pair = (measured["model"], "<", measured["unigram"])
        found.append((f"base bits per byte of {dataset}, against a unigram", *pair))
    found.append(("share of SFT chats that finish and are well formed", sft["chats"]["mean"], ">=", 0.90))
    found.append(("environments that RLVR raises with disjoint intervals", raised(sft, rlvr), ">=", 2.0))
    found.append(("environments that RLVR lowers with disjoint intervals", raised(rlvr, sft), "<=", 0.0))
    return found


def raised(first: dict, second: dict) -> float:
    """How many environments are higher in `second` with intervals that don't overlap."""
    pairs = [(first["environments"][name], second["environments"][name]) for name in first["environments"]]
    return float(sum(then["low"] > now["high"] for now, then in pairs))


def validations(metrics: Path) -> list[dict]:
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [row["bits_per_byte"] for row in rows if row.get("split") == "valid"]


def first_validation(metrics: Path) -> dict[str, float]:
    return validations(metrics)[0]


def last_validation(metrics: Path) -> dict[str, float]:
    return validations(metrics)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results/tiny")
    parser.add_argument("--wall-seconds", type=float, help="what the main job took from an empty results/")
    parser.add_argument("--wall-limit", type=float, default=600.0, help="what it may take (600 on two idle cores)")
    options = parser.parse_args()
    broken = 0
    for name, value, comparison, bound in figures(options.results, options.wall_seconds, options.wall_limit):
        holds = {"<=": value <= bound, "<": value < bound, ">=": value >= bound}[comparison]
        broken += not holds
        print(f"{'ok    ' if holds else 'BROKEN'}  {name}: {value:.3f} {comparison} {bound:.3f}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
