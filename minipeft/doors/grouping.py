"""Patches of one kind, each on rows of its own, in one operation instead of one after the other.

Which kinds can is written down where the operation stands (methods/parts/grouped_lora.py); what a
method's patch says of itself stays plain. Nothing but time depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn


class Grouped(Protocol):
    """How S patches of one kind are computed together."""

    @staticmethod
    def can_group(patches: Sequence[nn.Module]) -> bool:
        """Are these so equal that one operation computes all of them?"""

    @staticmethod
    def forward_grouped(patches: Sequence[nn.Module], x: Tensor, y: Tensor) -> Tensor:
        """Each on its own S-th of the rows: x (S, n, T, in), y (S, n, T, out) -> as y."""


GROUPED: dict[type[nn.Module], type[Grouped]] = {}  # kind of a patch, exactly -> how


def grouped(patches: Sequence[nn.Module]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The operation (x, y) -> y that computes these patches together; None where there is none."""
    kind = type(patches[0])
    how = GROUPED.get(kind)
    if how is None or any(type(patch) is not kind for patch in patches):
        return None
    if not how.can_group(patches):
        return None
    return lambda x, y: how.forward_grouped(patches, x, y)
