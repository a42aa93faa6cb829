"""What a run trains, and the optimizer that does it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from minipeft.attaching.in_training import active, back_up_frozen, in_training, tuners
from minipeft.training.precision import Precision


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter that `train` would change: they require a gradient and are not disabled."""
    idle = [t for t in tuners(model).values() if t not in active(model)]
    resting = {parameter for tuner in idle for parameter in tuner.parameters()}
    requiring = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter not in resting
    }
    if not requiring:
        names = ", ".join(t.name for t in idle)
        raise ValueError(
            "Nothing in this model is trainable: "
            + (f"enable or unmerge {names}." if idle else "attach a method first.")
        )
    back_up_frozen(model, set(requiring.values()), stacklevel=4)
    return requiring


def adamw(
    model: nn.Module,
    precision: Precision,
    rate: float,
    betas,
    weight_decay: float,
    head_factor: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over what is trained; its groups have a "factor" of the rate, 1 for most.

    head_factor: that of task heads.
    """
    groups = precision.groups(by_factor(model, precision.trained, head_factor))
    return torch.optim.AdamW(groups, rate, betas, weight_decay=weight_decay)


def by_factor(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], head_factor: float = 1.0
) -> list[dict]:
    """The optimizer's groups: parameters that learn at the same multiple of the rate together."""
    factors: dict[nn.Parameter, float] = {}
    for tuner in in_training(model):
        factors |= dict.fromkeys(head_parameters(tuner), head_factor)
        factors |= tuner.method.learning_rates(tuner)
    groups: dict[float, list] = {}
    for parameter in parameters.values():
        groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return [{"params": group, "factor": factor} for factor, group in groups.items()]


def head_parameters(tuner) -> list[nn.Parameter]:
    """What the tuner trains of task heads: its copies of them, or they themselves."""
    paths = tuple(tuner.anatomy.heads())
    inside = [p for p in tuner.copies if p in paths or p.startswith(tuple(f"{h}." for h in paths))]
    modules = [tuner.copies[path] for path in inside]
    modules += [tuner.anatomy.modules[path] for path in paths]
    return [parameter for module in modules for parameter in module.parameters()]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """This rate for every group, times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
