"""Which rows of which chat data set are trained on, and how often (report, section 3.1: dynamic sampling).

A share is a relative number of sampled rows. A small set with a large share is repeated for many epochs, a large one
with a small share is sampled once in part. Every function is deterministic in the seed.
"""

from __future__ import annotations

import numpy as np

from nano3.chat.reasoning import draw
from nano3.errors import UserError


def held_out(dataset: str, problems: list[str], fraction: float, seed: int) -> np.ndarray:
    """Rows kept for validation, bool [rows]: about the given fraction, those with the smallest hash of their problem.

    problems: what each row asks. Rows that ask the same are on the same side, so a side may be a little smaller than
    the fraction; validation gets at least one problem unless there is only one.
    """
    if fraction == 0 or not problems:
        return np.zeros(len(problems), bool)
    hashes = [draw(seed, "held out", dataset, problem) for problem in problems]
    _, problem_of_row, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    chosen = np.cumsum(sizes) <= fraction * len(problems)
    chosen[0] = len(sizes) > 1
    return chosen[problem_of_row]


def rows_per_dataset(pools: dict[str, int], shares: dict[str, float], total: int | None) -> dict[str, int]:
    """Rows to draw from each data set.

    pools: rows that each has for training; shares: relative; total: rows in all (rounded by largest remainder), or
    None for as many as the scarcest data set allows without repetition. Raises UserError for a data set that has a
    share but no rows.
    """
    empty = sorted(name for name, share in shares.items() if share > 0 and not pools[name])
    if empty:
        raise UserError(
            f"sft.data.datasets gives a share to {', '.join(empty)}, but no training rows are there. Check the raw "
            "shards, or set the share to 0."
        )
    whole = sum(shares.values())
    if whole <= 0:
        raise UserError("every share in sft.data.datasets is 0; give at least one data set a positive share")
    if total is None:
        total = min(int(pools[name] * whole / share) for name, share in shares.items() if share > 0)
    exact = {name: total * share / whole for name, share in shares.items()}
    rows = {name: int(value) for name, value in exact.items()}
    missing = total - sum(rows.values())
    for name in sorted(exact, key=lambda name: (rows[name] - exact[name], name))[:missing]:
        rows[name] += 1
    return rows


def copies_of_rows(dataset: str, trainable: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """How often each row is trained on, int64 [rows of the set]: every row of `trainable` (bool) once per full epoch,
    and a random part of them once more."""
    pool = np.flatnonzero(trainable)
    copies = np.zeros(len(trainable), np.int64)
    if not rows:
        return copies
    epochs, rest = divmod(rows, len(pool))
    copies[pool] = epochs
    generator = np.random.default_rng([seed, int(draw(seed, "sample", dataset) * 2**53)])
    copies[generator.permutation(pool)[:rest]] += 1
    return copies
