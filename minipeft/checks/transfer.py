"""Checks of lesson 03: what is trained, what training occupies, what was forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from minipeft.checks.framework import check, expect


@check(
    "the last parts train and the others are frozen, for every count; a tied matrix stays frozen"
)
def train_top(function: Callable) -> None:
    """train_top(parts, count) -> the parameters in training."""
    for count in (1, 2, 4, 3, 0, 2):  # the same parts again: what was frozen must wake up
        _top_of_four(function, count, _four())
    parts = _four()
    for count in (1, 4, 2, 0, 3):
        _top_of_four(function, count, parts)
    _tied(function)
    _shared_on_top(function)
    for count in (-1, 5):
        try:
            function(_four(), count)
        except ValueError:
            continue
        expect(False, f"a count of {count} with 4 parts is impossible: raise a ValueError")


def _four() -> list[nn.Module]:
    """Four parts with two parameters each."""
    return [nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 3), nn.Linear(3, 2)]


def _own(parts: Sequence[nn.Module]) -> set[nn.Parameter]:
    return {parameter for part in parts for parameter in part.parameters()}


def _listed(answer) -> list[nn.Parameter]:
    """What came back, which must be parameters, each once."""
    expect(answer is not None, "train_top gives None back: return the parameters in training")
    try:
        answer = list(answer)
    except TypeError:
        expect(False, f"train_top gives back a {type(answer).__name__}: return a list")
    strange = [thing for thing in answer if not isinstance(thing, nn.Parameter)]
    kind = type(strange[0]).__name__ if strange else ""
    expect(
        not strange,
        f"the list holds a {kind}: an optimizer wants the parameters themselves, part.parameters()",
    )
    return answer


def _top_of_four(function: Callable, count: int, parts: list[nn.Module]) -> None:
    values = [parameter.detach().clone() for part in parts for parameter in part.parameters()]
    answer = _listed(function(parts, count))
    on = {parameter for parameter in _own(parts) if parameter.requires_grad}
    wanted = _own(parts[4 - count :])
    now = [parameter for part in parts for parameter in part.parameters()]
    expect(
        all(torch.equal(a, b) for a, b in zip(values, now, strict=True)),
        "the values of the parameters changed: freezing sets requires_grad and nothing else",
    )
    said = "with a count of 0"
    expect(
        count or not (on or answer),
        f"{said} something is still in training: parts[-0:] is the whole list, count from the front"
        if on == _own(parts) or set(answer) == _own(parts)
        else f"{said} something is still in training: freeze every part",
    )
    said = f"of 4 parts and a count of {count}"
    for found, what in ((on, "are awake"), (set(answer), "are given back")):
        if found == wanted:
            continue
        expect(
            found != _own(parts[:count]) or count == 4,
            f"{said} the first {count} {what}: the last ones, nearest to the output, are to train",
        )
        expect(
            count == 4 or found != _own(parts[3 - count : 3]),
            f"{said} the last part is left out: the last {count} begin after part {4 - count}",
        )
        expect(
            not wanted < found,
            f"{said} parameters of the lower parts {what} too: freeze parts 1 to {4 - count}"
            if count < 4
            else f"{said} more {what} than there is",
        )
        weights = {p for p in wanted if p.dim() > 1}
        expect(found != weights, f"{said} the weights {what} but no bias: take all parameters")
        expect(
            not found < wanted,
            f"{said} not all of the last {count} {what}: what was frozen before must wake up",
        )
        expect(False, f"{said} the wrong parameters {what}: it should be the last {count} parts'")
    expect(len(answer) == len(wanted), "a parameter is given back twice: list each once")


class _Model(nn.Module):
    """Words, a middle, and a head on the same words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 3)
        self.middle = nn.Linear(3, 3)
        self.head = nn.Linear(3, 7)
        self.head.weight = self.words.weight

    def parts(self) -> list[nn.Module]:
        return [self.words, self.middle, self.head]


