"""A detour merged into the weight of a linear map, and taken out again."""

from __future__ import annotations

import copy

import torch
from torch import nn

from minipeft.checks.framework import Case, Check, Draw, Trial, expect, mistake

KEEP = "self.original = self.linear.weight.clone()"
ADD = "self.linear.weight += self.scale * (self.B @ self.A)"
BACK = "self.linear.weight.copy_(self.original)"
FIRST, LATER = "if self.original is None:", "if self.original is not None:"
DELTA = "self.scale * (self.B @ self.A)"
FORGET = f"{BACK}\n            self.original = None"
EARLIER = (
    "self.first = getattr(self, 'first', self.linear.weight.clone())\n            "
    "self.original = self.first"
)
CALLS = {
    "merge": "M",
    "merge, unmerge": "MU",
    "merge twice": "MM",
    "merge twice, unmerge": "MMU",
    "unmerge": "U",
    "merge, unmerge twice": "MUU",
    "merge, unmerge, merge": "MUM",
    "merge, unmerge, merge, unmerge": "MUMU",
    "train, merge": "TM",
    "train, merge, unmerge": "TMU",
    "merge, unmerge, train, merge": "MUTM",
    "merge, unmerge, train, merge, unmerge": "MUTMU",
}


def inputs(case: Case, draw: Draw) -> dict:
    linear = nn.Linear(case.inside, case.out, case.bias == "with", dtype=draw.dtype)
    W = draw.normal(case.out, case.inside)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.fill_(0.25)
        linear.weight.copy_(W)
    return {
        "linear": linear,
        "A": draw.normal(case.r, case.inside),
        "B": draw.normal(case.out, case.r),
    }


def run(Merge, case: Case, given) -> dict:
    """The weight after all the calls, and whether its bits and the parameter are the old ones."""
    linear = given.linear
    bits, parameter, place = linear.weight.detach().clone(), linear.weight, linear.weight.data_ptr()
    detour = Merge(linear, given.A, given.B, case.scale)
    for call in CALLS[case.calls]:
        if call == "T":  # a step of training, while nothing is merged
            with torch.no_grad():
                for trained in (linear.weight, given.A, given.B):
                    trained.mul_(-0.5)
            bits = linear.weight.detach().clone()
        else:
            (detour.merge if call == "M" else detour.unmerge)()
    expect(
        _keeps_apart(Merge, given, case.scale),
        "two maps merged at the same time do not both get their W0 back: keep it in self.original, "
        "not in the class or a global",
    )
    result = {"weight": linear.weight.detach().clone()}
    if linear.bias is not None:
        result["bias"] = linear.bias.detach().clone()
    same = torch.equal(linear.weight, bits)
    rest = linear.training, linear.weight.requires_grad, linear.weight.grad is None
    in_place = linear.weight is parameter and linear.weight.data_ptr() == place
    return result | {"old bits": same, "same parameter": in_place, "the rest": rest}


def _keeps_apart(Merge, given, scale: float) -> bool:
    """Merge two maps, and take both out again: has each its bits?"""
    maps = [copy.deepcopy(given.linear) for _ in range(2)]
    with torch.no_grad():
        maps[1].weight.neg_()
    before = [linear.weight.detach().clone() for linear in maps]
    detours = [Merge(linear, given.A, given.B, scale) for linear in maps]
    for detour in detours:
        detour.merge()
    if all(map(torch.equal, before, [linear.weight for linear in maps])):
        return True  # nothing is merged: that has its sentence
    for detour in detours:
        detour.unmerge()
    back = [torch.allclose(m.weight, W, 1e-3, 1e-3) for m, W in zip(maps, before, strict=True)]
    return back[0] or not back[1]  # the later one alone


def wrong_at(place: str):
    """Does the failing case differ in this part of the result?"""
    return lambda view: view.difference.where == place


