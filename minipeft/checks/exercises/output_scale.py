"""(IA)^3 at one map: Liu et al. 2022, section 3.3."""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.checks.framework import Case, Check, Draw, Trial, call, mistake

FORWARD = "return (self.l * y).to(y.dtype)"
FOLD = "return l[:, None] * weight, None if bias is None else l * bias"


def build(OutputScale: type, case: Case):
    return call(OutputScale, case.out)


def passing(case: Case, draw: Draw) -> dict:
    """x (B, T, in) and y (B, T, out), which may have another dtype than l."""
    x = draw.normal(case.B, case.T, case.inside)
    if case.y_dtype != "same":
        draw.dtype = getattr(torch, case.y_dtype)
    return {"x": x, "y": draw.normal(case.B, case.T, case.out)}


def forward(patch, case: Case, given) -> Tensor:
    return patch(given.x, given.y)


def the_map(case: Case, draw: Draw) -> dict:
    """weight (out, in), and bias (out,) or None."""
    weight = draw.normal(case.out, case.inside)
    return {"weight": weight, "bias": draw.normal(case.out) if case.bias else None}


def fold(patch, case: Case, given):
    return patch.fold(given.weight, given.bias)


def passes(sentence: str, wrong: str):
    """A mistake in forward."""
    return mistake(sentence, (FORWARD, f"return {wrong}"))


def folds(sentence: str, weight: str = "l[:, None] * weight", bias: str = "l * bias"):
    """A mistake in fold, of a map that may have no bias."""
    return mistake(sentence, (FOLD, f"return {weight}, None if bias is None else {bias}"))


output_scale = Check(
    "output_scale",
    "minipeft.methods.ia3:OutputScale",
    "l * y in the dtype of y; folded: rows of the weight times l, and the bias times l",
    [
        Trial(
            "the output of forward",
            passing,
            forward,
            build=build,
            axes={
                "out": (4, 3, 1),
                "inside": (4, 5, 1),
                "B": (2, 1, 3),
                "T": (3, 1),
                "y_dtype": ("same", "float32", "bfloat16"),
            },
            cast=False,
        ),
        Trial(
            "the output of forward in float64",
            passing,
            forward,
            build=build,
            axes={"out": (4,), "inside": (4, 3), "B": (2,), "T": (3,), "y_dtype": ("same",)},
            dtypes=("float64",),
            layouts=("plain",),
        ),
        Trial(
            "what fold gives back",
            the_map,
            fold,
            build=build,
            axes={"out": (4, 3, 1), "inside": (4, 5, 1), "bias": (True, False)},
            names={"[0]": "the folded weight", "[1]": "the folded bias"},
            gradients=("off",),
        ),
    ],
    [
        passes(
            "y is added once more: l * y stands in its place, and l is 1 at the start already",
            "(y + self.l * y).to(y.dtype)",
        ),
        passes("l is added to y: it multiplies y, number by number", "(self.l + y).to(y.dtype)"),
        passes("x is rescaled: l multiplies what the map gave back, y", "(self.l * x).to(y.dtype)"),
        passes("y is divided by l: multiply", "(y / self.l).to(y.dtype)"),
        passes("y is not rescaled: multiply it by l", "y + 0"),
        passes("l is detached, so nothing could train it", "(self.l.detach() * y).to(y.dtype)"),
        passes(
            "y is detached, so the layers below get no gradient",
            "(self.l * y.detach()).to(y.dtype)",
        ),
        passes("the answer should have the dtype of y: turn the product into it", "self.l * y"),
        passes(
            "l is rounded to the dtype of y before it multiplies: multiply first, then turn the "
            "product into the dtype of y",
            "self.l.to(y.dtype) * y",
        ),
        passes(
            "all is rounded to float32: multiply as l and y are, and turn only the product",
            "(self.l.float() * y.float()).to(y.dtype)",
        ),
        passes("l has a sign: multiply by l itself", "(self.l.abs() * y).to(y.dtype)"),
        passes(
            "one number multiplies all of y: l has a number for every feature",
            "(self.l.mean() * y).to(y.dtype)",
        ),
        folds("fold leaves the bias as it is: l * (W x + b) multiplies b as well", bias="bias"),
        folds(
            "fold multiplies the columns of the weight: l belongs to the outputs, the rows of W "
            "(out, in)",
            weight="l * weight",
        ),
        folds("fold leaves the weight as it is: multiply its rows by l", weight="weight + 0"),
        folds(
            "fold multiplies by 1 + l: l is 1 at the start already",
            "(1 + l)[:, None] * weight",
            "(1 + l) * bias",
        ),
        folds("fold adds l to the bias: l * (W x + b) multiplies it", bias="bias + l"),
        folds("the bias is multiplied by l twice", bias="l * l * bias"),
        mistake(
            "fold loses the bias: give back l * b with the weight",
            (FOLD, "return l[:, None] * weight, None"),
        ),
        mistake(
            "weight and bias have changed places: give back (weight, bias)",
            (FOLD, "return None if bias is None else l * bias, l[:, None] * weight"),
        ),
        mistake(
            "a map without a bias stays without one: where bias is None, give back None",
            (FOLD, "return l[:, None] * weight, l * (0 if bias is None else bias)"),
        ),
        mistake(
            "a tensor is neither true nor false: ask whether `bias is None`",
            when=lambda view: "Boolean value" in str(view.error),
        ),
        mistake(
            "fold stops where the map has no bias: None cannot be multiplied, give back None",
            when=lambda view: view.case.get("bias") is False and view.error is not None,
        ),
    ],
    blank=("forward", "fold"),
)
