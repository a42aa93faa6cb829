"""Freezing: which parameters train."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from minipeft.checks.framework import Case, Check, Draw, Trial, expect, mistake
from minipeft.checks.framework.showing import with_article


class Model(nn.Module):
    """Words, a middle, and a head on the same words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 3)
        self.middle = nn.Linear(3, 3)
        self.head = nn.Linear(3, 7)
        self.head.weight = self.words.weight

    def parts(self) -> list[nn.Module]:
        return [self.words, self.middle, self.head]


def make(kind: str) -> list[nn.Module]:
    """The parts of a model, from input to output."""
    if kind == "four":
        return [nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 3), nn.Linear(3, 2)]
    if kind == "tied":
        return Model().parts()
    if kind == "shared":  # two parts share a layer
        shared = nn.Linear(3, 3)
        return [nn.Linear(2, 3), shared, nn.Sequential(shared)]
    if kind == "equal":  # parts that are apart, whose parameters begin with the same values
        return [nn.LayerNorm(3), nn.Linear(3, 3), nn.LayerNorm(3), nn.LayerNorm(3)]
    if kind == "nested":  # a part without parameters, a part of several
        inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
        return [nn.Linear(2, 3), nn.ReLU(), inner, nn.Linear(3, 2)]
    return [nn.Linear(2, 2)]


def inputs(case: Case, draw: Draw) -> dict:
    """parts, some of them frozen before, and a count."""
    parts = make(case.parts)
    for number, part in enumerate(parts):
        for parameter in part.parameters():
            if case.before == "frozen" or (case.before == "half" and number % 2):
                parameter.requires_grad_(False)
            if case.before == "gradients":
                parameter.grad = torch.ones_like(parameter)
    count = {"none": 0, "every": len(parts), "below": -1, "above": len(parts) + 1}.get(
        case.count, case.count
    )
    return {"parts": tuple(parts) if case.sequence == "tuple" else parts, "count": count}


def run(train_top: Callable, case: Case, given) -> dict:
    """What comes back, and what has become of the parts."""
    before, parts = values(given.parts), list(given.parts)
    answer = train_top(given.parts, given.count)
    after = list(given.parts)
    expect(
        len(after) == len(parts) and all(a is b for a, b in zip(parts, after, strict=True)),
        "the list of parts that came in was changed (reversed, cut?): read it, and change nothing "
        "but requires_grad",
    )
    return {
        "answer": answer,
        "on": {p for p in every(given.parts) if p.requires_grad},
        "kept": all(torch.equal(a, b) for a, b in zip(before, values(given.parts), strict=True)),
        "modes": [part.training for part in given.parts],
        "gradients": [p.grad is not None for p in every(given.parts)],
    }


def every(parts: Sequence[nn.Module]) -> list[nn.Parameter]:
    """All parameters of some parts, each once."""
    return list(dict.fromkeys(p for part in parts for p in part.parameters()))


def values(parts: Sequence[nn.Module]) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in every(parts)]


def listed(answer) -> list[nn.Parameter]:
    """What came back, which must be parameters, each once."""
    expect(answer is not None, "train_top gives None back: return the parameters in training")
    expect(
        isinstance(answer, list | tuple | dict),
        f"train_top gives back {with_article(type(answer).__name__)}: return a list, which an "
        "optimizer and a count can both read",
    )
    answer = list(answer)
    strange = [thing for thing in answer if not isinstance(thing, nn.Parameter)]
    kind = type(strange[0]).__name__ if strange else ""
    expect(
        not strange,
        f"the list holds a {kind}: an optimizer wants the parameters themselves, part.parameters()",
    )
    return answer


def judge(case: Case, given: dict, seen: dict) -> None:
    """The last `count` parts are in training, but for what a frozen part uses too."""
    parts, count = list(given["parts"]), given["count"]
    answer = listed(seen["answer"])
    expect(
        seen["kept"],
        "the values of the parameters changed: freezing sets requires_grad and nothing else",
    )
    expect(
        all(seen["modes"]),
        "a part is in eval mode now: freezing sets requires_grad and nothing else",
    )
    expect(
        all(seen["gradients"]) == (case.before == "gradients"),
        "gradients that were there are taken away: freezing sets requires_grad and nothing else",
    )
    on, back, n = seen["on"], set(answer), len(parts)
    below = set(every(parts[: n - count]))
    wanted = set(every(parts[n - count :])) - below
    if case.before in ("frozen", "half") and on < wanted:
        expect(
            False,
            f"of {n} parts and a count of {count} not all of the last {count} are awake: "
            "what was frozen before must wake up",
        )
    if case.parts == "shared":
        expect(
            not wanted or wanted <= on,
            "a layer that two trained parts share is frozen: only what a frozen part uses is",
        )
    expect(
        case.parts != "equal" or not wanted or wanted <= on,
        "a parameter is frozen because one of a frozen part has the same values: only the very "
        "same parameter is shared, so compare by identity (a set does)",
    )
    expect(
        0 <= count <= n,
        f"a count of {count} with {n} parts is impossible: raise a ValueError",
    )
    expect(
        case.parts != "equal" or wanted <= back,
        "a parameter is left out because another one has the same values: only the very same "
        "parameter is listed once, so compare by identity (a set or the keys of a dict do)",
    )
    expect(
        not answer or back & set(every(parts)),
        "what is given back are copies, which no forward pass reads: give the parts' parameters "
        "themselves",
    )
    expect(
        count or not (on or answer),
        "with a count of 0 something is still in training: parts[-0:] is the whole list, count "
        "from the front"
        if set(every(parts)) in (on, back)
        else "with a count of 0 something is still in training: freeze every part",
    )
    for parameters, what in ((on, "are awake"), (back, "are given back")):
        if parameters != wanted:
            wrong_parts(parts, count, parameters, wanted, what)
    tied(parts, count, on, back)
    expect(
        len(answer) == len(wanted),
        "a parameter is given back twice: list each once"
        if case.parts == "four"
        else "a matrix that two parts share is given back twice, so an optimizer would move it "
        "twice: list each parameter once",
    )