lora_merge = Check(
    "lora_merge",
    "minipeft.course.lora:Merge",
    "W0 + s B A, once and in place; and the old bits again",
    [
        Trial(
            "what merge and unmerge leave",
            inputs,
            run,
            axes={
                "calls": tuple(CALLS),
                "inside": (5, 1, 4),
                "out": (4, 1, 5),
                "r": (2, 1, 3),
                "scale": (0.5, 4.0, 1.0),
                "bias": ("without", "with"),
            },
            scratch=("linear",),
            dtypes=("float32", "float64"),
            layouts=("plain",),
            names={
                "weight": "the weight",
                "bias": "the bias",
                "old bits": "whether the weight has its old bits",
                "same parameter": "whether the weight is the parameter that it was",
                "the rest[0]": "whether the map is in training mode",
                "the rest[1]": "whether the weight requires grad",
                "the rest[2]": "whether the weight has no gradient",
            },
        ),
    ],
    [
        mistake(
            "after unmerge the bits are others: (W + D) - D is not W in floating point, so keep W0",
            (BACK, f"self.linear.weight -= {DELTA}"),
        ),
        mistake(
            "unmerge gives the merged weight: keep a copy of W0 (clone) before the detour is added",
            (KEEP, "self.original = self.linear.weight"),
        ),
        mistake("unmerge leaves zeros: put W0 back", (BACK, "self.linear.weight.zero_()")),
        mistake("the scale s is missing", (DELTA, "self.B @ self.A")),
        mistake("the detour is divided by s: multiply", (DELTA, "(self.B @ self.A) / self.scale")),
        mistake("the detour is subtracted: add it", (ADD, ADD.replace("+=", "-="))),
        mistake(
            "the weight is the detour alone: add it to W0",
            (ADD, f"self.linear.weight.copy_({DELTA})"),
        ),
        mistake(
            "B A is transposed: the weight is (out, in), and so is B A",
            (DELTA, "self.scale * (self.B @ self.A).T"),
        ),
        mistake(
            "B A is transposed: the weight is (out, in), and so is B A",
            (DELTA, "self.scale * (self.A.T @ self.B.T)"),
        ),
        mistake(
            "that is A B: x meets A first, so the product is B A",
            (DELTA, "self.scale * (self.A @ self.B)"),
        ),
        mistake(
            "the second merge adds the detour once more, and forgets W0: what is merged stays so",
            (FIRST, "if True:"),
        ),
        mistake(
            "the second merge adds the detour once more: what is merged stays so",
            (
                f"{FIRST}\n            {KEEP}\n            {ADD}",
                f"{FIRST}\n            {KEEP}\n        {ADD}",
            ),
        ),
        mistake(
            "the second merge takes the detour out again: what is merged stays so",
            (ADD, f"{ADD}\n        else:\n            self.unmerge()"),
        ),
        mistake(
            "the W0 of an earlier merge is used again: the weight may have been trained since, so "
            "take it anew",
            (KEEP, EARLIER),
            (ADD, f"self.linear.weight.copy_(self.original + {DELTA})"),
        ),
        mistake(
            "the W0 of an earlier merge is used again: the weight may have been trained since, so "
            "take it anew",
            (KEEP, EARLIER),
        ),
        mistake(
            "the detour of an earlier merge is used again: A and B may have been trained since, so "
            "multiply them anew",
            (
                ADD,
                f"self.kept = getattr(self, 'kept', {DELTA})\n            "
                "self.linear.weight += self.kept",
            ),
        ),
        mistake(
            "after unmerge it still counts as merged, so the next merge does nothing",
            (FORGET, BACK),
        ),
        mistake(
            "where nothing is merged unmerge should do nothing",
            (LATER, "if True:"),
        ),
        mistake(
            "unmerge does nothing",
            (FORGET, "pass"),
        ),
        mistake(
            "merge does nothing to the weight",
            (ADD, "pass"),
        ),
        mistake(
            "the linear map has another parameter than before, which nobody else knows: change the "
            "weight in place (+=, copy_)",
            when=wrong_at("same parameter"),
        ),
        mistake(
            "the bias has changed: the detour goes into the weight alone",
            when=wrong_at("bias"),
        ),
        mistake(
            "after unmerge the bits are others: (W + D) - D is not W in floating point, so keep W0",
            when=lambda view: wrong_at("old bits")(view) and "unmerge" in view.case.calls,
        ),
        mistake(
            "where nothing is merged unmerge should do nothing",
            when=lambda view: view.error is not None and view.case.calls.startswith("unmerge"),
        ),
    ],
    blank=("merge", "unmerge"),
)
