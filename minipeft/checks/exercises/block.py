"""The block: two or three sublayers, each of which adds to the stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.checks.exercises.block_mistakes import MISTAKES
from minipeft.checks.framework import DROPOUT, OMIT, Case, Check, Draw, Trial, call
from tiny_transformer.config import TransformerConfig


class StandIn(nn.Module):
    """Stands in for a sublayer: a linear map, to whose answer every argument adds its own vector.

    The block is judged by its own work, whether or not the learner's attention is written.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map, self.of_context = (nn.Parameter(torch.zeros(width, width)) for _ in range(2))
        self.of_mask, self.of_causal, self.of_cache = (
            nn.Parameter(torch.zeros(width)) for _ in range(3)
        )

    def forward(self, x, context=None, mask=None, causal=False, cache=None) -> Tensor:
        y = F.linear(x, self.map)
        if context is not None:
            y = y + F.linear(context.mean(1, keepdim=True), self.of_context)  # (B, 1, C)
        if mask is not None:
            y = y + self.of_mask * mask.mean(dim=(1, 2, 3))[:, None, None].to(x.dtype)
        if causal:
            y = y + self.of_causal
        if cache is not None:
            cache["calls"] = cache.get("calls", 0) + 1
            y = y + cache["calls"] * self.of_cache
        return y


def build(Block: type, case: Case) -> nn.Module:
    """Block(config, cross), in training or not."""
    config = TransformerConfig(
        vocab_size=8, width=case.width, layers=1, heads=1, norm=case.norm, dropout=case.dropout
    )
    block = call(Block, config, cross=case.cross)
    return block.train() if case.training else block.eval()


def prepare(block: nn.Module, case: Case) -> None:
    for name in ("attention", "feed_forward", "cross_attention"):
        if isinstance(getattr(block, name, None), nn.Module):
            setattr(block, name, StandIn(case.width))
    block.train(case.training)


def inputs(case: Case, draw: Draw) -> dict:
    """x (B, T, C), context (B, S, C), masks, a cache."""
    B, T, C = case.B, case.T, case.width
    given = {"x": draw.normal(B, T, C)}
    for name, shape in (
        ("mask", (B, 1, 1, T)),
        ("context", (B, 3, C)),
        ("context_mask", (B, 1, 1, 3)),
    ):
        given[name] = draw.normal(*shape) if case[name] == "given" else case[name]
    given["cache"] = {} if case.cache == "new" else case.cache
    return given


def run(block, case: Case, given) -> list[Tensor]:
    """Two steps with the same arguments, one cache."""
    return [
        call(
            block,
            given.x,
            mask=given.mask,
            causal=case.causal,
            context=given.context,
            context_mask=given.context_mask,
            cache=given.cache,
        )
        for _ in range(1 + (case.cache == "new"))
    ]


def possible(case: Case) -> bool:
    """Only a block with cross-attention reads a context, and only a context has a mask."""
    reads = case.context == "given"
    if case.training and case.dropout not in (0.0, OMIT):
        return False
    return (not reads or case.cross is True) and (reads or case.context_mask in (OMIT, None))


block = Check(
    "block",
    "tiny_transformer.layers:Block",
    "pre-norm and post-norm residuals, masks and cache handed on, cross-attention, dropout",
    [
        Trial(
            "the output",
            inputs,
            run,
            build=build,
            prepare=prepare,
            axes={
                "norm": ("pre", "post"),
                "cross": (OMIT, False, True),
                "context": (OMIT, None, "given"),
                "mask": (OMIT, None, "given"),
                "causal": (OMIT, False, True),
                "context_mask": (OMIT, None, "given"),
                "cache": (OMIT, None, "new"),
                "dropout": (0.0, 0.5),
                "training": (False, True),
                "B": (2, 1),
                "T": (5, 1),
                "width": (4, 3),
            },
            valid=possible,
            names={"[0]": "the output", "[1]": "the output of a second step"},
            scratch=("cache",),
            draws=True,
        ),
        Trial(
            "the output in training",
            inputs,
            run,
            build=build,
            prepare=prepare,
            axes={
                "dropout": (0.5, 0.1, 0.0),
                "norm": ("pre", "post"),
                "cross": (OMIT, True),
                "context": (OMIT, "given"),
                "T": (1, 2),
                "B": (1,),
                "width": (2, 3),
                "mask": (OMIT,),
                "causal": (OMIT,),
                "context_mask": (OMIT,),
                "cache": (OMIT,),
                "training": (True,),
            },
            valid=lambda case: (
                (case.context is OMIT or case.cross is True)
                and case.T * case.width * (3 if case.context == "given" else 2) <= 8
            ),
            **DROPOUT,
        ),
    ],
    MISTAKES,
    blank=("add", "forward"),
    inner=("add",),
)
