"""Where a wrong answer leaves the reference: one expression of it, whose value is another one.

The bodies that a learner writes are built once more with every expression as `_probe(n, it)`, which
hands its value on. Then one of them after the other is changed: to nothing, twice as large, turned
along an axis, reshaped, averaged, rounded. The change that gives a learner's answers tells what
went wrong in them, although nobody has foreseen it: "what you get when `mask` is twice as large".

Mutants (`mutants`) change the text, probes change values. They are for words only: the cases alone
decide what is right.
"""

from __future__ import annotations

import ast
import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minipeft.checks.framework.comparing import compare
from minipeft.checks.framework.observing import floating, plain
from minipeft.checks.framework.surroundings import seed_everything

MOST_AXES = 4
STEPS = 8  # to find the factor that a learner's answer holds
STARTS = (1.3, 0.3, 6.0, -1.0)
MANY = 3  # numbers in an answer that a factor does not meet by chance
MODULES = ("torch", "F", "math", "nn", "functools", "itertools", "objectives")


@dataclass(frozen=True)
class Change:
    """What becomes of a value, and in words: "`mask` is twice as large"."""

    words: str
    of: Callable[[Any], Any]
    power: tuple[int, float] | None = None  # of the size of an axis, where it is the factor


@dataclass(frozen=True)
class Place:
    """One expression of the reference, "key.transpose(-2, -1)"."""

    number: int
    text: str


class Probes:
    """The reference with a probe at every expression.

    Args:
        source: of the reference, a `Source`.
        blank: for a class, the methods that the learner writes.
    """

    def __init__(self, source, blank=()) -> None:
        tree = copy.deepcopy(source.tree)
        root = tree.body[0]
        bodies = [root]
        if isinstance(root, ast.ClassDef):
            bodies = [n for n in root.body if isinstance(n, ast.FunctionDef) and n.name in blank]
        instrument = _Instrument()
        for body in bodies:
            instrument.function(body)
        self.places = instrument.places
        self.made = source.build(ast.fix_missing_locations(tree), _probe=self._probe)
        self.number, self.change = -1, None
        self.seen: dict[int, Any] = {}  # what each probe has met, while `watching`
        self.watching = False
        self.ready: dict[tuple, tuple] = {}  # of each case: what is called, and its inputs

    def _probe(self, number: int, value: Any) -> Any:
        if self.watching:
            self.seen.setdefault(number, value)
        return self.change(value) if number == self.number and value is not None else value

    def answer(self, check, trial, case, number: int = -1, change=None) -> Any:
        """What the reference gives in a case with one value changed; _Nothing if it stops."""
        self.number, self.change = number, change
        try:
            key = id(trial), case.key
            if key not in self.ready or trial.scratch:
                subject = self.ready[key][0] if key in self.ready else None
                subject = subject or check.subject(trial, self.made, case)
                self.ready[key] = subject, trial.inputs(case, subject.draw())
            subject, inputs = self.ready[key]
            if trial.draws:
                seed_everything(case.seed % 2**32)
            with torch.no_grad():
                return plain(trial.run(subject.instance, case, SimpleNamespace(**inputs)))
        except Exception:  # the changed value does not fit
            return _Nothing
        finally:
            self.number, self.change = -1, None

    def watch(self, check, trial, case) -> dict[Place, Any]:
        """The value that each place has in a case, the places with the shortest text first."""
        self.seen, self.watching = {}, True
        self.answer(check, trial, case)
        self.watching = False
        places = sorted(self.places, key=lambda place: len(place.text))
        return {place: self.seen[place.number] for place in places if place.number in self.seen}


class _Nothing:
    """No answer."""


