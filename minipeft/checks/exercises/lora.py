"""LoRA: Hu et al. 2021, equation 3."""

from __future__ import annotations

from torch import nn

from minipeft.checks.exercises.lora_mistakes import MISTAKES
from minipeft.checks.exercises.weight_patches import (
    detour_trials,
    forward,
    in_its_mode,
    inputs,
)
from minipeft.checks.framework import OMIT, Case, Check, Trial, call, expect
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
    return in_its_mode(patch, case)


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
            forward,
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
        *detour_trials(
            build, MADE, {"rank": (2,), "alpha": (6, 1), "rank_stabilized": (OMIT, True)}
        ),
    ],
    MISTAKES,
    blank=("forward", "delta"),
)
