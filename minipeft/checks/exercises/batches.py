"""What the checks of the objectives have in common: a batch is a dict of tensors."""

from __future__ import annotations

from torch import Tensor

from minipeft.checks.framework import expect


def tensors_of(batch, *names: str) -> list[Tensor]:
    """The named tensors of a batch, which must be there."""
    expect(isinstance(batch, dict), "the batch should be a dict (is a return missing?)")
    missing = [name for name in names if name not in batch]
    expect(not missing, f"the batch has no {', '.join(missing)}")
    for name in names:
        kind = type(batch[name]).__name__
        expect(isinstance(batch[name], Tensor), f"{name} should be a tensor, not a {kind}")
    return [batch[name] for name in names]
