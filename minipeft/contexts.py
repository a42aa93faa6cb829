"""For a block of code: modes kept, eval mode, random numbers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from tiny_transformer.run_state import seeded

__all__ = ["evaluating", "modes_kept", "seeded"]


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, every module has its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode."""
    with modes_kept(model):
        model.eval()
        yield
