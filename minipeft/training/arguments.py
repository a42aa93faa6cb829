"""One sentence for each impossible argument of `train`."""

from __future__ import annotations

import math
import numbers

from minipeft.training.schedule import SCHEDULES


def check_arguments(
    *,
    steps,
    learning_rate,
    warmup,
    schedule,
    best=None,
    accumulate=1,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    clip=None,
    evaluate_every=1,
    checkpoint_every=1,
) -> None:
    """One sentence for each impossible argument of `train`."""
    counts = dict(steps=steps, accumulate=accumulate, evaluate_every=evaluate_every)
    for name, value in (counts | dict(checkpoint_every=checkpoint_every)).items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if isinstance(learning_rate, str):
        raise ValueError(f"learning_rate must be a number, not the text {learning_rate!r}.")
    if not is_number(learning_rate) or not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive, not {learning_rate!r}.")
    if not is_number(warmup) or not 0 <= warmup <= steps:
        raise ValueError(
            f"warmup must be a share below 1 or at most {steps} steps, not {warmup!r}."
        )
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}.")
    if best not in ("max", "min", None):
        raise ValueError(f'best must be "max", "min" or None, not {best!r}.')
    if not is_number(weight_decay) or not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be a number of at least 0, not {weight_decay!r}.")
    pair = betas if isinstance(betas, tuple | list) else ()
    if len(pair) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in pair):
        raise ValueError(
            f"betas must be two numbers of at least 0 and below 1, such as (0.9, 0.999), not "
            f"{betas!r}."
        )
    if clip is not None and (not is_number(clip) or not clip >= 0):
        raise ValueError(f"clip must be a positive number, or None to clip nothing, not {clip!r}.")


def is_number(value) -> bool:
    """A real number of Python, or of numpy."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
