"""LoRA: Hu et al. 2021, equation 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipeft.checks.exercises.lora_mistakes import MISTAKES
from minipeft.checks.framework import DROPOUT, OMIT, Case, Check, Draw, Trial, call, expect
from minipeft.checks.framework.observing import find_parameter


def build(LoRAPatch: type, case: Case) -> nn.Module:
    """LoRAPatch(in, out, rank, alpha, dropout, rank_stabilized), in training or not."""
    patch = call(
        LoRAPatch,
        case.inside,
        case.out,
        case.rank,
        case.alpha,
        dropout=case.dropout,
        rank_stabilized=case.rank_stabilized,
    )
    return patch.train(case.training) if isinstance(patch, nn.Module) else patch


def inputs(case: Case, draw: Draw) -> dict:
    """x (B, T, in), y (B, T, out), which may have another dtype."""
    x = draw.normal(case.B, case.T, case.inside)
    if case.get("y_dtype", "same") != "same":
        draw.dtype = getattr(torch, case.y_dtype)
    return {"x": x, "y": draw.normal(case.B, case.T, case.out)}


def start(patch, case: Case, given) -> dict:
    """The fresh patch: A, B, what else it trains, and what forward gives."""
    A, B = find_parameter(patch, "A"), find_parameter(patch, "B")
    others = [name for name, p in patch.named_parameters() if p is not A and p is not B]
    return {"A": A.detach(), "B": B.detach(), "others": others}


def judge_start(case: Case, given: dict, answer: dict) -> None:
    """Shapes and initial values."""
    A, B, others = answer["A"], answer["B"], answer["others"]
    right = (case.rank, case.inside), (case.out, case.rank)
    shapes = tuple(A.shape), tuple(B.shape)
    expect(
        shapes == right
        or shapes != (right[0][::-1], right[1][::-1])
        and shapes != ((case.out, case.rank), (case.rank, case.inside)),
        "A and B have changed places: A is (r, in) and meets x first, B is (out, r)",
    )
    expect(
        shapes == right,
        f"A has shape {shapes[0]} and B {shapes[1]}; A is (r, in) = {right[0]}, B is (out, r) = "
        f"{right[1]}",
    )
    expect(not others, f"LoRA trains A and B only, no bias and no copy of W0: take out {others}")
    expect(
        A.abs().max() > 0 or B.abs().max() > 0,
        "A and B are both zero, so neither ever gets a gradient: A must be random",
    )
    expect(
        B.abs().max() == 0,
        "B is not zero at the start, so the model is not itself before training: only A is random",
    )


def forward(patch, case: Case, given) -> Tensor:
    return patch(given.x, given.y)


def delta(patch, case: Case, given) -> Tensor:
    return patch.delta()


MADE = {
    "rank": (2, 4, 1),
    "alpha": (6, 1.5, 16),
    "rank_stabilized": (OMIT, False, True),
}

lora = Check(
    "lora",
    "minipeft.methods.lora:LoRAPatch",
    "h = W0 x + (alpha / r) B A x, identity at the start, dropout on x, delta = (alpha / r) B A",
    [
        Trial(
            "the fresh patch",
            lambda case, draw: {},
            start,
            build=build,
            fill=False,
            axes={
                "inside": (6, 3, 4),
                "out": (4, 5, 1),
                "dropout": (OMIT, 0.0, 0.3),
                "training": (False, True),
                **MADE,
            },
            dtypes=("float32",),
            layouts=("plain",),
            gradients=("on",),
            judge=judge_start,
            draws=True,
        ),
        Trial(
            "the output of forward at the start",
            inputs,
            lambda patch, case, given: patch(given.x, given.y),
            build=build,
            fill=False,
            axes={
                "inside": (6,),
                "out": (4,),
                "B": (2,),
                "T": (3,),
                "dropout": (OMIT,),
                "training": (False,),
                "rank": (2,),
                "alpha": (6,),
                "rank_stabilized": (OMIT,),
            },
            dtypes=("float32",),
            layouts=("plain",),
            gradients=("off",),  # while B = 0 nothing reaches x
        ),
        Trial(
            "the output of forward",
            inputs,
            forward,
            build=build,
            axes={
                "inside": (5, 3, 1),
                "out": (5, 4, 1),
                "B": (2, 1, 3),
                "T": (3, 1),
                "dropout": (OMIT, 0.0, 0.5),
                "training": (False, True),
                "y_dtype": ("same", "float32", "bfloat16"),
                **MADE,
            },
            valid=lambda case: not (case.training and case.dropout == 0.5),
            cast=False,
            draws=True,
        ),
        Trial(
            "delta",
            lambda case, draw: {},
            delta,
            build=build,
            axes={
                "inside": (6, 4, 1),
                "out": (4, 5, 1),
                "dropout": (OMIT, 0.3),
                "training": (False, True),
                **MADE,
            },
            layouts=("plain",),
            draws=True,
        ),
        Trial(
            "the output of forward in training",
            inputs,
            forward,
            build=build,
            axes={
                "dropout": (0.5, 0.1, 0.0),
                "inside": (2, 1),
                "out": (2,),
                "B": (1,),
                "T": (2, 1),
                "rank": (2,),
                "alpha": (6, 1),
                "rank_stabilized": (OMIT, True),
                "training": (True,),
            },
            cast=False,
            **DROPOUT,
        ),
    ],
    MISTAKES,
    blank=("forward", "delta"),
)