def _tied(function: Callable) -> None:
    """The head's matrix is the embedding's: with the embedding frozen it must not move."""
    model = _Model()
    answer = _listed(function(model.parts(), 2))
    words = model.words.weight
    expect(
        not words.requires_grad and words not in set(answer),
        "a matrix that a frozen part and a trained part share is in training: the frozen part "
        "would change, so it stays frozen",
    )
    expect(
        model.head.bias.requires_grad and model.head.bias in set(answer),
        "the bias of a tied head is frozen: only the shared matrix is, the rest of the head trains",
    )
    answer = _listed(function(model.parts(), 3))
    expect(
        words.requires_grad and words in set(answer),
        "with every part in training the shared matrix is frozen: no frozen part uses it",
    )
    expect(
        len(answer) == len(set(answer)),
        "a matrix that two parts share is given back twice, so an optimizer would move it twice: "
        "list each parameter once",
    )


def _shared_on_top(function: Callable) -> None:
    """Two trained parts share a layer; nobody frozen does."""
    shared = nn.Linear(3, 3)
    answer = _listed(function([nn.Linear(2, 3), shared, nn.Sequential(shared)], 2))
    expect(
        set(answer) == set(shared.parameters()) and shared.weight.requires_grad,
        "a layer that two trained parts share is frozen: only what a frozen part uses is",
    )
    expect(len(answer) == 2, "a layer that two parts share is given back twice: list it once")


@check("bytes of weights, gradients and Adam's two means; frozen, tied and bfloat16 parameters")
def training_bytes(function: Callable) -> None:
    """training_bytes(model) -> {"weights": e N, "gradients": e n, "adam": 2 e n}."""
    cases = [("in training", 0), ("frozen but for one part", 2), ("frozen", 4)]
    for what, frozen in cases:
        parts = [nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 3)]
        for part in parts[:frozen]:
            part.requires_grad_(False)
        N = sum(p.numel() for p in _own(parts))
        n = sum(p.numel() for p in _own(parts[frozen:]))
        _bytes(function, nn.Sequential(*parts), what, N, n, N, n, 4)
    tied = _Model()  # 21 words, 12 middle, 7 bias
    _bytes(function, tied, "with a tied head", 40, 40, 61, 61, 4)
    tied.words.requires_grad_(False)
    _bytes(function, tied, "with a tied, frozen matrix", 40, 19, 61, 19, 4)
    half = nn.Linear(6, 5).bfloat16()
    _bytes(function, half, "in bfloat16", 35, 35, 35, 35, 2)


def _bytes(function, model, what: str, N: int, n: int, N_twice: int, n_twice: int, e: int) -> None:
    """Compare with the prediction and with what usual mistakes predict."""
    answer = function(model)
    expect(isinstance(answer, dict), "training_bytes should return a dict (is a return missing?)")
    names = ("weights", "gradients", "adam")
    missing = [name for name in names if name not in answer]
    expect(not missing, f"the dict has no {', '.join(missing)}")
    got = tuple(int(answer[name]) for name in names)
    right = (e * N, e * n, 2 * e * n)
    if got == right:
        return
    said = f"of a model {what}"
    weights, gradients, adam = got
    expect(
        got != (N, n, 2 * n),
        f"{said} you count numbers, not bytes: times element_size(), {e} here",
    )
    expect(
        e == 4 or got != (4 * N, 4 * n, 8 * n),
        f"{said} you count 4 bytes per number: ask the parameter, element_size() is {e} here",
    )
    for twice, part in ((N_twice, weights), (n_twice, gradients)):
        expect(
            twice in (N, n) or part != e * twice,
            f"{said} the shared matrix counts twice: model.parameters() lists it once, "
            "state_dict() does not",
        )
    expect(
        n == N or weights != e * n,
        f"{said} only what trains is counted as weights: the frozen ones must be in memory too",
    )
    expect(
        n == N or gradients != e * N,
        f"{said} frozen parameters get gradients: they need none, and that is the point",
    )
    expect(
        n == N or adam != 2 * e * N,
        f"{said} Adam keeps means of frozen parameters: the optimizer never sees those",
    )
    expect(
        adam != e * n, f"{said} Adam keeps one mean: it keeps two, of the gradient and its square"
    )
    wrong = next(name for name, g, r in zip(names, got, right, strict=True) if g != r)
    expect(
        False,
        f"{said}, N = {N} parameters of which n = {n} train, {e} bytes each, {wrong} should be "
        f"{right[names.index(wrong)]}, not {answer[wrong]}",
    )


