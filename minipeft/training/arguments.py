"""One sentence for each impossible argument of `train`."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable

from torch import nn

from minipeft.methods.parts.validation import LARGEST, check_count, is_whole, shorten
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
    seed=0,
    head_rate=None,
) -> None:
    """One sentence for each impossible argument of `train`."""
    counts = dict(steps=steps, accumulate=accumulate, evaluate_every=evaluate_every)
    for name, value in (counts | dict(checkpoint_every=checkpoint_every)).items():
        check_count(name, value)
    if not is_whole(seed) or not -LARGEST <= seed <= 2 * LARGEST:
        raise ValueError(f"seed must be a whole number of at most 32 bits, not {shorten(seed)}.")
    rates = dict(learning_rate=learning_rate)
    rates |= {} if head_rate is None else dict(head_rate=head_rate)
    for name, rate in rates.items():
        if isinstance(rate, str):
            raise ValueError(f"{name} must be a number, not the text {shorten(rate)}.")
        if not is_number(rate) or not 0 < rate < math.inf:
            raise ValueError(f"{name} must be positive, not {shorten(rate)}.")
    if not is_number(warmup) or not 0 <= warmup <= steps:
        raise ValueError(
            f"warmup must be a share below 1 or at most {steps} steps, not {shorten(warmup)}."
        )
    if schedule not in SCHEDULES:
        raise ValueError(
            f"schedule must be one of {', '.join(SCHEDULES)}, not {shorten(schedule)}."
        )
    if best not in ("max", "min", None):
        raise ValueError(f'best must be "max", "min" or None, not {shorten(best)}.')
    if not is_number(weight_decay) or not 0 <= weight_decay < math.inf:
        raise ValueError(
            f"weight_decay must be a number of at least 0, not {shorten(weight_decay)}."
        )
    pair = betas if isinstance(betas, tuple | list) else ()
    if len(pair) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in pair):
        raise ValueError(
            f"betas must be two numbers of at least 0 and below 1, such as (0.9, 0.999), not "
            f"{shorten(betas)}."
        )
    if clip is not None and (not is_number(clip) or not clip >= 0):
        raise ValueError(
            f"clip must be a positive number, or None to clip nothing, not {shorten(clip)}."
        )


def check_others(*, model, tuners, evaluate, watch, checkpoint, **switches) -> None:
    """One sentence for each argument of `train` that is of another type than it should be.

    switches: what is True or False.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, not {shorten(model)}.")
    if tuners is not None and not isinstance(tuners, Iterable):
        raise ValueError(f"tuners must be names of tuners, or None, not {shorten(tuners)}.")
    for name, value in dict(evaluate=evaluate, watch=watch).items():
        if value is not None and not callable(value):
            raise ValueError(
                f"{name} must be a function, which `train` calls, or None, not {shorten(value)}."
            )
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise ValueError(f"checkpoint must be the path of a folder, not {shorten(checkpoint)}.")
    for name, value in switches.items():
        if not isinstance(value, int) or value not in (True, False):
            raise ValueError(f"{name} must be True or False, not {shorten(value)}.")


def is_number(value) -> bool:
    """A real number of Python, or of numpy."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
