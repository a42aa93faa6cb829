"""Settings of a method are checked when it is made: one sentence for each impossible value."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping

LARGEST = 2**31  # a whole number that is as large is a mistake, and torch would not take it
LONGEST = 300  # characters of a name


def shorten(value) -> str:
    """A value as an error says it, cut where it is too long to be read."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def is_whole(value) -> bool:
    """A whole number of Python, or of numpy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_count(name: str, value) -> None:
    """Of a batch, of steps: a whole number from 1."""
    if not is_whole(value) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {shorten(value)}.")


def as_tuple(value) -> tuple:
    """What is in a list, tuple, range or set; nothing where there is no such thing."""
    try:
        return tuple(value) if isinstance(value, Iterable) else ()
    except TypeError:  # a tensor or an array of one number
        return ()


def check_table(method, *fields: str) -> None:
    """Each field must be a dict whose keys are names."""
    for field in fields:
        value = getattr(method, field)
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValueError(
                f"{type(method).__name__}'s {field} must be a dict by target, such as "
                f'{{"query": 4}}, not {shorten(value)}.'
            )


def check_names(method, *fields: str) -> None:
    """Make each field a tuple of strings; one string alone counts as a tuple of one."""
    for field in fields:
        value = getattr(method, field)
        names = (value,) if isinstance(value, str) else as_tuple(value)
        if not names or not all(isinstance(n, str) and 0 < len(n) < LONGEST for n in names):
            raise ValueError(
                f"{type(method).__name__}'s {field} must be one or more names, such as "
                f'("query", "value"), not {shorten(value)}.'
            )
        object.__setattr__(method, field, names)  # the way to set a field of a frozen dataclass


def check_layers(method) -> None:
    """`layers` must be None or a tuple of layer numbers."""
    if method.layers is None:
        return
    layers = as_tuple(method.layers)
    if not layers or not all(type(i) is int and i >= 0 for i in layers):
        raise ValueError(
            f"{type(method).__name__}'s layers must be None or layer numbers from 0, not "
            f"{shorten(method.layers)}."
        )
    object.__setattr__(method, "layers", layers)


def check_choice(method, field: str, choices: Iterable[str]) -> None:
    """The field must be one of these words."""
    value = getattr(method, field)
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(map(repr, choices))
        raise ValueError(
            f"{type(method).__name__}'s {field} must be one of {words}, not {shorten(value)}."
        )


def check_number(method, field: str, rule: str, fits: Callable, whole: bool = False) -> None:
    """The field must be a number, a whole one if said so, for which `fits(number)` is true."""
    value, kinds = getattr(method, field), (int,) if whole else (int, float)
    fitting = type(value) in kinds and fits(value)  # True is an int, but no number here
    if not fitting or (type(value) is int and value >= LARGEST):
        kind = "a whole number" if whole else "a number"
        raise ValueError(
            f"{type(method).__name__}'s {field} must be {kind} {rule}, not {shorten(value)}."
        )


def check_flag(method, *fields: str, none: bool = False) -> None:
    """Each field must be True or False; with `none`, None is one more choice."""
    for field in fields:
        value = getattr(method, field)
        if type(value) is not bool and not (none and value is None):
            words = "True, False or None" if none else "True or False"
            raise ValueError(
                f"{type(method).__name__}'s {field} must be {words}, not {shorten(value)}."
            )


def check_lora(method) -> None:
    """The settings of LoRA and of what is derived from it."""
    check_names(method, "targets")
    check_layers(method)
    if method.plus is not None:
        check_number(method, "plus", "above 0", lambda n: 0 < n < math.inf)
    check_table(method, "ranks", "alphas")
    check_flag(method, "rank_stabilized")
    for rank in (method.rank, *method.ranks.values()):
        if type(rank) is not int or not 1 <= rank < LARGEST:
            raise ValueError(
                f"A LoRA rank must be a whole number of at least 1, not {shorten(rank)}."
            )
    for alpha in (method.alpha, *method.alphas.values()):
        if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
            raise ValueError(
                f"LoRA's alpha must be a positive number, not {shorten(alpha)}: 0 learns nothing."
            )
    if type(method.dropout) not in (int, float) or not 0 <= method.dropout < 1:
        raise ValueError(
            f"LoRA's dropout must be at least 0 and below 1, not {shorten(method.dropout)}."
        )
