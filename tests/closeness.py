"""When two ways of computing the same numbers agree: up to rounding, on every processor.

Which way a sum is rounded depends on the processor, on its instruction set and on the number of
threads. A tolerance that is written down by hand for one machine is wrong on another, so:

- where it can be, both ways are computed in float64 (`zoo.build` makes such models), and 1e-10 of
  the size of the numbers is allowed: half a million times what float64 rounds off (2.2e-16), enough
  for whatever a model amplifies, and far below what a mistake does;
- elsewhere the tolerance follows from the numbers. A rounding moves a value by at most eps / 2 of
  it, evenly spread: a standard deviation of eps / sqrt(12). n of them, independent of each other,
  make sqrt(n) times that, and two results differ by sqrt(2) times that. SIGMAS of it are allowed.

Losses are taken in float32 whatever the dtype of the model, here and in transformers. Hence the
losses of two ways, and gradients where the two ways add up their losses in another order, agree as
float32 does: `close(ours, theirs, dtype=torch.float32, roundings=LOSS)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EXACT = 1e-10  # of the size of the numbers, in float64
SIGMAS = 5
MODEL = 2048  # roundings on the way of a number through one of the small models, and back
HALF = 32  # the same in half precision, where sums are taken in float32 and rounded once
LOSS = 8  # of a loss in float32: the logits, the softmax, its logarithm, the mean, a sum of means


def tolerance(size: float, dtype: torch.dtype = torch.float64, roundings: int = MODEL) -> float:
    """How far apart two results may be that were computed in `dtype` from numbers up to `size`."""
    if dtype == torch.float64:
        return EXACT * size
    return SIGMAS * torch.finfo(dtype).eps * math.sqrt(2 * roundings / 12) * size


def close(
    actual: Tensor | float | Sequence[float],
    expected: Tensor | float | Sequence[float],
    *,
    size: float | None = None,
    dtype: torch.dtype | None = None,
    roundings: int = MODEL,
    label: str = "the numbers",
) -> None:
    """Fails unless both have one shape and are equal up to the rounding of what made them.

    size: the largest number that was added on the way; None: the largest that is expected, or 1,
        for numbers inside the small models are about 1.
    dtype: what they were computed in; None: the coarser dtype of both (Python's floats: float64).
    roundings: how many lie on the way of one number; does not count in float64.
    """
    kinds = [t.dtype for t in (actual, expected) if isinstance(t, Tensor)] or [torch.float64]
    dtype = dtype or max(kinds, key=lambda kind: torch.finfo(kind).eps)
    one, other = (torch.as_tensor(t, dtype=torch.float64).detach() for t in (actual, expected))
    if size is None:
        size = max(1.0, other.abs().max().item() if other.numel() else 0.0)
    allowed = tolerance(size, dtype, roundings)
    heading = f"{label} ({dtype}, size {size:.3g}): "
    torch.testing.assert_close(one, other, rtol=0, atol=allowed, msg=lambda text: heading + text)
