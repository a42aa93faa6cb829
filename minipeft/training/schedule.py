"""The learning rate of every step: a rise over the warm-up, then a fall, or none."""

from __future__ import annotations

import math

SCHEDULES = ("linear", "cosine", "constant")


def warmup_steps(warmup: float, steps: int) -> int:
    """A share of the steps (below 1) or a number of steps, as a number of steps."""
    return round(warmup * steps) if warmup < 1 else int(warmup)


def learning_rate_at(step: int, steps: int, peak: float, warmup: float, schedule: str) -> float:
    """The rate of a step: a straight rise to the peak over the warm-up, then the schedule."""
    warmup = warmup_steps(warmup, steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)  # 0 at the peak, almost 1 at the last step
    if schedule == "cosine":
        return peak * (1 + math.cos(math.pi * done)) / 2
    return peak * (1 - done) if schedule == "linear" else peak
