"""What training occupies: weights, gradients, Adam's means."""

from __future__ import annotations

import torch
from torch import nn

from minipeft.checks.exercises.train_top import Model
from minipeft.checks.framework import Case, Check, Draw, Trial, mistake
from minipeft.checks.framework.showing import with_article


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
        if case.kind == "equal":  # as many numbers of the same values
            parts += [nn.LayerNorm(3), nn.LayerNorm(3)]
            model = nn.Sequential(*parts)
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
        "equal": " with two alike layer norms",
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


NAMES = ("weights", "gradients", "Adam's means")
FACTORS = {
    8: "8 times too many: bits? A byte has 8 of them, and element_size() gives bytes",
    2: "twice too many",
    1.5: "half as many again: Adam keeps two running means, the gradient is counted by itself",
    0.5: "half of what they should be",
}


def same_values(view) -> bool:
    """Are parameters of the same values counted once?"""
    return view.case.kind == "equal" and parts_of(view)[2][0] < size(parts_of(view)[0])


def by_state_dict(view) -> bool:
    all_, _, got = parts_of(view)
    held = view.inputs["model"].state_dict().values()
    return got[0] == size(held) != size(all_)


def directly(view) -> bool:
    """Are only the parameters of children counted, none of their children's?"""
    all_, _, got = parts_of(view)
    children = view.inputs["model"].children()
    return got[0] == size([p for c in children for p in c.parameters(recurse=False)]) != size(all_)


def sums(view) -> str:
    all_, on, got = parts_of(view)
    right = (size(all_), size(on), 2 * size(on))
    wrong = next(i for i, (a, b) in enumerate(zip(right, got, strict=True)) if a != b)
    name = ("weights", "gradients", "adam")[wrong]
    if got == tuple(n // 2**20 for n in right):
        return f"{of(view)} nothing is left: give bytes as they are, not MiB, which are 0 here"
    if not got[wrong]:
        return f"{of(view)} no bytes of {NAMES[wrong]} are counted: ask requires_grad"
    times = FACTORS.get(got[wrong] / right[wrong]) if right[wrong] else None
    if times:
        return f"{of(view)} the bytes of {NAMES[wrong]} are {times}"
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
                "kind": ("plain", "tied", "buffers", "bare", "equal"),
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
            when=lambda view: view.given is None and view.error is None,
        ),
        mistake(
            lambda view: (
                "training_bytes should return a dict of three numbers, not "
                f"{with_article(type(view.given).__name__)}"
            ),
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
            said(
                "{of} only what the direct children hold is counted: model.parameters() reaches "
                "the parts of parts"
            ),
            when=directly,
        ),
        mistake(
            said(
                "{of} parameters with the same values count once: only the very same one does, so "
                "compare by identity"
            ),
            when=same_values,
        ),
        mistake(
            said("{of} buffers are counted: they are no parameters, take model.parameters()"),
            when=buffers,
        ),
        mistake(
            said(
                "{of} state_dict() is counted, which lists a shared matrix twice and buffers too: "
                "take model.parameters()"
            ),
            when=by_state_dict,
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
