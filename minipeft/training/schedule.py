"""The learning rate of every step: a rise over the warm-up, then a fall, or none."""

from __future__ import annotations

from tiny_transformer.pretraining import learning_rate

SCHEDULES = ("linear", "cosine", "constant")


def warmup_steps(warmup: float, steps: int) -> int:
    """A share of the steps (below 1) or a number of steps, as a number of steps."""
    return round(warmup * steps) if warmup < 1 else int(warmup)


def learning_rate_at(step: int, steps: int, peak: float, warmup: float, schedule: str) -> float:
    """The rate of a step: a straight rise to the peak over the warm-up, then the schedule."""
    warmup = warmup_steps(warmup, steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done, rest = step - warmup, max(1, steps - warmup)  # done is 0 at the peak
    if schedule == "cosine":  # the one of pretraining, down to 0
        return learning_rate(done, rest, peak, warmup=0, floor=0.0)
    return peak * (1 - done / rest) if schedule == "linear" else peak
