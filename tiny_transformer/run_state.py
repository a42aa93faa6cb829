"""What the state of a run has in common, whoever trains: random numbers, the optimizer's tensors.

In a file the optimizer's tensors are called `optimizer.<number of the parameter>.<what>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor


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


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that an optimizer remembers from step to step, by name."""
    states = optimizer.state_dict()["state"].items()
    return {f"optimizer.{n}.{key}": value for n, state in states for key, value in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer its memory back; names of other things are passed over."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def first_difference(old: Mapping, new: Mapping) -> str | None:
    """The first key under which two descriptions of a run differ; None where it is the same run."""
    return next((key for key in {**old, **new} if old.get(key) != new.get(key)), None)
