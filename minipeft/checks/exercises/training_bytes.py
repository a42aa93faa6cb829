"""What training occupies: weights, gradients, Adam's means."""

from __future__ import annotations

import torch
from torch import nn

from minipeft.checks.exercises.train_top import Model
from minipeft.checks.framework import Case, Check, Draw, Trial, mistake


def inputs(case: Case, draw: Draw) -> dict:
    """A model with some parameters frozen, tied, or in bfloat16."""
    if case.kind == "tied":
        model = Model()
        parts = [model.words, nn.Sequential(model.middle), model.head]
    else:
        parts = [nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)]
        model = nn.Sequential(*parts)
        if case.kind == "buffers":  # running means are no parameters
            model.append(nn.BatchNorm1d(3))
        if case.kind == "bare":  # a parameter of the model itself
            model.prompt = nn.Parameter(torch.zeros(2, 5))
    frozen = {"none": 0, "one": 1, "half": 2, "every": len(parts)}[case.frozen]
    for part in parts[:frozen]:
        part.requires_grad_(False)
    if case.frozen == "every":
        model.requires_grad_(False)
    kind = {"float32": torch.float32, "float64": torch.float64}.get(case.number, torch.bfloat16)
    model.to(kind)
    if case.number == "mixed":  # a base in bfloat16, what trains in float32
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if case.training == "eval":
        model.eval()
    return {"model": model}


def of(view) -> str:
    """What is special about the model, in words."""
    case = view.case
    words = {
        "tied": " with a tied head" if case.frozen == "none" else " with a tied, frozen matrix",
        "bare": " with a parameter of its own",
        "buffers": " with running means",
    }.get(case.kind, "")
    if not words:
        words = {"none": " in training", "every": " frozen"}.get(case.frozen, " frozen in part")
    if case.number != "float32":
        words += f" in {case.number}" if case.number != "mixed" else ", half in bfloat16"
    return f"of a model{words}"


def parts_of(view) -> tuple[list, list, tuple]:
    """All parameters, those in training, and what was given."""
    model = view.inputs["model"]
    all_ = list(model.parameters())
    got = tuple(int(view.given[name]) for name in ("weights", "gradients", "adam"))
    return all_, [p for p in all_ if p.requires_grad], got


def size(parameters, each=None) -> int:
    return sum(p.numel() * (each or p.element_size()) for p in parameters)


def numbers(view) -> bool:
    all_, on, got = parts_of(view)
    return got == (size(all_, 1), size(on, 1), 2 * size(on, 1))


def four_bytes(view) -> bool:
    all_, on, got = parts_of(view)
    return got == (size(all_, 4), size(on, 4), 2 * size(on, 4))


def size_of_one(view) -> bool:
    """Is the size of one number asked once, and taken for all?"""
    all_, on, got = parts_of(view)
    sizes = {p.element_size() for p in all_}
    return len(sizes) > 1 and any(
        got == (size(all_, e), size(on, e), 2 * size(on, e)) for e in sizes
    )


def not_there_yet(view) -> bool:
    """Are gradients looked for in `grad`, which is empty before the first step, or in the mode?"""
    all_, on, got = parts_of(view)
    return bool(on) and got == (size(all_), 0, 0)


def not_whole(view) -> bool:
    return any(isinstance(view.given.get(name), float) for name in ("weights", "gradients", "adam"))


def twice(view) -> bool:
    _, _, got = parts_of(view)
    named = [p for _, p in view.inputs["model"].named_parameters(remove_duplicate=False)]
    weights, gradients = size(named), size([p for p in named if p.requires_grad])
    all_, on, _ = parts_of(view)
    return (weights != size(all_) and got[0] == weights) or (
        gradients != size(on) and got[1] == gradients
    )


def buffers(view) -> bool:
    all_, _, got = parts_of(view)
    held = list(view.inputs["model"].buffers())
    return bool(held) and got[0] in (
        size([*all_, *held]),
        size([*all_, *[b for b in held if b.is_floating_point()]]),
    )


