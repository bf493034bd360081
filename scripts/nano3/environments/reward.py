"""What an environment says about one response."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reward:
    """The score of one response.

    value: in [0, 1]. reason: one line for logs and for people who read rollouts.
    well_formed: the thinking is closed exactly once and the answer has the form that was asked for; a response
    can be well formed and wrong.
    """

    value: float
    reason: str
    well_formed: bool

    def __post_init__(self) -> None:
        if not 0.0 <= self.value <= 1.0:  # also refuses NaN
            raise ValueError(f"a reward lies in [0, 1], got {self.value!r}")


def malformed(reason: str) -> Reward:
    """Zero for a response whose form is broken."""
    return Reward(0.0, reason, well_formed=False)
