"""What a merge into half-precision weights loses.

A merge computes W' in fp32 and stores W = round(W'). W0 is the weight that the tuner was trained on
(for a QLoRA: the one that its four bits stand for). The share of the change that is lost is

    ||W - W'|| / ||W' - W0||        Frobenius norms over all weights and biases that it changes

float32 loses 1e-6 or so. bfloat16 keeps 8 bits: of a change that is a hundredth of the weight, a
tenth is lost; of one that is smaller than half of a weight's last digit, everything.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from minipeft.doors.copies import CopyDoor
from minipeft.doors.door import Door, bottom
from minipeft.doors.layers import dtype_of, is_transposed
from minipeft.doors.patch import as_patch
from minipeft.doors.weights import WeightDoor

WORTH_A_WARNING = 0.1  # a share above this is worth a warning


def lost_share(doors: Iterable[Door], name: str) -> float | None:
    """The share of a tuner's change that a merge would round away; None on a base that is not in
    half precision, or where nothing is changed."""
    return share_of(change for door in doors for change in changes(door, name))


@torch.no_grad()
def share_of(changes: Iterable[tuple[Tensor, Tensor, torch.dtype]]) -> float | None:
    """The same for changes (what a parameter was, what it becomes, the dtype it is stored in)."""
    lost = change = 0.0
    for start, goal, dtype in changes:
        if dtype.itemsize < 4:
            lost += float((goal.to(dtype).to(goal) - goal).square().sum())
            change += float((goal - start).square().sum())
    return (lost / change) ** 0.5 if change else None


def changes(door: Door, name: str) -> Iterator[tuple[Tensor, Tensor, torch.dtype]]:
    """(what a parameter was, what it becomes, both in fp32, its dtype) for those of a door."""
    base, patch = bottom(door), door.patches[name]
    if isinstance(door, CopyDoor):
        for old, new in zip(base.parameters(), patch.parameters(), strict=True):
            yield old.float(), new.float(), old.dtype
    elif isinstance(door, WeightDoor) and as_patch(patch).unmergeable() is None:
        patch = as_patch(patch)
        weight, bias = base.weight.float(), base._parameters.get("bias")  # an embedding has none
        bias = None if bias is None else bias.float()
        weight = weight.T if is_transposed(base) else weight  # (out, in)
        new, new_bias = patch.fold(weight, bias)
        yield patch.trained_on(weight), new, base.weight.dtype
        if bias is not None:
            yield bias, new_bias, base.bias.dtype


def warn_of_rounding(tuner) -> None:
    """Warn where a merge that was just made has lost much."""
    if tuner.rounding is not None and tuner.rounding > WORTH_A_WARNING:
        dtypes = [dtype_of(bottom(door)) for door in tuner.doors()]
        dtype = next(dtype for dtype in dtypes if dtype.itemsize < 4)
        warnings.warn(
            f"Merged into weights in {str(dtype).removeprefix('torch.')}, {tuner.name!r} lost "
            f"{tuner.rounding:.0%} of what it had changed to rounding: merge it into a base in "
            "float32, or leave it attached; merge_drift shows what it means for the logits.",
            stacklevel=3,
        )
