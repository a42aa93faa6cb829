"""Whatever happens inside, the model is the same afterwards, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy
import torch
from torch import nn

from minipeft.contexts import modes_kept, seeded


@contextmanager
def untouched(model: nn.Module) -> Iterator[Callable[[], None]]:
    """A block that may train, merge and switch; gives a function that undoes it at once.

    Kept are weights, buffers, gradients, which tensors require one, train / eval modes and the
    states of all random generators. A second copy of the tensors is held meanwhile.
    """
    parameters = list(dict.fromkeys(model.parameters()))
    modules = [
        (m, dict(m._parameters), dict(m._buffers), dict(m._modules)) for m in model.modules()
    ]
    tensors = {*parameters, *(b for _, _, buffers, _ in modules for b in buffers.values())}
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors if tensor is not None]
    flags = [(p, p.requires_grad, p.grad) for p in parameters]
    plain, ours = random.getstate(), numpy.random.get_state()

    @torch.no_grad()
    def restore() -> None:
        for module, *before in modules:
            for now, then in zip(
                (module._parameters, module._buffers, module._modules), before, strict=True
            ):
                if [(k, id(v)) for k, v in now.items()] != [(k, id(v)) for k, v in then.items()]:
                    now.clear()
                    now.update(then)
        for tensor, value in kept:
            tensor.copy_(value)
        for parameter, flag, _ in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None

    try:
        with modes_kept(model), seeded(0):
            for parameter in parameters:
                parameter.grad = None
            yield restore
    finally:
        restore()
        for parameter, _, gradient in flags:
            parameter.grad = gradient
        random.setstate(plain)
        numpy.random.set_state(ours)
