"""For a block of code: modes kept, eval mode, random numbers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn


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


def seeded(seed: int | None):
    """A block of code with its own random numbers; torch's generator is as before afterwards."""
    if seed is None:
        return nullcontext()

    @contextmanager
    def block() -> Iterator[None]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield

    return block()
