"""Rows that can't be used: counted by reason, sampled, and too many of them are an error."""

from dataclasses import dataclass, field
from typing import Any

from nano3.errors import UserError

SAMPLES_PER_REASON = 3


@dataclass
class BadRows:
    """The bad rows of one job.

    counts: reason -> rows; samples: reason -> the first few, each with its place."""

    counts: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, reason: str, *, where: str, sample: str) -> None:
        """Count one bad row."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        kept = self.samples.setdefault(reason, [])
        if len(kept) < SAMPLES_PER_REASON:
            kept.append(f"{where}: {sample}"[:300])

    @property
    def total(self) -> int:
        """Number of bad rows."""
        return sum(self.counts.values())

    def check(self, good: int, max_share: float, *, where: str, key: str) -> None:
        """Raise UserError if bad rows are more than `max_share` of all rows; `key` is the recipe key of that bound."""
        share = self.total / max(1, self.total + good)
        if share <= max_share:
            return
        lines = [
            f"{where}: {self.total} of {self.total + good} rows are bad ({share:.1%}; {key} allows {max_share:.1%})."
        ]
        for reason, number in sorted(self.counts.items()):
            lines.append(f"  {number} x {reason}, e.g. {self.samples[reason][0]}")
        lines.append(f"  Mend the source or the recipe's description of it, or raise {key}.")
        raise UserError("\n".join(lines))

    def statistics(self) -> dict[str, Any]:
        """For a manifest: counts and samples by reason, empty if there was none."""
        return {reason: {"rows": self.counts[reason], "samples": self.samples[reason]} for reason in self.counts}
