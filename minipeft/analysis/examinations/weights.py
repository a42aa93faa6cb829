"""What a merge would make of the weights: those that are shared, those in half precision, drift."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from minipeft.analysis.examinations.census import census
from minipeft.analysis.examinations.subject import Finding, Subject, first_and_more
from minipeft.analysis.examinations.visit import LeftOut, Visit, noise
from minipeft.doors.rounding import WORTH_A_WARNING, share_of

SMALL = 100  # steps of a warm-up, or at a schedule's end, are so much smaller than the highest rate
LOST = 0.1  # share of numbers that do not move


def tied(visit: Visit) -> Iterator[Finding]:
    """A new tensor at one of several places that share a matrix: a merge changes them all."""
    subject = visit.subject
    uses: dict[int, list[str]] = {}  # of a parameter -> where it is used
    for path, module in subject.modules().items():
        for parameter in module._parameters.values():
            if parameter is not None:
                uses.setdefault(id(parameter), []).append(path)
    covered = {id(host) for host in subject.hosts}
    modules = subject.modules()
    for part in subject.parts:
        weight = getattr(part.host, "_parameters", {}).get("weight")
        others = [p for p in uses.get(id(weight), []) if modules[p] is not part.host]
        others = [path for path in others if id(modules[path]) not in covered]
        if not others or not part.in_weight:
            continue
        if part.copy:
            yield Finding(
                "tied weights",
                part.path,
                f"{part.path} trains a copy of a matrix that is tied to {others[0]}: once it is "
                "merged the two differ, and whoever ties them again, as the config says, loses the "
                "copy; set config.tie_word_embeddings=False, or ensure_weight_tying=True.",
            )
        else:
            yield Finding(
                "tied weights",
                part.path,
                f"The weight of {part.path} is tied to {others[0]}, which a merge would change "
                "too: untie them first, do not merge, or choose another target.",
            )


@torch.no_grad()
def precision(visit: Visit) -> Iterator[Finding]:
    """Tensors in training whose dtype rounds small steps away."""
    subject = visit.subject
    if not subject.trains():
        raise LeftOut("nothing is trained: all that was added is frozen, as for answering")
    names = dict(subject.new)
    names |= {name: p for name, p in subject.base.items() if p in subject.in_place}
    half = {n: p for n, p in names.items() if p.requires_grad and p.dtype.itemsize < 4}
    small = visit.rate / SMALL
    lost = {n: int((p + small == p).sum()) for n, p in half.items() if p.is_floating_point()}
    every = sum(half[name].numel() for name in lost)
    if lost and sum(lost.values()) > LOST * every:
        worst = max(lost, key=lambda name: lost[name] / half[name].numel())
        dtype = str(half[worst].dtype).removeprefix("torch.")
        order = [worst, *(name for name in lost if name != worst)]
        yield Finding(
            "precision",
            worst,
            f"{first_and_more(order)} of what is trained stand in {dtype}, where a step of "
            f"{small:.0e} leaves {sum(lost.values()) / every:.0%} of the numbers as they were: "
            f"{subject.advice['float32']}.",
        )


def merge(visit: Visit) -> Iterator[Finding]:
    """Does the model answer the same once it is merged?

    In half precision the change of the weights is looked at, as it is now. In float32 the answers
    are, after two steps, so that there is a change.
    """
    visit.check_passes()
    subject = visit.subject
    if shares(subject):
        raise LeftOut("see tied weights")
    try:
        share = share_of(subject.changes())
    except ValueError as error:
        raise LeftOut(f"not mergeable ({short(error)})") from None
    if share is not None and share > WORTH_A_WARNING:
        yield Finding(
            "merge",
            "weights",
            f"A merge into the base's half precision would lose {share:.0%} of what was trained to "
            "rounding: merge into a base in float32, or leave it attached.",
        )
        return
    if any(p.dtype.itemsize < 4 for p in subject.base.values() if p.is_floating_point()):
        return
    drift, effect, size = measured(visit)
    limit = max(0.1 * effect, 10 * noise(torch.float32) * size)
    if drift > limit:
        yield Finding(
            "merge",
            "logits",
            f"Merged, the model answers otherwise: logits move by up to {drift:.2g}, and what was "
            f"trained moves them by {effect:.2g}; leave it attached, or look for layers that share "
            "weights or are replaced in a merge.",
        )


def shares(subject: Subject) -> bool:
    """Has a weight that a merge would change another use?"""
    hosts = {id(part.host) for part in subject.parts if part.in_weight and not part.copy}
    weights = [
        id(module._parameters.get("weight"))
        for module in subject.modules().values()
        if module._parameters.get("weight") is not None
    ]
    return any(
        weights.count(id(module._parameters.get("weight"))) > 1
        for module in subject.modules().values()
        if id(module) in hosts
    )


def measured(visit: Visit) -> tuple[float, float, float]:
    """(drift, effect, size): the largest change of a logit by merging, by the tuner; the largest.

    Raises:
        LeftOut: the method cannot be merged.
    """
    subject = visit.subject
    try:
        if visit.asks and subject.trains():
            census(subject, visit.batch, visit.rate, training=False)
        attached, alone = visit.logits(), visit.untuned()
        try:
            with subject.merged():
                merged = visit.logits()
        except ValueError as error:
            raise LeftOut(f"not mergeable ({short(error)})") from None
    finally:
        visit.restore()
    drift, size = float((merged - attached).abs().max()), float(attached.abs().max())
    effect = float((attached - alone).abs().max()) if attached.shape == alone.shape else size
    return drift, effect, size


def short(error: Exception) -> str:
    return str(error).partition(": ")[2].partition(", ")[0].rstrip(".") or str(error)