class _Instrument(ast.NodeTransformer):
    """Puts `_probe(n, ..)` around expressions, and after the head of a function for arguments."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.once: set[str] = set()

    def function(self, node: ast.FunctionDef) -> None:
        body = node.body
        loads = Counter(
            part.id
            for part in ast.walk(node)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)
        )
        named = {a.arg for a in [*node.args.args, *node.args.kwonlyargs]}
        named |= {n.targets[0].id for n in ast.walk(node) if _is_plain(n)}
        self.once = {name for name in named if loads[name] == 1}  # the same as where it was made
        told = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        names = [a.arg for a in [*node.args.args, *node.args.kwonlyargs] if a.arg != "self"]
        rest = [self.visit(statement) for statement in body[told:]]
        heads = [
            ast.Assign(
                [ast.Name(name, ast.Store())], self.around(ast.Name(name, ast.Load())), lineno=1
            )
            for name in names
        ]
        node.body = [*body[:told], *heads, *rest]

    def around(self, node: ast.expr, text: str | None = None) -> ast.Call:
        place = Place(len(self.places), text or ast.unparse(node))
        self.places.append(place)
        return ast.Call(ast.Name("_probe", ast.Load()), [ast.Constant(place.number), node], [])

    def visit_FunctionDef(self, node: ast.FunctionDef):
        """A function inside of the body: its statements are changed, its head is not."""
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_Name(self, node: ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in (*MODULES, *self.once):
            return self.around(node)
        return node

    def visit_Attribute(self, node: ast.Attribute):
        text = ast.unparse(node)
        whole = copy.copy(node)
        if not isinstance(node.value, ast.Name):
            whole.value = self.visit(node.value)
        return self.around(whole, text) if isinstance(node.ctx, ast.Load) else whole

    def visit_Call(self, node: ast.Call):
        text = ast.unparse(node)
        if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
            node.func.value = self.visit(node.func.value)
        elif isinstance(node.func, ast.Attribute) and node.func.value.id not in (*MODULES, "self"):
            node.func.value = self.visit(node.func.value)
        node.args = [self.visit(argument) for argument in node.args]
        for keyword in node.keywords:
            keyword.value = self.visit(keyword.value)
        return self.around(node, text)

    def generic_visit(self, node):
        text = ast.unparse(node) if isinstance(node, PROBED) else None
        load = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        node = super().generic_visit(node)
        return self.around(node, text) if text and load else node


def _is_plain(node: ast.AST) -> bool:
    """Is this `name = something`?"""
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)


PROBED = (ast.BinOp, ast.Compare, ast.UnaryOp, ast.Subscript, ast.IfExp, ast.Tuple)


# -- what may become of a value --------------------------------------------------------------------


def changes(value: Any) -> Iterator[Change]:
    """Every change of a value of this kind and shape."""
    if isinstance(value, tuple | list):
        if value and all(isinstance(part, Tensor) for part in value):
            for change in changes(value[0]):
                of = change.of
                yield Change(change.words, lambda parts, of=of: type(parts)(map(of, parts)))
    elif isinstance(value, Tensor):
        yield from _of_tensors(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from NUMBERS


def _of_tensors(x: Tensor) -> Iterator[Change]:
    if x.dtype == torch.bool:
        yield from TRUTHS
    elif x.is_floating_point():
        yield from FLOATS
    else:
        yield from WHOLES
    for axis in range(min(x.dim(), MOST_AXES)):
        if x.shape[axis] > 1:
            yield from _along(axis, x)
    for i in range(min(x.dim(), MOST_AXES)):
        for j in range(i):
            yield from _between(j, i, x)


FLOATS = [
    Change("is 0 everywhere", torch.zeros_like),
    Change("has the opposite sign", torch.neg),
    Change("is twice as large", lambda x: 2 * x),
    Change("is half as large", lambda x: x / 2),
    Change("is without its sign (abs)", torch.abs),
    Change("goes through a relu", torch.relu),
    Change("goes through a tanh", torch.tanh),
    Change("goes through a sigmoid", torch.sigmoid),
    Change("goes through a leaky relu", F.leaky_relu),
    Change("goes through an elu", F.elu),
    Change("goes through a silu", F.silu),
    Change("goes through a gelu", F.gelu),
    Change("goes through exp", torch.exp),
    Change("goes through log", torch.log),
    Change("is squared", torch.square),
    Change("is a square root", torch.sqrt),
    Change("is turned over (1 / it)", torch.reciprocal),
    Change("is rounded to bfloat16", lambda x: x.to(torch.bfloat16).to(x.dtype)),
    Change("is rounded to float16", lambda x: x.to(torch.float16).to(x.dtype)),
    Change("is rounded to float32", lambda x: x.to(torch.float32).to(x.dtype)),
    Change("is rounded to whole numbers", torch.round),
    Change("is read as yes or no", lambda x: (x != 0).to(x.dtype)),
]
WHOLES = [
    Change("is one too large", lambda x: x + 1),
    Change("is one too small", lambda x: x - 1),
    Change("is without its sign (abs)", torch.abs),
    Change("is never below 0", lambda x: x.clamp(min=0)),
    Change("is 0 everywhere", torch.zeros_like),
    Change("is 1 everywhere", torch.ones_like),
]
TRUTHS = [
    Change("is turned round (not)", torch.logical_not),
    Change("is True everywhere", torch.ones_like),
    Change("is False everywhere", torch.zeros_like),
]
NUMBERS = [
    Change("is one too large", lambda x: x + 1),
    Change("is one too small", lambda x: x - 1),
    Change("has the opposite sign", lambda x: -x),
    Change("is twice as large", lambda x: 2 * x),
    Change("is half as large", lambda x: x / 2),
    Change("is squared", lambda x: x**2),
    Change("is a square root", lambda x: math.sqrt(x)),
    Change("is turned over (1 / it)", lambda x: 1 / x),
    Change("is 0", lambda x: type(x)(0)),
    Change("is 1", lambda x: type(x)(1)),
    Change("is rounded down", lambda x: math.floor(x)),
    Change("is rounded to a whole number", lambda x: round(x)),
    *(Change(f"is rounded to {n} digits", lambda x, n=n: round(x, n)) for n in (1, 2, 3, 4, 6)),
]


def _along(a: int, x: Tensor) -> Iterator[Change]:
    """Along an axis of at least two."""
    behind = f"along axis {a}"
    yield Change(f"runs backwards {behind}", lambda x: x.flip(a))
    yield Change(f"is its first one {behind}, for all", lambda x: x.narrow(a, 0, 1).expand_as(x))
    yield Change(f"is its last one {behind}, for all", lambda x: x.narrow(a, -1, 1).expand_as(x))
    yield Change(f"is shifted by one place {behind}", lambda x: x.roll(1, a))
    yield Change(f"is shifted by one place {behind}", lambda x: x.roll(-1, a))
    yield Change(f"is sorted {behind}", lambda x: x.sort(a).values)
    if x.dtype == torch.bool:
        yield Change(
            f"is true {behind} where it is anywhere", lambda x: x.any(a, True).expand_as(x)
        )
    if not x.is_floating_point():
        return
    first = lambda x: (torch.arange(x.shape[a]) == 0).view(-1, *[1] * (x.dim() - a - 1))  # noqa: E731
    yield Change(f"is 0 but for its first one {behind}", lambda x: x * first(x))
    yield Change(f"is 0 at its first one {behind}", lambda x: x * ~first(x))
    yield Change(f"is averaged {behind}", lambda x: x.mean(a, True).expand_as(x))
    yield Change(f"is summed {behind}", lambda x: x.sum(a, True).expand_as(x))
    yield Change(f"is summed up step by step {behind}", lambda x: x.cumsum(a))
    yield Change(f"goes through a softmax {behind}", lambda x: x.softmax(a))
    yield Change(f"goes through a log_softmax {behind}", lambda x: x.log_softmax(a))
    yield Change(f"is divided by its length {behind}", lambda x: F.normalize(x, dim=a))
    yield Change(f"is less its mean {behind}", lambda x: x - x.mean(a, True))
    yield Change(f"is less its largest {behind}", lambda x: x - x.amax(a, True))
    yield Change(f"goes through a norm {behind}", lambda x: _layer_norm(x, a))
    for name, power in (("the size", 1), ("the root of the size", 0.5)):
        for verb, p in (("multiplied", power), ("divided", -power)):
            words = f"is {verb} by {name} of axis {a}"
            yield Change(words, lambda x, p=p: x * x.shape[a] ** p, (a, p))


def _layer_norm(x: Tensor, axis: int) -> Tensor:
    variance = x.var(axis, keepdim=True, unbiased=False)
    return (x - x.mean(axis, keepdim=True)) / (variance + 1e-5).sqrt()


def _between(i: int, j: int, x: Tensor) -> Iterator[Change]:
    """Two axes: transposed, or reshaped where a transpose is asked for."""
    if x.shape[i] < 2 or x.shape[j] < 2:
        return
    turned = list(x.shape)
    turned[i], turned[j] = turned[j], turned[i]
    if x.shape[i] == x.shape[j]:
        yield Change(f"has its axes {i} and {j} interchanged", lambda x: x.transpose(i, j))
    words = f"is reshaped where its axes {i} and {j} are to be transposed"
    yield Change(words, lambda x: x.reshape(_turned(x, i, j)).transpose(i, j))
    yield Change(words, lambda x: x.transpose(i, j).reshape(x.shape))


def _turned(x: Tensor, i: int, j: int) -> list[int]:
    shape = list(x.shape)
    shape[i], shape[j] = shape[j], shape[i]
    return shape


# -- the search ------------------------------------------------------------------------------------


def what_was_changed(
    check, trial, failures: list, passed: list, factors: bool = True
) -> str | None:
    """ "`mask` is twice as large": the change that gives the answers of all these failures.

    passed: (trial, case) of cases that the learner's object passes, and the changed one must too.
    factors: look for numbers too that are wrong by a factor, another one in each case.
    """
    search = _Search(check, trial, failures, passed)
    try:
        return search.change() or search.constant() or (search.factor() if factors else None)
    finally:
        check.probes.ready.clear()


class _Search:
    """One question about the failures of a trial."""

    def __init__(self, check, trial, failures: list, passed: list) -> None:
        self.check, self.trial, self.failures = check, trial, failures
        self.passed = [(t, c) for t, c in passed if not t.copies and t.judge is None]
        self.met = check.probes.watch(check, trial, failures[0].case)

    def answer(self, failure, place: Place, of: Callable) -> Any:
        return self.check.probes.answer(self.check, self.trial, failure.case, place.number, of)

    def same(self, failure, place: Place, of: Callable) -> bool:
        """Does this change give the learner's answer?"""
        answer, given = self.answer(failure, place, of), failure.given.result
        if answer is _Nothing:
            return False
        return (
            compare(given, answer, self.trial) is None
            and compare(answer, given, self.trial) is None
        )

    def holds(self, place: Place, of: Callable) -> bool:
        """In every failure (there, or where the same words stand), and no passed case differs?"""
        alike = [place, *(p for p in self.met if p.text == place.text and p is not place)]
        others = [p for p in self.check.probes.places if p.text == place.text and p not in alike]
        return all(
            any(self.same(failure, one, of) for one in [*alike, *others])
            for failure in self.failures[1:]
        ) and all(self.is_right(one, case, place, of) for one, case in self.passed)

    def is_right(self, trial, case, place: Place, of: Callable) -> bool:
        answer = self.check.probes.answer(self.check, trial, case, place.number, of)
        wanted = self.check.expected(trial, case)
        if wanted.error is not None:
            return answer is _Nothing
        return answer is not _Nothing and compare(wanted.result, answer, trial) is None

    def change(self) -> str | None:
        for place, value in self.met.items():
            for change in changes(value):
                if self.same(self.failures[0], place, change.of) and self.holds(place, change.of):
                    return f"`{place.text}` {self.words(place, value, change)}"
        return None

    def words(self, place: Place, value: Any, change: Change) -> str:
        """A factor that is the same in every case has nothing to do with a size."""
        if change.power is None:
            return change.words
        axis, power = change.power
        c = value.shape[axis] ** power if isinstance(value, Tensor) else 1.0
        constant = self.holds(place, lambda x: x * c)
        return f"is {c:.4g} times as large" if constant else change.words

    def constant(self) -> str | None:
        """A number that is another one, the same in every case: "`steps` is 400"."""
        for place, value in self.numbers(int | float):
            found = [self.fitted(failure, place) for failure in self.failures[:3]]
            if len(found) < 2 or None in found:
                continue
            number = found[0] * value
            others = [self.value(f, place) for f in self.failures[:3]]
            made = [c * v for c, v in zip(found, others, strict=True)]
            if len(set(others)) > 1 and all(abs(m - number) < 1e-3 * abs(number) for m in made):
                return f"`{place.text}` is {number:.4g}, whatever it should be"
        return None

    def factor(self) -> str | None:
        """A factor for each case: "`scores` is 1.4 times as large"."""
        count = len(_flat(self.failures[0].given.result))
        for place, _ in self.numbers(int | float | Tensor):
            first = self.fitted(self.failures[0], place)
            if first is None:
                continue
            others = [self.fitted(failure, place) for failure in self.failures[1:]]
            if None in others:
                continue
            if others and max(abs(c - first) for c in others) < 1e-3 * abs(first):
                return f"`{place.text}` is {first:.4g} times as large"
            if count >= MANY:  # one number is met by some factor of any value
                return f"`{place.text}` is {first:.4g} times as large in the smallest case"
        return None

    def numbers(self, kinds) -> Iterator[tuple[Place, Any]]:
        for place, value in self.met.items():
            tensor = isinstance(value, Tensor)
            if isinstance(value, kinds) and not isinstance(value, bool):
                if not tensor or value.is_floating_point():
                    yield place, value

    def value(self, failure, place: Place) -> Any:
        probes = self.check.probes
        met = probes.watch(self.check, self.trial, failure.case)
        return met.get(place, 0)

    def fitted(self, failure, place: Place) -> float | None:
        """The factor of a value with which the reference gives a learner's answer, if any does."""
        given = _flat(failure.given.result)

        def gap(c: float) -> Tensor | None:
            answer = self.answer(failure, place, lambda x: c * x)
            flat = None if answer is _Nothing else _flat(answer)
            fits = flat is not None and flat.shape == given.shape and bool(flat.isfinite().all())
            return flat - given if fits else None

        for start in STARTS:
            c, step = start, 1e-4 * start
            for _ in range(STEPS):  # Gauss and Newton
                now, beside = gap(c), gap(c + step)
                slope = None if now is None or beside is None else (beside - now) / step
                if slope is None or not slope.any():
                    break
                before, c = c, c - ((slope @ now) / (slope @ slope)).item()
                if not abs(c) < 1e6 or abs(c - before) < 1e-10 * abs(c):
                    break
            if not 1e-6 < abs(c) < 1e6 or abs(c - 1) < 1e-3:
                continue
            if self.same(failure, place, lambda x, c=c: c * x):
                return c
        return None


def _flat(result: Any) -> Tensor:
    """All floating-point numbers of a result in a row."""
    parts = [t.flatten().double() for t in floating(result)]
    if isinstance(result, int | float):
        parts = [torch.tensor([float(result)], dtype=torch.float64)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
