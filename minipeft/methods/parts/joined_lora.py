"""LoRA on several parts of one fused map, in one operation (lora.py has the equation).

    h = W0 x, and in the columns of part i:  + scale_i B_i A_i x                 (eq. 3 of LoRA)

    [A_1; A_2; ..] (R, in), one product for all: x (N, T, in) -> (N, T, R), cut into parts again
    columns side by side (GPT-2)        B_i A_i x (N, T, out of i), each added where it belongs
    columns here and there (GPT-NeoX)   [B_1, B_2, ..] as blocks of one (out, R), zero elsewhere:
                                        zeros cost less there than gathering columns of y, as
                                        long as R is at most LARGEST_BLOCK

What is trained and stored are the A and B of every LoRAPatch, as without it.

Shapes: N rows, T tokens, r_i the rank of part i, R their sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from minipeft.doors.fused import Parts
from minipeft.doors.grouping import JOINED
from minipeft.methods.lora import LoRAPatch

LARGEST_BLOCK = 128  # measured: a product with 200 columns takes as long as gathering does


class AddedInColumns(torch.autograd.Function):
    """y (N, T, out) and, in the columns of each span, its detour (N, T, last - first) added.

    As cutting y up, adding and putting it together again, but that y's gradient is the answer's and
    is not put together as well.
    """

    @staticmethod
    def forward(ctx, y: Tensor, spans: list[tuple[int, int]], *detours: Tensor) -> Tensor:
        ctx.spans, ctx.dtypes = spans, [detour.dtype for detour in detours]
        h, end = torch.empty_like(y), 0
        for (first, last), detour in zip(spans, detours, strict=True):  # in order of the columns
            h[..., end:first] = y[..., end:first]
            torch.add(y[..., first:last], detour, out=h[..., first:last])
            end = last
        h[..., end:] = y[..., end:]
        return h

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.spans, ctx.dtypes, strict=True)
        parts = [gradient[..., first:last].to(dtype) for (first, last), dtype in pairs]
        return gradient, None, *parts


class JoinedLoRA:
    """See grouping.py."""

    @staticmethod
    def can_join(patches: Sequence[LoRAPatch]) -> bool:
        """Have these one dtype? Ranks, scales and dropout may differ."""
        return len({patch.A.dtype for patch in patches}) == 1

    @staticmethod
    def forward_joined(parts: Parts, x: Tensor, y: Tensor) -> Tensor:
        """x (N, T, in), y = W0 x (N, T, out) -> h (N, T, out), in the dtype of y."""
        patches = {part: parts.parts[part] for part in parts.order()}
        low = dict(zip(patches, scaled_A_x([*patches.values()], x), strict=True))
        R = sum(len(patch.A) for patch in patches.values())
        if parts.is_scattered() and R <= LARGEST_BLOCK:
            B = torch.block_diag(*(patch.B for patch in patches.values()))  # (out of all parts, R)
            columns = torch.cat([parts.columns(part) for part in patches])
            B = B.new_zeros(parts.out_features, R).index_copy(0, columns, B)  # (out, R)
            return (y + F.linear(torch.cat([*low.values()], dim=-1), B)).to(y.dtype)

        def add(part: str, y_part: Tensor) -> Tensor:
            return (y_part + F.linear(low[part], patches[part].B)).to(y.dtype)

        if parts.is_scattered() or torch.compiler.is_compiling() or in_torch_func():
            return parts.each(y, add)
        spans = [parts.spans[part] for part in patches]
        detours = [F.linear(low[part], patches[part].B) for part in patches]
        return AddedInColumns.apply(y, spans, *detours)


def in_torch_func() -> bool:
    """Are we inside one of torch.func's transforms, which know no function of our own?"""
    return torch._C._are_functorch_transforms_active()


def scaled_A_x(patches: Sequence[LoRAPatch], x: Tensor) -> list[Tensor]:
    """scale_i A_i x of each patch, (N, T, r_i), where nothing is dropped in one product."""
    x = x.to(patches[0].A.dtype)
    inputs = [patch.dropout(x) for patch in patches]  # x itself where nothing is dropped
    if all(each is x for each in inputs):
        ranks = [len(patch.A) for patch in patches]
        low = F.linear(x, torch.cat([patch.A for patch in patches]))  # (N, T, R)
        if len({patch.scale for patch in patches}) == 1:
            return [*(patches[0].scale * low).split(ranks, dim=-1)]
        low = low.split(ranks, dim=-1)
    else:
        low = [F.linear(each, patch.A) for patch, each in zip(patches, inputs, strict=True)]
    return [patch.scale * A_x for patch, A_x in zip(patches, low, strict=True)]


JOINED[LoRAPatch] = JoinedLoRA  # LoRAPatch alone: its subclasses compute something else
