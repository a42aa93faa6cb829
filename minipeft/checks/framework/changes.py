"""What may become of a value in the reference, and how a sentence says it (see `probes`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_AXES = 4


@dataclass(frozen=True)
class Change:
    """What becomes of a value, and in words: "`mask` is twice as large"."""

    words: str
    of: Callable[[Any], Any]
    power: tuple[int, float] | None = None  # of the size of an axis, where it is the factor


def changes(value: Any) -> Iterator[Change]:
    """Every change of a value of this kind and shape."""
    if isinstance(value, tuple | list):
        if value and all(isinstance(part, Tensor) for part in value):
            for change in changes(value[0]):
                of = change.of
                yield Change(change.words, lambda parts, of=of: type(parts)(map(of, parts)))
    elif isinstance(value, Tensor):
        yield from _of_tensors(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from OF_NUMBERS


def _of_tensors(x: Tensor) -> Iterator[Change]:
    if x.dtype == torch.bool:
        yield from OF_TRUTHS
    elif x.is_floating_point():
        yield from OF_FLOATS
    else:
        yield from OF_WHOLES
    for axis in range(min(x.dim(), MOST_AXES)):
        if x.shape[axis] > 1:
            yield from _along(axis, x)
    for i in range(min(x.dim(), MOST_AXES)):
        for j in range(i):
            yield from _between(j, i, x)


OF_FLOATS = [
    Change("is 0 everywhere", torch.zeros_like),
    Change("has the opposite sign", torch.neg),
    Change("is twice as large", lambda x: 2 * x),
    Change("is half as large", lambda x: x / 2),
    Change("is without its sign (abs)", torch.abs),
    Change("goes through a relu", torch.relu),
    Change("goes through a tanh", torch.tanh),
    Change("goes through a sigmoid", torch.sigmoid),
    Change("goes through a leaky relu", F.leaky_relu),
    Change("goes through an elu", F.elu),
    Change("goes through a silu", F.silu),
    Change("goes through a gelu", F.gelu),
    Change("goes through exp", torch.exp),
    Change("goes through log", torch.log),
    Change("is squared", torch.square),
    Change("is a square root", torch.sqrt),
    Change("is turned over (1 / it)", torch.reciprocal),
    Change("is rounded to bfloat16", lambda x: x.to(torch.bfloat16).to(x.dtype)),
    Change("is rounded to float16", lambda x: x.to(torch.float16).to(x.dtype)),
    Change("is rounded to float32", lambda x: x.to(torch.float32).to(x.dtype)),
    Change("is rounded to whole numbers", torch.round),
    Change("is read as yes or no", lambda x: (x != 0).to(x.dtype)),
]
OF_WHOLES = [
    Change("is one too large", lambda x: x + 1),
    Change("is one too small", lambda x: x - 1),
    Change("is without its sign (abs)", torch.abs),
    Change("is never below 0", lambda x: x.clamp(min=0)),
    Change("is 0 everywhere", torch.zeros_like),
    Change("is 1 everywhere", torch.ones_like),
]
OF_TRUTHS = [
    Change("is turned round (not)", torch.logical_not),
    Change("is True everywhere", torch.ones_like),
    Change("is False everywhere", torch.zeros_like),
]
OF_NUMBERS = [
    Change("is one too large", lambda x: x + 1),
    Change("is one too small", lambda x: x - 1),
    Change("has the opposite sign", lambda x: -x),
    Change("is twice as large", lambda x: 2 * x),
    Change("is half as large", lambda x: x / 2),
    Change("is squared", lambda x: x**2),
    Change("is a square root", lambda x: math.sqrt(x)),
    Change("is turned over (1 / it)", lambda x: 1 / x),
    Change("is 0", lambda x: type(x)(0)),
    Change("is 1", lambda x: type(x)(1)),
    Change("is rounded down", lambda x: math.floor(x)),
    Change("is rounded to a whole number", lambda x: round(x)),
    *(Change(f"is rounded to {n} digits", lambda x, n=n: round(x, n)) for n in (1, 2, 3, 4, 6)),
]


def _along(a: int, x: Tensor) -> Iterator[Change]:
    """Along an axis of at least two."""
    behind = f"along axis {a}"
    yield Change(f"runs backwards {behind}", lambda x: x.flip(a))
    yield Change(f"is its first one {behind}, for all", lambda x: x.narrow(a, 0, 1).expand_as(x))
    yield Change(f"is its last one {behind}, for all", lambda x: x.narrow(a, -1, 1).expand_as(x))
    yield Change(f"is shifted by one place {behind}", lambda x: x.roll(1, a))
    yield Change(f"is shifted by one place {behind}", lambda x: x.roll(-1, a))
    yield Change(f"is sorted {behind}", lambda x: x.sort(a).values)
    if x.dtype == torch.bool:
        yield Change(
            f"is true {behind} where it is anywhere", lambda x: x.any(a, True).expand_as(x)
        )
    if not x.is_floating_point():
        return
    first = lambda x: (torch.arange(x.shape[a]) == 0).view(-1, *[1] * (x.dim() - a - 1))  # noqa: E731
    yield Change(f"is 0 but for its first one {behind}", lambda x: x * first(x))
    yield Change(f"is 0 at its first one {behind}", lambda x: x * ~first(x))
    yield Change(f"is averaged {behind}", lambda x: x.mean(a, True).expand_as(x))
    yield Change(f"is summed {behind}", lambda x: x.sum(a, True).expand_as(x))
    yield Change(f"is summed up step by step {behind}", lambda x: x.cumsum(a))
    yield Change(f"goes through a softmax {behind}", lambda x: x.softmax(a))
    yield Change(f"goes through a log_softmax {behind}", lambda x: x.log_softmax(a))
    yield Change(f"is divided by its length {behind}", lambda x: F.normalize(x, dim=a))
    yield Change(f"is less its mean {behind}", lambda x: x - x.mean(a, True))
    yield Change(f"is less its largest {behind}", lambda x: x - x.amax(a, True))
    yield Change(f"goes through a norm {behind}", lambda x: _layer_norm(x, a))
    for name, power in (("the size", 1), ("the root of the size", 0.5)):
        for verb, p in (("multiplied", power), ("divided", -power)):
            words = f"is {verb} by {name} of axis {a}"
            yield Change(words, lambda x, p=p: x * x.shape[a] ** p, (a, p))


def _layer_norm(x: Tensor, axis: int) -> Tensor:
    variance = x.var(axis, keepdim=True, unbiased=False)
    return (x - x.mean(axis, keepdim=True)) / (variance + 1e-5).sqrt()


def _between(i: int, j: int, x: Tensor) -> Iterator[Change]:
    """Two axes: transposed, or reshaped where a transpose is asked for."""
    if x.shape[i] < 2 or x.shape[j] < 2:
        return
    turned = list(x.shape)
    turned[i], turned[j] = turned[j], turned[i]
    if x.shape[i] == x.shape[j]:
        yield Change(f"has its axes {i} and {j} interchanged", lambda x: x.transpose(i, j))
    words = f"is reshaped where its axes {i} and {j} are to be transposed"
    yield Change(words, lambda x: x.reshape(_turned(x, i, j)).transpose(i, j))
    yield Change(words, lambda x: x.transpose(i, j).reshape(x.shape))


def _turned(x: Tensor, i: int, j: int) -> list[int]:
    shape = list(x.shape)
    shape[i], shape[j] = shape[j], shape[i]
    return shape
