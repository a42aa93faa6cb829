"""Patches of one kind in one operation instead of one after the other.

    grouped    each on rows of its own: tuners under `route`
    joined     each on output features of its own: the parts of a fused map

Which kinds can is written down where the operation stands (methods/parts/grouped_lora.py and
joined_lora.py); what a method's patch says of itself stays plain. Nothing but time depends on it.
A patch that somebody watches by a hook is called by itself, so that the hook is called.
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


class Joined(Protocol):
    """How patches of one kind on parts of one fused map are computed together."""

    @staticmethod
    def can_join(patches: Sequence[nn.Module]) -> bool:
        """Can one operation compute these?"""

    @staticmethod
    def forward_joined(parts: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """All patches of a `Parts` (fused.py): x (B, T, in), y (B, T, out) -> as y."""


GROUPED: dict[type[nn.Module], type[Grouped]] = {}  # kind of a patch, exactly -> how
JOINED: dict[type[nn.Module], type[Joined]] = {}


def grouped(patches: Sequence[nn.Module]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The operation (x, y) -> y that computes these patches together; None where there is none."""
    how = GROUPED.get(type(patches[0]))
    if how is None or not are_alike(patches) or not how.can_group(patches):
        return None
    return lambda x, y: how.forward_grouped(patches, x, y)


def joined(parts: nn.Module) -> Callable[[Tensor, Tensor], Tensor] | None:
    """As `grouped`, for the patches of a `Parts`."""
    patches = [*parts.parts.values()]
    how = JOINED.get(type(patches[0]))
    if how is None or not are_alike(patches) or not how.can_join(patches):
        return None
    return lambda x, y: how.forward_joined(parts, x, y)


def are_alike(patches: Sequence[nn.Module]) -> bool:
    """Are all of one kind, and is nobody waiting for one of them to be called?"""
    kind = type(patches[0])
    return all(type(patch) is kind and not is_watched(patch) for patch in patches)


def is_watched(module: nn.Module) -> bool:
    """Has it hooks, or a forward of its own?"""
    hooks = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    return any(hooks) or "forward" in vars(module)
