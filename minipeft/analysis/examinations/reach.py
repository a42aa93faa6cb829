"""Does a pass reach what was added, and does a gradient come to it by the second step?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from minipeft.analysis.examinations.subject import Finding, Part, first_and_more
from minipeft.analysis.examinations.visit import Visit

UNREACHED = ("was not reached", "was passed by")  # what minipeft.passes.reach says


def passes(visit: Visit) -> Iterator[Finding]:
    """A model of minipeft looks by itself whether a pass reaches its tuners, and says where not."""
    try:
        _ = visit.tuned
    except ValueError as error:
        sentence = str(error)
        if not any(words in sentence for words in UNREACHED):
            raise
        visit.why_unreached = sentence
        yield Finding("reach", sentence.partition("'")[2].partition("'")[0], sentence)


def gradients(visit: Visit) -> Iterator[Finding]:
    """Every new tensor, by its place: frozen, never called, cut off, or 0 in both steps."""
    visit.check_training()
    subject, census = visit.subject, visit.training
    if any(loss != loss or abs(loss) == float("inf") for loss in census.losses):
        yield Finding(
            "loss",
            "loss",
            f"The loss of this batch is {census.losses[0]:g}, then {census.losses[-1]:g}: look for "
            "numbers that are too large for the dtype, and for rows without labels.",
        )
        return
    yield from frozen(subject.parts)
    missed = [p for p in subject.parts if not trained(p) & census.reached and trained(p)]
    some = [p for p in subject.parts if trained(p) & census.reached]
    if missed:
        yield from missing(visit, missed)
    yield from at_zero(visit, some)
    if subject.in_place and not census.reached & subject.in_place and not missed:
        names = [name for name, p in subject.base.items() if p in subject.in_place]
        yield Finding(
            "reach",
            names[0],
            f"No gradient comes to {first_and_more(names)}, parameters of the base that are to be "
            "trained in place: nothing of what they give reaches the loss.",
        )


def trained(part: Part) -> set:
    return {tensor for tensor in part.tensors.values() if tensor.requires_grad}


def paths(parts: list[Part]) -> str:
    return first_and_more([part.path for part in parts])


def frozen(parts: list[Part]) -> Iterator[Finding]:
    """Tensors of an adapter that require no gradient while others of it do."""
    names = [
        f"{part.path}.{name}"
        for part in parts
        for name, tensor in part.tensors.items()
        if not tensor.requires_grad and tensor.is_floating_point()
    ]
    if names:
        yield Finding(
            "frozen",
            names[0],
            f"{first_and_more(names)} of the new tensors require no gradient and stay as they are: "
            "call requires_grad_(True) on them before the optimizer is made.",
        )


def missing(visit: Visit, parts: list[Part]) -> Iterator[Finding]:
    """Places where no tensor got a gradient in train mode: why not?"""
    subject, plain = visit.subject, visit.plain
    checkpointed = [p for p in parts if trained(p) & plain.reached]  # they get one in eval mode
    cut = visit.training.cut
    if (checkpointed and (cut or checkpoints(subject.model))) or (cut and plain.cut):
        lost = checkpointed or parts
        advice = subject.advice["reentrant"].format()
        yield Finding(
            "checkpointing",
            lost[0].path,
            f"Checkpointing kills the gradients of {paths(lost)} ({len(lost)} of "
            f"{len(subject.parts)} places): a reentrant checkpoint gives none where its inputs "
            f"require none, as those of a frozen base do; {advice}.",
        )
        return
    parts = [p for p in parts if p not in checkpointed]  # by chance, as LayerDrop does
    called = calls(visit)
    parts = [p for p in parts if p.path in called or not by_choice(p)]
    silent = [p for p in parts if p.path not in called]
    unused = [p for p in parts if p.path in called]
    if silent:
        yield Finding(
            "reach",
            silent[0].path,
            f"No pass reaches {paths(silent)} ({len(silent)} of {len(subject.parts)} places): the "
            "model never calls the layer there, or reads its weight without calling it; target "
            "layers that the model calls.",
        )
    if unused:
        yield Finding(
            "reach",
            unused[0].path,
            f"No gradient comes to {paths(unused)} ({len(unused)} of {len(subject.parts)} places), "
            "although the model calls what stands there: its result is not used, or detach() or "
            "torch.no_grad() stands behind it; take these places out, or that away.",
        )


def by_choice(part: Part) -> bool:
    """Is it such as a model leaves out by its input? An expert that got no token."""
    return "expert" in part.path


def checkpoints(model: nn.Module) -> bool:
    """Is gradient checkpointing switched on anywhere?"""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def calls(visit: Visit) -> set[str]:
    """Paths of the places whose layer is called by a pass in eval mode."""
    called, handles = {part.path for part in visit.subject.parts if part.host is None}, []
    for part in visit.subject.parts:
        if part.host is not None:
            note = lambda *_, path=part.path: called.add(path)  # noqa: E731
            handles.append(part.host.register_forward_pre_hook(note))
            door = visit.subject.standing(part.path)
            if door is not None:
                handles.append(door.register_forward_pre_hook(note))
    try:
        visit.logits()
    finally:
        for handle in handles:
            handle.remove()
    return called


@torch.no_grad()
def at_zero(visit: Visit, parts: list[Part]) -> Iterator[Finding]:
    """Places where a tensor got a gradient of exactly 0 in both steps: which factor is 0?"""
    moved = visit.training.moved
    still: dict[str, list[tuple[Part, list[str]]]] = {}
    for part in parts:
        names = [n for n, t in part.tensors.items() if t.requires_grad and t not in moved]
        if not names or by_choice(part) or isinstance(part.host, nn.Embedding):
            continue
        zero = [name for name in names if not bool(part.tensors[name].count_nonzero())]
        why = "scale" if part.scale == 0 else "both" if len(zero) > 1 else "dead"
        still.setdefault(why, []).append((part, zero if why == "both" else names))
    reasons = {
        "scale": "its scale is 0, so that it neither does nor learns anything: give it an alpha "
        "above 0",
        "both": "both are 0, and the gradient of each is a product with the other, so that neither "
        "ever moves: start the first of them from random numbers",
        "dead": "its gradient is exactly 0 in both steps, so that it does not learn: look for a "
        "factor of 0 or an activation that is always off behind it",
    }
    for why, reason in reasons.items():
        if why in still:
            part, names = still[why][0]
            tensors = " and ".join(names[:3])
            others = len(still[why]) - 1
            where = f"{part.path}" + (f" (and at {others:,} more places)" if others else "")
            yield Finding(
                "zero start" if why == "both" else "gradients",
                f"{part.path}.{names[0]}",
                f"Nothing comes to {tensors} at {where}: {reason}.",
            )
