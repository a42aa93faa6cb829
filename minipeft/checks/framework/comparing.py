"""Is what was given what is wanted? If not, what is the first thing that differs?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Number, Real
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from minipeft.checks.framework.observing import Observation, floating

PRECISE = 1e-9  # of float64, where nothing is rounded to float32 on the way
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.08, torch.float16: 0.01}


@dataclass(frozen=True)
class Difference:
    """What differs.

    kind    "error" something was raised; "no error" nothing was, and should have been;
            "type", "parts", "extra parts", "shape", "dtype", "device", "nan", "value": the result;
            "gradient missing", "gradient extra", "gradient", "gradient nan";
            "argument" one was changed; "shared" the result has the memory of one; "random" a
            global generator was touched; "generator" the given one was not; "settings" something
            was switched;
            "rule" the trial's judge objects; "outcomes", "repeats" of a dropout
    where   the part of the result, the argument, the parameter
    """

    kind: str
    where: str = ""
    wanted: Any = None
    given: Any = None


def differs(wanted: Observation, given: Observation, trial) -> Difference | None:
    """The first difference that counts, the most telling one first; None when there is none."""
    beside = around(wanted, given, trial)
    if beside is not None and beside.kind == "argument" and given.error is None:
        return beside
    if wanted.error is not None:
        if given.error is None:
            return Difference("no error", wanted=wanted.error, given=given.result)
        if not isinstance(given.error, type(wanted.error)):
            return Difference("error", wanted=wanted.error, given=given.error)
    elif given.error is not None:
        return Difference("error", given=given.error)
    elif trial.judge is None:
        difference = compare(wanted.result, given.result, trial)
        if difference is not None:
            return difference
    for name in given.shared:
        if name not in wanted.shared:
            beside = beside or Difference("shared", name, wanted.result, given.result)
    return beside or _gradients(wanted, given, trial.precise)


def around(wanted: Observation, given: Observation, trial) -> Difference | None:
    """Arguments, generators, settings."""
    for name in given.changed:
        if name not in wanted.changed:
            before = wanted.inputs.get(name, wanted.after.get(name))
            return Difference("argument", name, before, given.after.get(name))
    for name, value in wanted.inputs.items():
        if isinstance(value, torch.Generator):
            if name in wanted.changed and name not in given.changed and given.error is None:
                return Difference("generator", name)
    free = trial.draws and not any(isinstance(v, torch.Generator) for v in wanted.inputs.values())
    for name in given.moved:
        if name not in wanted.moved and not (name == "torch" and free):
            return Difference("random", name)
    for words in given.settings:
        return Difference("settings", words)
    return None


def _gradients(wanted: Observation, given: Observation, precise: bool) -> Difference | None:
    if given.error is not None:
        return None
    if not all(bool(torch.isfinite(t).all()) for t in floating(wanted.result)):
        return None  # of NaN there is no gradient
    if wanted.tracked and not given.tracked:
        return Difference("gradient missing", "the result")
    largest = None
    for name, right in wanted.gradients.items():
        answer = given.gradients.get(name)
        if right is answer or right is not None and answer is not None and _same(right, answer):
            continue
        if largest is None:
            largest = max([1.0, *(_largest(one) for one in wanted.gradients.values())])
        # A gradient that is zero on paper (the bias of a key) is rounding noise in one of the two.
        noise = 0.1 * largest * TOLERANCE.get(getattr(right, "dtype", None), 1e-4)
        if math.isinf(_largest(answer)) and math.isfinite(_largest(right)):
            return Difference("gradient nan", name, right, answer)
        empty, needed = _largest(answer) <= noise, _largest(right) > noise
        if needed and empty:
            return Difference("gradient missing", name, right, answer)
        if not needed and not empty:
            return Difference("gradient extra", name, right, answer)
        if needed and not close(right, answer, 5.0, precise):
            return Difference("gradient", name, right, answer)
    if given.tracked and not wanted.tracked:
        return Difference("gradient extra", "the result")
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _largest(gradient: Tensor | None) -> float:
    if gradient is None or not gradient.numel():
        return 0.0
    return gradient.detach().abs().max().nan_to_num(nan=math.inf).item()


def compare(wanted: Any, given: Any, trial, where: str = "") -> Difference | None:
    """Nested results: dicts by key, lists and tuples by position, the leaves by value."""
    if isinstance(wanted, Mapping):
        if not isinstance(given, Mapping):
            return Difference("type", where, wanted, given)
        missing = [key for key in wanted if key not in given]
        if missing:
            return Difference("parts", where, missing, given)
        extra = [str(key) for key in given if key not in wanted]
        if extra and not trial.more_keys:
            return Difference("extra parts", where, extra, given)
        pairs = [
            (f"{where}.{key}" if where else str(key), wanted[key], given[key]) for key in wanted
        ]
    elif isinstance(wanted, list | tuple) and not isinstance(wanted, torch.Size):
        if not isinstance(given, list | tuple):
            return Difference("type", where, wanted, given)
        if len(wanted) != len(given):
            return Difference("parts", where, wanted, given)
        pairs = [
            (f"{where}[{i}]", w, g) for i, (w, g) in enumerate(zip(wanted, given, strict=True))
        ]
    else:
        return _leaf(wanted, given, trial, where)
    for place, right, answer in pairs:
        difference = compare(right, answer, trial, place)
        if difference is not None:
            return difference
    return None


def _leaf(wanted: Any, given: Any, trial, where: str) -> Difference | None:
    if isinstance(wanted, nn.Parameter | nn.Module):
        return None if wanted is given else Difference("value", where, wanted, given)
    if isinstance(wanted, Tensor):
        return _tensors(wanted, given, trial, where)
    if isinstance(wanted, Number) and not isinstance(wanted, bool):
        number = as_number(given)
        if number is None:
            return Difference("type", where, wanted, given)
        near = math.isclose(number, float(wanted), rel_tol=1e-5, abs_tol=1e-6)
        same = near or (math.isnan(number) and math.isnan(float(wanted)))
        if isinstance(given, Tensor) and where.endswith("]"):
            return Difference("type", where, wanted, given)  # a list of numbers holds numbers
        if same and isinstance(wanted, int) and not is_whole(given):
            return Difference("type", where, wanted, given)  # 3.0 is no place in a list
        return None if same else Difference("value", where, wanted, given)
    if type(wanted) is not type(given):
        return Difference("type", where, wanted, given)
    return None if wanted == given else Difference("value", where, wanted, given)


def _tensors(wanted: Tensor, given: Any, trial, where: str) -> Difference | None:
    if not isinstance(given, Tensor):
        return Difference("type", where, wanted, given)
    if wanted.shape != given.shape:
        return Difference("shape", where, wanted, given)
    if wanted.is_floating_point() and given.is_floating_point():
        if bool(given.isnan().any()) and not bool(wanted.isnan().any()):
            return Difference("nan", where, wanted, given)
    if not close(wanted, given, trial.slack, trial.precise):
        return Difference("value", where, wanted, given)
    if wanted.dtype != given.dtype and not trial.accepts(where, wanted.dtype, given.dtype):
        return Difference("dtype", where, wanted, given)
    return None if wanted.device == given.device else Difference("device", where, wanted, given)


def close(wanted: Tensor, given: Tensor, slack: float = 1.0, precise: bool = False) -> bool:
    """Equal shapes, and equal numbers up to the rounding of the coarser dtype.

    precise: are two tensors in float64 equal up to its rounding, or up to that of float32?
    """
    if wanted.shape != given.shape:
        return False
    if _same(wanted, given):
        return True
    coarse = max(TOLERANCE.get(wanted.dtype, 0.0), TOLERANCE.get(given.dtype, 0.0))
    if precise and wanted.dtype == given.dtype == torch.float64:
        coarse = PRECISE
    a, b = wanted.detach().double(), given.detach().double()
    if not coarse:
        return bool((a == b).all())
    usual = a[a.abs() < 1e6]
    size = max(1.0, usual.square().mean().sqrt().item()) if usual.numel() else 1.0
    limit = slack * coarse
    return bool(torch.allclose(b, a, rtol=limit, atol=limit * size, equal_nan=True))


def as_number(value: Any) -> float | None:
    """The number that an int, a float, a fraction, a decimal, a numpy scalar or a tensor is.

    None for all else, complex numbers too.
    """
    if isinstance(value, Tensor | numpy.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | numpy.bool_) or not isinstance(value, Real | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:  # an int above 1e308
        return math.inf if value > 0 else -math.inf


def is_whole(number: Any) -> bool:
    """Is a number of a type that counts, an int and not a float that happens to be whole?"""
    if isinstance(number, Tensor):
        return not number.is_floating_point()
    kind = number.dtype.type if isinstance(number, numpy.ndarray) else type(number)
    return issubclass(kind, int | numpy.integer)


def place_of_first(wanted: Tensor, given: Tensor) -> tuple[int, ...]:
    """Where two tensors of one shape differ most."""
    gap = (wanted.double() - given.double()).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    if gap.dim() == 0:
        return ()
    return tuple(int(i) for i in torch.unravel_index(gap.argmax(), gap.shape))
