"""LoRA of several runs, each on rows of its own, in one operation (lora.py has the equation).

    h_s = W0 x_s + scale_s B_s A_s x_s          s = 1 .. S          (eq. 3 of LoRA, S times)

    x (S, N, in) -> A_s x_s (S, N, r) -> B_s A_s x_s (S, N, out)

The weights door takes it for LoRAs of one shape under `route`; in a sweep (training/sweep.py) it is
a patch with parameters of its own, for runs of any rank.

Shapes: S groups of rows, N numbers of rows times tokens in each, r the largest rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.grouping import GROUPED
from minipeft.doors.patch import Patch
from minipeft.methods.lora import LoRAPatch


def detours(x: Tensor, A: Tensor, B: Tensor, scale: Tensor | float) -> Tensor:
    """x (S, N, in), A (S, r, in), B (S, out, r), scale a number or (S, 1, 1) -> (S, N, out)."""
    return scale * (x.to(A.dtype) @ A.mT) @ B.mT


class GroupedLoRA(Patch):
    """LoRA of some of S runs beside one linear map: A (s, r, in), B (s, out, r), a slice per run.

    Smaller ranks are filled up with zeros. These stay zero: a zero row of A and the zero column of
    B beside it give each other no gradient.

    Args:
        patches: number of the run -> its LoRAPatch, whose first values are taken.
        runs: S, how many runs share the batch; those without a patch leave y as it is.
    """

    def __init__(self, patches: dict[int, LoRAPatch], runs: int) -> None:
        super().__init__()
        r = max(len(patch.A) for patch in patches.values())
        rows = [F.pad(p.A.detach(), (0, 0, 0, r - len(p.A))) for p in patches.values()]
        columns = [F.pad(p.B.detach(), (0, r - len(p.A))) for p in patches.values()]
        self.A = nn.Parameter(torch.stack(rows))  # (s, r, in)
        self.B = nn.Parameter(torch.stack(columns))  # (s, out, r)
        scale = torch.tensor([p.scale for p in patches.values()], dtype=torch.float64)
        self.register_buffer("scale", scale[:, None, None])  # (s, 1, 1)
        self.register_buffer("who", torch.tensor(list(patches)))  # (s,) numbers of the runs
        self.runs = runs

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (S B, T, in), y (S B, T, out) -> y plus each run's own detour, in the dtype of y."""
        rows = x.reshape(self.runs, -1, x.shape[-1])  # (S, N, in)
        rows = rows if len(self.who) == self.runs else rows[self.who]  # (s, N, in)
        detour = detours(rows, self.A, self.B, self.scale.to(self.A.dtype))  # (s, N, out)
        flat = y.reshape(self.runs, -1, y.shape[-1]).to(self.A.dtype)  # (S, N, out)
        return flat.index_add(0, self.who, detour).reshape(y.shape).to(y.dtype)

    def deltas(self) -> Tensor:
        """scale B A of every run: (s, out, in)."""
        return self.scale.to(self.A.dtype) * (self.B @ self.A)

    @staticmethod
    def can_group(patches: Sequence[LoRAPatch]) -> bool:
        """Have these one shape, one scale, and no dropout, which each would draw for itself?"""
        if any(patch.training and patch.dropout.p for patch in patches):
            return False
        return len({(p.A.shape, p.B.shape, p.scale, p.A.dtype) for p in patches}) == 1

    @staticmethod
    def forward_grouped(patches: Sequence[LoRAPatch], x: Tensor, y: Tensor) -> Tensor:
        """Each LoRAPatch on its own S-th: x (S, n, T, in), y (S, n, T, out) -> as y."""
        A = torch.stack([patch.A for patch in patches])  # (S, r, in)
        B = torch.stack([patch.B for patch in patches])  # (S, out, r)
        detour = detours(x.flatten(1, -2), A, B, patches[0].scale)  # (S, N, out)
        return (y + detour.reshape(y.shape)).to(y.dtype)


GROUPED[LoRAPatch] = GroupedLoRA  # LoRAPatch alone: its subclasses compute something else