def only_trained(view) -> bool:
    _, on, got = parts_of(view)
    return got[0] == size(on)


def all_get_gradients(view) -> bool:
    all_, on, got = parts_of(view)
    return len(on) < len(all_) and got[1] == size(all_)


def all_have_means(view) -> bool:
    all_, on, got = parts_of(view)
    return len(on) < len(all_) and got[2] == 2 * size(all_)


def one_mean(view) -> bool:
    _, on, got = parts_of(view)
    return bool(on) and got[2] == size(on)


def means_in_float32(view) -> bool:
    _, on, got = parts_of(view)
    return got[2] == 2 * size(on, 4) != 2 * size(on)


def said(text: str):
    return lambda view: text.format(
        of=of(view), e=next(view.inputs["model"].parameters()).element_size()
    )


def sums(view) -> str:
    all_, on, got = parts_of(view)
    right = (size(all_), size(on), 2 * size(on))
    wrong = next(i for i, (a, b) in enumerate(zip(right, got, strict=True)) if a != b)
    name = ("weights", "gradients", "adam")[wrong]
    return (
        f"{of(view)}, N = {size(all_, 1)} parameters of which n = {size(on, 1)} train, {name} "
        f"should be {right[wrong]}, not {got[wrong]}"
    )


training_bytes = Check(
    "training_bytes",
    "minipeft.course.transfer:training_bytes",
    "bytes of weights, gradients and Adam's two means; frozen, tied and bfloat16 parameters",
    [
        Trial(
            "training_bytes",
            inputs,
            lambda training_bytes, case, given: training_bytes(given.model),
            axes={
                "kind": ("plain", "tied", "buffers", "bare"),
                "frozen": ("none", "half", "one", "every"),
                "number": ("float32", "bfloat16", "float64", "mixed"),
                "training": ("train", "eval"),
            },
            dtypes=("float32",),
            layouts=("plain",),
            gradients=("on", "off"),
            more_keys=True,
        )
    ],
    [
        mistake(
            "training_bytes should return a dict (is a return missing?)",
            when=lambda view: view.difference.kind == "type" and not view.difference.where,
        ),
        mistake("bytes are whole numbers: give ints, no floats", when=not_whole),
        mistake(
            said(
                "{of} the size of one number is asked once and taken for all: parameters differ in "
                "dtype, ask each"
            ),
            when=size_of_one,
        ),
        mistake(
            said(
                "{of} no gradient is counted: `grad` is empty before the first step, and eval mode "
                "changes nothing; ask requires_grad"
            ),
            when=not_there_yet,
        ),
        mistake(
            said("{of} you count numbers, not bytes: times element_size(), {e} here"), when=numbers
        ),
        mistake(
            said(
                "{of} you count 4 bytes per number: ask the parameter, element_size() is {e} here"
            ),
            when=four_bytes,
        ),
        mistake(
            said(
                "{of} the shared matrix counts twice: model.parameters() lists it once, "
                "state_dict() does not"
            ),
            when=twice,
        ),
        mistake(
            said("{of} buffers are counted: they are no parameters, take model.parameters()"),
            when=buffers,
        ),
        mistake(
            said(
                "{of} only what trains is counted as weights: the frozen ones must be in memory too"
            ),
            when=only_trained,
        ),
        mistake(
            said("{of} frozen parameters get gradients: they need none, and that is the point"),
            when=all_get_gradients,
        ),
        mistake(
            said("{of} Adam keeps means of frozen parameters: the optimizer never sees those"),
            when=all_have_means,
        ),
        mistake(
            said("{of} Adam keeps one mean: it keeps two, of the gradient and its square"),
            when=one_mean,
        ),
        mistake(
            said("{of} Adam's means are counted in float32: they have the parameter's dtype"),
            when=means_in_float32,
        ),
        mistake(sums, when=lambda view: view.difference.kind == "value"),
    ],
)
