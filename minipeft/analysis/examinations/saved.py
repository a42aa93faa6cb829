"""Is what training changes what a file keeps? The head first of all."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minipeft.analysis.examinations.subject import Finding, first_and_more
from minipeft.analysis.examinations.visit import Visit
from minipeft.model.anatomy import Anatomy
from minipeft.model.families import TASK_HEADS


def head(visit: Visit) -> Iterator[Finding]:
    """A task head that is trained and not saved, or neither, with the numbers it was drawn with."""
    subject = visit.subject
    for name in subject.unmatched_copies:
        yield Finding(
            "head",
            name,
            f"modules_to_save names {name!r}, which is no module of this model, so that nothing of "
            "it is trained or saved: check the spelling.",
        )
    for path in heads(visit):
        inside = {n: p for n, p in subject.base.items() if f".{plain(n)}".find(f".{path}.") >= 0}
        lost = [n for n, p in inside.items() if p.requires_grad and p not in subject.stored]
        name = path.split(".")[-1]
        advice = subject.advice["copy"].format(path=path, name=name)
        if lost:
            yield Finding(
                "head",
                lost[0],
                f"{first_and_more(lost)} would be trained with the adapter and not saved with "
                f"it, so that the file meets another head: {advice}.",
            )
        elif not has_copy(visit, path) and not any(p.requires_grad for p in inside.values()):
            drawn = [n for n, p in inside.items() if p.dim() > 1 and looks_drawn(visit, inside, n)]
            if drawn and subject.trains():
                yield Finding(
                    "head",
                    drawn[-1],
                    f"{drawn[-1]} is frozen and still looks as it was drawn at random, so that it "
                    f"is neither trained nor saved, and the next process draws another: {advice}.",
                )


def base(visit: Visit) -> Iterator[Finding]:
    """Parameters of the base that an optimizer would move, and buffers that passes change."""
    subject = visit.subject
    of_heads = tuple(f".{path}." for path in heads(visit))
    moving = [
        name
        for name, parameter in subject.base.items()
        if parameter.requires_grad
        and parameter not in subject.in_place
        and not any(end in f".{plain(name)}" for end in of_heads)
    ]
    if moving:
        yield Finding(
            "base",
            moving[0],
            f"{first_and_more(moving)}, parameters of the base, require a gradient: an optimizer "
            "over the model moves them, and what is saved does not hold them; call "
            "requires_grad_(False) on them.",
        )
    if visit.why_unreached or not visit.asks or not subject.trains():
        return
    changed = visit.training.buffers
    if changed:
        yield Finding(
            "base",
            changed[0],
            f"Passes in train mode change {first_and_more(changed)}, buffers of the base that are "
            "not saved with what is trained: put these layers into eval mode after model.train().",
        )


def plain(name: str) -> str:
    """A parameter's name without what PEFT puts into it."""
    for part in ("original_module.", "base_layer."):
        name = name.replace(part, "")
    return name


def heads(visit: Visit) -> list[str]:
    """Paths of the task heads in the model inside."""
    inner = visit.subject.inner
    if inner is visit.subject.model:
        return Anatomy(inner).heads()
    return [name for name in TASK_HEADS if name in dict(inner.named_modules())]


def has_copy(visit: Visit, path: str) -> bool:
    """Is a part of this head trained?"""
    return any(f".{part.path}.".find(f".{path}.") >= 0 for part in visit.subject.parts)


@torch.no_grad()
def looks_drawn(visit: Visit, inside: dict[str, nn.Parameter], name: str) -> bool:
    """Has a matrix the mean and the deviation that it was drawn with, and is its bias still 0?

    A head that was trained has a bias that is not 0; one without a bias is judged by its deviation.
    """
    weight, bias = inside[name].float(), inside.get(f"{name.removesuffix('weight')}bias")
    if bias is not None and bool(bias.count_nonzero()):
        return False
    n = weight.numel()
    return any(
        abs(float(weight.std()) / sigma - 1) < 4 / math.sqrt(2 * n)
        and abs(float(weight.mean())) < 4 * sigma / math.sqrt(n)
        for sigma in deviations(visit, weight)
    )


def deviations(visit: Visit, weight: Tensor) -> list[float]:
    """The deviations that libraries draw heads with."""
    config = getattr(visit.subject.inner, "config", None)
    named = [getattr(config, key, None) for key in ("initializer_range", "init_std")]
    factor = getattr(config, "initializer_factor", None)
    if isinstance(factor, int | float):
        named.append(factor * weight.shape[1] ** -0.5)
    return [float(sigma) for sigma in named if isinstance(sigma, int | float) and sigma > 0]
