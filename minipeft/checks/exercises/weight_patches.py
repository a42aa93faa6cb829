"""What the checks of patches in the weights door have in common: what they read, what is tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from minipeft.checks.framework import DROPOUT, OMIT, Case, Draw, Trial


def in_its_mode(patch, case: Case):
    """In training or not, as the case says; what is no module stays as it is."""
    return patch.train(case.training) if isinstance(patch, nn.Module) else patch


def x_and_y(case: Case, draw: Draw, out: int) -> dict[str, Tensor]:
    """x (B, T, in), what the frozen map reads; y (B, T, out), which may have another dtype."""
    x = draw.normal(case.B, case.T, case.inside)
    if case.get("y_dtype", "same") != "same":
        draw.dtype = getattr(torch, case.y_dtype)
    return {"x": x, "y": draw.normal(case.B, case.T, out)}


def inputs(case: Case, draw: Draw) -> dict[str, Tensor]:
    """x (B, T, in) and y (B, T, out) of a map from case.inside to case.out."""
    return x_and_y(case, draw, case.out)


def forward(patch, case: Case, given) -> Tensor:
    return patch(given.x, given.y)


def nothing_drops(case: Case) -> bool:
    return not (case.training and case.dropout == 0.5)


def detour_trials(build: Callable, made: Mapping, in_training: Mapping) -> list[Trial]:
    """forward, delta, and forward in training, of a detour beside a linear map.

    Args:
        build: (class, case) -> the patch.
        made: axes of what the patch is made with, besides its sizes and dropout.
        in_training: the same axes where dropout is looked at; few, since that takes many passes.
    """
    return [
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
                **made,
            },
            valid=nothing_drops,
            cast=False,
            draws=True,
        ),
        Trial(
            "delta",
            lambda case, draw: {},
            lambda patch, case, given: patch.delta(),
            build=build,
            axes={
                "inside": (6, 4, 1),
                "out": (4, 5, 1),
                "dropout": (OMIT, 0.3),
                "training": (False, True),
                **made,
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
                **in_training,
                "training": (True,),
            },
            cast=False,
            **DROPOUT,
        ),
    ]
