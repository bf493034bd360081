"""Which prompts a step trains on: a pure function of seed and step, so that a resumed run skips and repeats nothing.

Every environment is an endless stream of its prompts, epoch after epoch, each epoch in its own shuffled order. A
step takes the next few of each stream. How many is fixed by the environments' shares and the step's number alone.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from nano3.errors import UserError


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from anything with a stable repr: numbers, strings, tuples of them."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def environment_shares(sizes: Mapping[str, int], ratio: Mapping[str, float]) -> dict[str, float]:
    """Share of every environment in a step, summing to 1, in sorted order of the names.

    sizes: prompts there are of each environment. ratio: relative numbers; empty means in proportion to sizes, an
    environment that it leaves out is not trained on. Raises UserError when it names one without prompts."""
    missing = sorted(name for name, share in ratio.items() if share > 0 and not sizes.get(name))
    if missing:
        raise UserError(
            f"environment_ratio names {', '.join(missing)}, but the training prompts have only"
            f" {', '.join(sorted(sizes))}.\n  Change environment_ratio or add data sets to rl.prompts.train."
        )
    weights = {name: float(ratio.get(name, 0)) if ratio else float(size) for name, size in sizes.items()}
    total = sum(weights.values())
    if not total > 0:
        raise UserError("there are no training prompts: every environment's share is 0")
    return {name: weights[name] / total for name in sorted(weights) if weights[name] > 0}


def prompts_before(step: int, per_step: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many prompts of each environment the steps 0 ... step - 1 have used; sums to step * per_step.

    Webster's apportionment: the next prompt goes to the environment with the smallest (count + 1/2) / share, so
    counts never fall as steps are added. It begins at a lower bound of the counts instead of at 0."""
    total = step * per_step
    counts = {name: max(0, int(share * total) - len(shares)) for name, share in shares.items()}
    for _ in range(total - sum(counts.values())):
        counts[min(shares, key=lambda name: (counts[name] + 0.5) / shares[name])] += 1
    return counts


def shuffled(indices: Sequence[int], seed: int, environment: str, start: int, stop: int) -> list[int]:
    """Positions start ... stop - 1 of an environment's endless stream over the given prompt indices."""
    size = len(indices)
    chosen = []
    for epoch in range(start // size, (stop - 1) // size + 1) if stop > start else ():
        order = np.random.default_rng(derived_seed(seed, "epoch", environment, epoch)).permutation(size)
        first, last = max(start - epoch * size, 0), min(stop - epoch * size, size)
        chosen += [indices[i] for i in order[first:last]]
    return chosen


def prompts_of_step(
    by_environment: Mapping[str, Sequence[int]],
    *,
    step: int,
    per_step: int,
    ratio: Mapping[str, float],
    seed: int,
) -> list[int]:
    """Indices of the prompts of one step (0 is the first): `per_step` of them, environment by environment.

    by_environment: name -> indices of its prompts. A curriculum is another function of these arguments."""
    shares = environment_shares({name: len(indices) for name, indices in by_environment.items()}, ratio)
    before = prompts_before(step, per_step, shares)
    after = prompts_before(step + 1, per_step, shares)
    return [index for name in shares for index in shuffled(by_environment[name], seed, name, before[name], after[name])]
