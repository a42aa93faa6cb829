"""Dropout: is it applied, how much, with which scale, where, and independently?

One question answers them all: does the learner's object give the same *outcomes equally often* as
the reference? A case drops from so few numbers that every outcome can be listed: four numbers make
sixteen outcomes. Thousands of equal rows go through in one call. Each row of the result, with the
gradient of that row's input, is one outcome; the outcomes are counted and compared.

A wrong scale or place makes outcomes that the reference does not have; a wrong share changes how
often they occur; numbers that are dropped together leave outcomes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minipeft.checks.framework.inputs import leaves_of
from minipeft.checks.framework.observing import Observation

ALIKE = 1e-3  # outcomes closer than this (times their size) are one outcome
UNSEEN = 0.01  # of the rows may be outcomes so rare that the reference's rows hold none
DEVIATIONS = 6.0  # standard deviations between two counts; chance gives that once in 500 million


@dataclass(frozen=True)
class Outcomes:
    """What two calls gave, counted.

    kinds     (K, numbers), the outcomes that occurred
    counts    (K,), how many rows of both calls had each
    repeats   does every call, or every row, get the same draw?
    """

    kinds: Tensor
    counts: Tensor
    repeats: bool

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> Outcomes:
        """Count the rows of two calls, (N, numbers) each."""
        rows = torch.cat([first, second])
        kinds = distinct(rows)
        numbers = _nearest(rows, kinds)
        one, two = numbers.chunk(2)
        every_row = len(one.unique()) == len(two.unique()) == 1
        return cls(
            kinds,
            torch.bincount(numbers.clamp(min=0), minlength=len(kinds)),
            len(kinds) > 1 and (torch.equal(one, two) or every_row),
        )

    @property
    def mean(self) -> Tensor:
        """Of each number over all rows: (numbers,)."""
        return (self.counts[:, None] * self.kinds).sum(0) / self.counts.sum()


def rows_of(seen: Observation, copies: int) -> Tensor:
    """(N, numbers): every tensor of the result with N rows, and the gradients of N rows."""
    tensors = [leaf for _, leaf in leaves_of(seen.result) if isinstance(leaf, Tensor)]
    tensors += [g for g in seen.gradients.values() if g is not None]
    wide = [
        t.detach().double().reshape(copies, -1) for t in tensors if t.dim() and len(t) == copies
    ]
    return torch.cat(wide, dim=1) if wide else torch.zeros(copies, 0, dtype=torch.float64)


def _nearest(rows: Tensor, outcomes: Tensor) -> Tensor:
    """(N,): which outcome each row is, -1 for none of them."""
    size = max(1.0, outcomes.abs().max().item())
    gap = torch.cdist(rows, outcomes, p=float("inf"))  # (N, K)
    best, number = gap.min(dim=1)
    return torch.where(best <= ALIKE * size, number, -1)


def distinct(rows: Tensor) -> Tensor:
    """(K, numbers): the outcomes among rows, those that are alike taken together."""
    size = max(1.0, rows.abs().max().item()) * ALIKE
    whole = (rows / size).round().to(torch.int64)
    # One number for each row: 64-bit products wrap around, two rows meet once in 2^64.
    mixed = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, whole.shape[1:], generator=mixed) * 2 + 1
    _, inverse = torch.unique((whole * odd).sum(1), return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(rows)).scatter_reduce(
        0, inverse, torch.arange(len(rows)), "amin"
    )
    return rows[first]


def distribution_differs(wanted: Outcomes, given: Outcomes) -> bool:
    """Are there outcomes that only one of them has, or that one has clearly more often?"""
    if wanted.kinds.shape[1] != given.kinds.shape[1] or not bool(torch.isfinite(given.kinds).all()):
        return True
    numbers = _nearest(given.kinds, wanted.kinds)
    expected, total, N = wanted.counts, given.counts.sum(), wanted.counts.sum()
    if given.counts[numbers < 0].sum() / total > UNSEEN:
        return True
    counted = torch.zeros_like(expected).index_add(0, numbers.clamp(min=0), given.counts)
    p, q = expected / N, counted / total
    both = (expected + counted) / (N + total)
    spread = (both * (1 - both) * (1 / N + 1 / total)).sqrt()
    return bool(((p - q).abs() > DEVIATIONS * spread + 2 / total).any())
