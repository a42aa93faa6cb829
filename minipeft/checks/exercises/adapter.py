"""Adapter: Houlsby et al. 2019, section 2.1."""

from __future__ import annotations

import torch
from torch import nn

from minipeft.checks.exercises.adapter_mistakes import MISTAKES
from minipeft.checks.exercises.weight_patches import (
    forward,
    in_its_mode,
    nothing_drops,
    x_and_y,
)
from minipeft.checks.framework import DROPOUT, OMIT, Case, Check, Draw, Trial, call


def build(AdapterPatch: type, case: Case) -> nn.Module:
    """AdapterPatch(width, bottleneck, ...), in training or not."""
    patch = call(
        AdapterPatch,
        case.width,
        case.bottleneck,
        activation=case.activation,
        sigma=case.sigma,
        scale=case.scale,
        skip=case.skip,
        dropout=case.dropout,
    )
    return in_its_mode(patch, case)


def inputs(case: Case, draw: Draw) -> dict:
    """x (B, T, in), what the frozen map has read; y (B, T, C), which may have another dtype."""
    return x_and_y(case, draw, case.width)


def hidden(case: Case, draw: Draw) -> dict:
    """h (B, T, C), which may have another dtype than the adapter's weights."""
    if case.get("y_dtype", "same") != "same":
        draw.dtype = getattr(torch, case.y_dtype)
    return {"h": draw.normal(case.B, case.T, case.width)}


SETTINGS = {
    "bottleneck": (2, 3, 1),
    "activation": (OMIT, "relu", "tanh", "gelu"),
    "sigma": (OMIT, 0.0, 0.5),
    "scale": (OMIT, 1.0, 2.5),
    "skip": (OMIT, True, False),
    "dropout": (OMIT, 0.0, 0.5),
    "training": (False, True),
    "y_dtype": ("same", "float32", "bfloat16"),
}
SIZES = {"width": (4, 3, 1), "B": (2, 1, 3), "T": (3, 1)}


adapter = Check(
    "adapter",
    "minipeft.methods.adapter:AdapterPatch",
    "h + s (W_up phi(W_down h + b_down) + b_up), without the skip too, dropout on the bottleneck",
    [
        Trial(
            "the output of change",
            hidden,
            lambda patch, case, given: patch.change(given.h),
            build=build,
            axes={**SIZES, **SETTINGS},
            valid=nothing_drops,
            draws=True,
        ),
        Trial(
            "the output of forward",
            inputs,
            forward,
            build=build,
            axes={"inside": (4, 3, 6), **SIZES, **SETTINGS},
            valid=nothing_drops,
            cast=False,
            draws=True,
        ),
        Trial(
            "the output of forward in training",
            inputs,
            forward,
            build=build,
            axes={
                "dropout": (0.5, 0.25, 0.0),
                "width": (2, 1),
                "bottleneck": (2, 1),
                "inside": (2,),
                "B": (1,),
                "T": (2, 1),
                "activation": ("relu", "gelu"),
                "sigma": (OMIT,),
                "scale": (OMIT, 3.0),
                "skip": (OMIT, False),
                "training": (True,),
            },
            cast=False,
            **DROPOUT,
        ),
    ],
    MISTAKES,
    blank=("forward", "change"),
)
