"""Which patches act on which rows of a batch, as `minipeft.route` has said."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class Routing(list):
    """For each row of the batch the names that act on it; shared by all doors of a model.

    known: every layer reads row after row; else followed_rows.py looks first, and sets `verified`.
    """

    def __init__(self, rows: Iterable[tuple[str, ...]], known: bool = True) -> None:
        super().__init__(rows)
        self.known = self.verified = known
        self.uniform = (
            len({frozenset(names) for names in self}) == 1
        )  # so nobody need tell them apart
        self.disjoint = all(len(set(names)) < 2 for names in self)  # no row has two names
        self._row_indices: dict[int, dict[str, Tensor]] = {}

    def row_indices(self, size: int) -> dict[str, Tensor | None]:
        """Name -> the rows that are its, in a first dimension of this size; None: all of them."""
        if self.uniform:
            return dict.fromkeys(self[0])
        if not self.verified:
            raise ValueError(
                "route() has not seen how this model's layers lay out their rows: call the model "
                "itself, not a part of it."
            )
        if size not in self._row_indices:
            if size % len(self):
                raise ValueError(
                    f"route() names {len(self)} rows, but a layer got a batch of {size}: "
                    "give one name per row."
                )
            each, indices = size // len(self), {}
            for i, names in enumerate(self):
                for name in dict.fromkeys(names):
                    indices.setdefault(name, []).extend(range(i * each, (i + 1) * each))
            self._row_indices[size] = {name: torch.tensor(rows) for name, rows in indices.items()}
        return self._row_indices[size]


def on(rows: Tensor, old: Tensor, function: Callable, *inputs: Tensor) -> Tensor:
    """`old` with `function(*inputs)` in the given rows."""
    rows = rows.to(old.device)
    return old.index_copy(0, rows, function(*(each[rows] for each in inputs)))