def tied(parts: list, count: int, on: set, back: set) -> None:
    """A matrix that a frozen part uses too must not move; the rest of its part must."""
    n = len(parts)
    below, above = set(every(parts[: n - count])), set(every(parts[n - count :]))
    expect(
        not (below & above & (on | back)),
        "a matrix that a frozen part and a trained part share is in training: the frozen part "
        "would change, so it stays frozen",
    )
    shares = [part for part in parts[n - count :] if below & set(part.parameters())]
    free = set(every(shares)) - below
    expect(
        free <= on and free <= back,
        "the bias of a tied head is frozen: only the shared matrix is, the rest of the head trains",
    )
    uses = [p for part in parts for p in part.parameters()]
    twice = {p for p in above - below if sum(p is other for other in uses) > 1}
    expect(
        not twice or twice <= on and twice <= back,
        "with every part in training the shared matrix is frozen: no frozen part uses it",
    )


def wrong_parts(parts: list, count: int, parameters: set, wanted: set, what: str) -> None:
    """Say which parts are awake, or given back, instead of the last ones."""
    n = len(parts)
    said = f"of {n} parts and a count of {count}"
    below, above = set(every(parts[: n - count])), set(every(parts[n - count :]))
    expect(
        not below & above & parameters or not parameters <= above,
        "a matrix that a frozen part and a trained part share is in training: the frozen part "
        "would change, so it stays frozen",
    )
    expect(
        parameters != set(every(parts[:count])) or count == n,
        f"{said} the first {count} {what}: the last ones, nearest to the output, are to train",
    )
    expect(
        count == n or parameters != set(every(parts[n - 1 - count : n - 1])),
        f"{said} the last part is left out: the last {count} begin after part {n - count}",
    )
    if wanted < parameters:
        expect(
            False,
            f"{said} parameters of the lower parts {what} too: freeze parts 1 to {n - count}"
            if count < n
            else f"{said} more {what} than there is",
        )
    weights = {p for p in wanted if p.dim() > 1}
    expect(
        parameters != weights or weights == wanted,
        f"{said} the weights {what} but no bias: take all parameters",
    )
    tied(parts, count, parameters, parameters)
    expect(
        not parameters < wanted,
        f"{said} not all of the last {count} {what}: what was frozen before must wake up",
    )
    expect(False, f"{said} the wrong parameters {what}: it should be the last {count} parts'")


def trial(parts: tuple, counts: tuple, before: tuple) -> Trial:
    return Trial(
        "the parameters in training",
        inputs,
        run,
        axes={"count": counts, "parts": parts, "before": before, "sequence": ("list", "tuple")},
        dtypes=("float32",),
        layouts=("plain",),
        gradients=("on", "off"),
        judge=judge,
        scratch=("parts",),
    )


BEFORE = ("awake", "frozen", "half", "gradients")

train_top = Check(
    "train_top",
    "minipeft.course.transfer:train_top",
    "the last parts train and the others are frozen, for every count; a tied matrix stays frozen",
    [
        trial(("four", "nested"), (1, 2, 3, "none", "every"), BEFORE),
        trial(("tied",), (2, 1, "every", "none"), BEFORE),
        trial(("equal",), (1, 2, "none"), ("awake", "frozen")),
        trial(("shared",), (2, 1, "every", "none"), BEFORE),
        trial(("one",), ("every", "none"), ("awake", "frozen")),
        trial(("four", "tied"), ("below", "above"), ("awake",)),
    ],
    [
        mistake(
            lambda view: (
                f"a count of {view.inputs['count']} with {len(view.inputs['parts'])} parts is "
                "impossible: raise a ValueError"
            ),
            when=lambda view: view.difference.kind == "no error",
        ),
        mistake(
            lambda view: (
                f"a count of {view.inputs['count']} with {len(view.inputs['parts'])} parts is "
                "possible, and it is refused: only a count below 0 or above the number of parts "
                "is a ValueError"
            ),
            when=lambda view: (
                isinstance(view.error, ValueError)
                and view.difference.wanted is None
                and 0 <= view.inputs["count"] <= len(view.inputs["parts"])
            ),
        ),
    ],
)
