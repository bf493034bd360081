"""Learning-rate schedules: pure functions of the position in training.

A step's learning rate is the schedule's value at the step's end, so the first step already learns and the last one
has exactly the final rate.
"""

import math
from typing import Literal

from nano3.recipe.training import Sft, WsdSchedule


def warmup_stable_decay(schedule: WsdSchedule, tokens: float) -> float:
    """Learning rate after this many tokens since the start of training (report, section 2.4).

    Linear from 0 over `warmup_tokens`, the peak until `stable_tokens`, then `decay_tokens` down to `final`, and
    `final` from there on."""
    if tokens < schedule.warmup_tokens:
        return schedule.peak * tokens / schedule.warmup_tokens
    progress = (tokens - schedule.stable_tokens) / schedule.decay_tokens
    return schedule.final + (schedule.peak - schedule.final) * remaining(schedule.decay, progress)


def warmed_up(peak: float, warmup_steps: int, step: int) -> float:
    """Learning rate of step 0, 1, ... that rises linearly to `peak` over `warmup_steps` and stays there."""
    return peak * min(1.0, (step + 1) / max(1, warmup_steps))


def fine_tuning(sft: Sft, step: int) -> float:
    """Learning rate of step 0, 1, ...: linear warmup, then a decay to `final_fraction` of the peak."""
    if step < sft.warmup_steps or sft.decay == "constant":
        return warmed_up(sft.learning_rate, sft.warmup_steps, step)
    progress = (step + 1 - sft.warmup_steps) / (sft.steps - sft.warmup_steps)
    share = sft.final_fraction + (1 - sft.final_fraction) * remaining(sft.decay, progress)
    return sft.learning_rate * share


def remaining(shape: Literal["cosine", "linear", "minus_sqrt"], progress: float) -> float:
    """What is left of a decay from 1 to 0 after this share of it; outside of 0 ... 1 the nearer end."""
    progress = min(max(progress, 0.0), 1.0)
    match shape:
        case "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return 1 - progress
        case "minus_sqrt":
            return 1 - math.sqrt(progress)
