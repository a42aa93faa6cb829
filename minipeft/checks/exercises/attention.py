"""Multi-head attention: Vaswani et al. 2017, section 3.2.2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipeft.checks.exercises.attention_mistakes import MISTAKES
from minipeft.checks.framework import DROPOUT, OMIT, Case, Check, Draw, Trial, call


def build(MultiHeadAttention: type, case: Case) -> nn.Module:
    """MultiHeadAttention(width, heads, dropout), in training or not."""
    layer = call(MultiHeadAttention, case.heads * case.D, case.heads, dropout=case.dropout)
    return layer.train() if case.training else layer.eval()


def padding(draw: Draw, B: int, T: int, S: int, kind: str) -> Tensor:
    """A mask (B, 1, 1 or T, S) whose first key is always open."""
    rows = {"padding": 1, "per query": T}[kind]
    closed = torch.rand(B, 1, rows, S, generator=draw.generator) < 0.5
    closed[..., 0] = False
    zeros = torch.zeros(closed.shape, dtype=draw.dtype)
    return zeros.masked_fill(closed, torch.finfo(draw.dtype).min)


def inputs(case: Case, draw: Draw) -> dict:
    """x (B, T, C), context (B, S, C) or none, mask."""
    C = case.heads * case.D
    S = {"shorter": 2, "longer": case.T + 2}.get(case.context, case.T)
    context = case.context
    if context not in (OMIT, None):
        context = draw.normal(case.B, S, C)
    mask = case.mask
    if mask not in (OMIT, None):
        mask = draw.whole(padding(draw, case.B, case.T, S, mask))
    x = draw.normal(case.B, case.T, C)
    return {"x": x, "context": context, "mask": mask}


def run(layer, case: Case, given) -> Tensor:
    layer.keep_weights = case.keep_weights
    return call(layer, given.x, context=given.context, mask=given.mask, causal=case.causal)


def heads_of(case: Case, draw: Draw) -> dict:
    return {"heads": draw.normal(case.B, case.heads, case.T, case.D)}


def x_of(case: Case, draw: Draw) -> dict:
    return {"x": draw.normal(case.B, case.T, case.heads * case.D)}


PLAIN = {"dropout": (0.0,), "training": (False,)}
SIZES = {"B": (2, 1, 3), "T": (5, 1, 2), "heads": (2, 1, 3), "D": (3, 1, 2, 6)}
MADE = {"dropout": (OMIT, 0.0, 0.3), "training": (False, True)}


def possible(case: Case) -> bool:
    """Dropout in training has a trial of its own; a causal cross-attention means nothing."""
    quiet = not (case.training and case.dropout == 0.3)
    return quiet and not (case.causal is True and case.context not in (OMIT, None))


attention = Check(
    "attention",
    "tiny_transformer.attention:MultiHeadAttention",
    "heads split and joined, masks, self-attention and cross-attention",
    [
        Trial(
            "split(x)",
            x_of,
            lambda layer, case, given: layer.split(given.x),
            build=build,
            axes={**SIZES, **PLAIN},
        ),
        Trial(
            "join(heads)",
            heads_of,
            lambda layer, case, given: layer.join(given.heads),
            build=build,
            axes={**SIZES, **PLAIN},
        ),
        Trial(
            "the output",
            inputs,
            run,
            build=build,
            axes={
                **SIZES,
                "context": (OMIT, None, "longer", "same length", "shorter"),
                "mask": (OMIT, None, "padding", "per query"),
                "causal": (OMIT, False, True),
                "keep_weights": (False, True),
                **MADE,
            },
            valid=possible,
            draws=True,
        ),
        Trial(
            "the output with a mask and causal=True",
            inputs,
            run,
            build=build,
            axes={
                "mask": ("padding", "per query"),
                "T": (5, 3),
                "B": (2, 1),
                "heads": (2, 1),
                "D": (3, 1),
                "context": (OMIT,),
                "causal": (True,),
                "keep_weights": (False,),
                **PLAIN,
            },
        ),
        Trial(
            "the output in training",
            lambda case, draw: x_of(case, draw) | {"context": None, "mask": None},
            run,
            build=build,
            axes={
                "dropout": (0.5, 0.1, 0.0),
                "T": (2, 1),
                "heads": (1, 2),
                "D": (2, 1),
                "B": (1,),
                "causal": (False, True),
                "keep_weights": (False, True),
                "training": (True,),
                "context": (None,),
            },
            valid=lambda case: case.T * case.heads < 4,
            **DROPOUT,
        ),
    ],
    MISTAKES,
    blank=("split", "join", "forward"),
)
