"""What a finished run of the main job must show, read from its own artifacts.

    python tests/check_tiny.py results/tiny --wall-seconds 800

Prints every figure with its bound; exits 1 if one is broken.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

GIB = 2**30
FILE = "evaluation.json"


def read(file: Path):
    return json.loads(file.read_text())


def figures(results: Path, wall_seconds: float | None, wall_limit: float) -> list[tuple[str, float, str, float]]:
    """(name, value, comparison, bound) of everything that is promised."""
    names = ("base", "sft", "rlvr1", "rlhf", "rlvr2", "dpo")
    base, sft, rlvr, rlhf, again, dpo = (read(results / "evaluation" / name / FILE) for name in names)
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
    for stage in ("rlvr1", "genrm", "rlhf", "rlvr2"):
        # Where a router finds two experts as good, one rounding chooses another: rare, and then they differ by more.
        beyond = sum(row["ratio_max"] > 1.001 for row in steps(results / "rl" / stage / "metrics.jsonl"))
        found.append((f"steps of {stage} with a ratio of trainer and generator beyond 1.001", float(beyond), "<=", 2.0))
    # Six, and a quarter shorter, where this was written; another processor rounds otherwise, and some are close.
    found.append(("environments that RLVR raises with disjoint intervals", raised(sft, rlvr), ">=", 4.0))
    found.append(("environments that RLVR lowers with disjoint intervals", raised(rlvr, sft), "<=", 0.0))
    found.append(("held-out comparisons that the reward model ranks as people do", ranked(results), ">=", 0.65))
    found.append(("tokens of a response after RLHF, against RLVR", tokens(rlhf), "<=", 0.85 * tokens(rlvr)))
    found.append(("environments that RLHF lowers with disjoint intervals", raised(rlhf, rlvr), "<=", 0.0))
    found.append(("environments that the final model lowers against SFT", raised(dpo, sft), "<=", 0.0))
    found.append(("tools called that were taken away, after DPO", called(dpo, "rate"), "<=", called(again, "rate") / 4))
    found.append(("the upper end of its interval", called(dpo, "high"), "<", called(again, "low")))
    return found


def tokens(evaluation: dict) -> float:
    """Mean tokens of a response over environments, thinking and answer."""
    return statistics.mean(entry["response"]["mean"] for entry in evaluation["lengths"].values())


def called(evaluation: dict, measure: str) -> float:
    """How often a tool is called when the request comes without its tools: "rate", or an end of its 95% interval."""
    return evaluation["tools_not_offered"]["tools_taken_away"][measure]


def ranked(results: Path) -> float:
    """The reward model's last accuracy on held-out comparisons; guessing has 0.5."""
    rows = (results / "rl" / "genrm" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, rows) if row.get("split") == "valid"][-1]["ranking_accuracy"]


def raised(first: dict, second: dict) -> float:
    """How many environments are higher in `second` with intervals that don't overlap."""
    pairs = [(first["environments"][name], second["environments"][name]) for name in first["environments"]]
    return float(sum(then["low"] > now["high"] for now, then in pairs))


def steps(metrics: Path) -> list[dict]:
    return [row for row in map(json.loads, metrics.read_text().splitlines()) if "split" not in row]


def validations(metrics: Path) -> list[dict]:
    rows = map(json.loads, metrics.read_text().splitlines())
    return [row["bits_per_byte"] for row in rows if row.get("split") == "valid"]


def first_validation(metrics: Path) -> dict[str, float]:
    return validations(metrics)[0]


def last_validation(metrics: Path) -> dict[str, float]:
    return validations(metrics)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results/tiny")
    parser.add_argument("--wall-seconds", type=float, help="what the main job took from an empty results/")
    parser.add_argument("--wall-limit", type=float, default=900.0, help="what it may take (900 on two idle cores)")
    options = parser.parse_args()
    broken = 0
    for name, value, comparison, bound in figures(options.results, options.wall_seconds, options.wall_limit):
        holds = {"<=": value <= bound, "<": value < bound, ">=": value >= bound}[comparison]
        broken += not holds
        print(f"{'ok    ' if holds else 'BROKEN'}  {name}: {value:.3f} {comparison} {bound:.3f}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
