"""The gradient census: two steps, and what each tensor got.

The steps are those that AdamW begins with, rate x sign(gradient), made by hand: no optimizer's
hooks hear of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from minipeft.analysis.examinations.subject import Subject
from minipeft.contexts import modes_kept
from minipeft.training.precision import FIRST_SCALE


@dataclass(eq=False)
class Census:
    """What two steps have result.

    reached: tensors that a gradient came to, of whatever size.  moved: those whose gradient was not
    all zero.  base: names of base parameters that one came to.  losses: of the steps.  cut: did
    torch warn of a checkpoint whose inputs require no gradient?  buffers: names of buffers of the
    base that the passes changed.
    """

    reached: set[Tensor] = field(default_factory=set)
    moved: set[Tensor] = field(default_factory=set)
    base: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    cut: bool = False
    buffers: list[str] = field(default_factory=list)


def census(subject: Subject, batch: Mapping, rate: float, training: bool, steps: int = 2) -> Census:
    """Make two steps; the model has other values afterwards."""
    model, result = subject.model, Census()
    trained = [p for p in {*subject.new.values(), *subject.in_place} if p.requires_grad]
    half = any(p.dtype == torch.float16 for p in model.parameters())
    scale = FIRST_SCALE if half else 1.0  # as in training: small gradients are zero in float16
    names = {parameter: name for name, parameter in subject.base.items()}
    before = buffers_of(subject)
    with modes_kept(model), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if not training:
            model.eval()
        else:
            model.train()
        for _ in range(steps):
            for parameter in model.parameters():
                parameter.grad = None
            loss = loss_of(model, batch)
            result.losses.append(float(loss.detach()))
            if not loss.requires_grad:
                break
            (scale * loss).backward()
            for parameter in trained:
                if parameter.grad is not None:
                    result.reached.add(parameter)
                    if bool(parameter.grad.count_nonzero()):
                        result.moved.add(parameter)
            strange = [p for p in names if p.grad is not None and p not in subject.in_place]
            result.base = [names[p] for p in strange]
            step(trained, rate)
    result.cut = any("None of the inputs have requires_grad" in str(w.message) for w in said)
    after = buffers_of(subject)
    result.buffers = [n for n, value in before.items() if not torch.equal(value, after[n])]
    return result


def part_of(output, name: str) -> Tensor:
    """The loss or the logits of a pass.

    Raises:
        ValueError: the model does not give them.
    """
    if not hasattr(output, name):
        raise ValueError(
            f"The doctor needs a model that gives a loss and logits, and this one gives no {name}: "
            "load it with the head that it is trained with."
        )
    return getattr(output, name)


def loss_of(model: nn.Module, batch: Mapping) -> Tensor:
    """The loss of a pass as it is called by anybody, without the savings of `train`."""
    loss = part_of(model(**batch), "loss")
    if loss is None:
        raise ValueError(
            "The doctor needs a batch with labels: the model gives no loss for this one; add "
            "labels, with -100 where nothing is asked."
        )
    return loss


@torch.no_grad()
def step(parameters: list[nn.Parameter], rate: float) -> None:
    """The first step of AdamW: every number moves by the rate, against its gradient's sign."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter -= rate * parameter.grad.sign()


def buffers_of(subject: Subject) -> dict[str, Tensor]:
    """Copies of the buffers of the base that belong to a state."""
    return {
        f"{path}.{key}" if path else key: buffer.clone()
        for path, module in subject.modules().items()
        for key, buffer in module._buffers.items()
        if buffer is not None and key not in module._non_persistent_buffers_set
    }