@check(
    "share of the right answers that went wrong; gains do not count, nor changes among the wrong"
)
def forgotten(function: Callable) -> None:
    """forgotten(before, after, targets) -> lost / right before."""
    targets = ["lima", "paris", "rome", "oslo", "cairo", "delhi"]
    before = ["lima", "paris", "rome", "oslo", "x", "y"]  # 4 of 6 right
    cases = {  # 4 of these 6 are known before
        "nothing changed": before,
        "one of four is lost": ["lima", "paris", "rome", "z", "x", "y"],
        "one is lost and two are learnt": ["lima", "paris", "rome", "z", "cairo", "delhi"],
        "a wrong answer became another wrong one": ["lima", "paris", "rome", "oslo", "z", "z"],
        "all is lost": ["z"] * 6,
        "three of four are lost": ["paris", "lima", "rome", "rome", "x", "y"],
    }
    answers, now, lost, changed = [], [], [], []
    for after in cases.values():
        answers.append(_number(function(list(before), list(after), list(targets))))
        rows = list(zip(before, after, targets, strict=True))
        now.append(sum(a == t for _, a, t in rows))
        lost.append(sum(b == t != a for b, a, t in rows))
        changed.append(sum(a != b for b, a, _ in rows))
    for sentence, mistaken in (
        ("take the fall of the accuracy: gains hide losses there", [(4 - x) / 6 for x in now]),
        ("let what was learnt make up for what was lost", [(4 - x) / 4 for x in now]),
        ("count everything that is wrong now, known before or not", [(6 - x) / 6 for x in now]),
        ("divide by all questions: only the known can be forgotten", [x / 6 for x in lost]),
        ("give the share that is kept: the share lost is asked for", [1 - x / 4 for x in lost]),
        ("give a number of questions: divide by those right before", lost),
        ("give per cent: the share is a number from 0 to 1", [25 * x for x in lost]),
        ("count every changed answer: only those right before count", [x / 4 for x in changed]),
        ("count every changed answer: only those right before count", [x / 6 for x in changed]),
    ):
        expect(not _equal(answers, mistaken), f"you {sentence}")
    for what, answer, number in zip(cases, answers, lost, strict=True):
        expect(
            abs(answer - number / 4) < 1e-6,
            f"when {what}, the answer should be {number / 4:g}, not {answer:g}",
        )
    spelt = function(["Lima .", "oslo"], ["lima", "Oslo  ."], ["lima .", "oslo"])
    expect(
        _number(spelt) == 0,
        '"Lima ." and "lima" are the same answer: compare after metrics.normal',
    )
    for arguments, why in (
        ((["x"], ["lima"], ["lima"]), "nothing was right before"),
        ((["lima", "oslo"], ["lima"], ["lima", "oslo"]), "the lists differ in length"),
    ):
        try:
            function(*arguments)
        except ValueError:
            continue
        except ZeroDivisionError:
            expect(False, f"when {why} you divide by zero: raise a ValueError that says so")
        expect(False, f"when {why} there is no answer: raise a ValueError that says so")


def _equal(some: Sequence[float], others: Sequence[float]) -> bool:
    return all(abs(a - b) < 1e-6 for a, b in zip(some, others, strict=True))


def _number(answer) -> float:
    expect(
        isinstance(answer, int | float) and not isinstance(answer, bool),
        f"forgotten should return a number, not a {type(answer).__name__}"
        + (" (is a return missing?)" if answer is None else ""),
    )
    return float(answer)
