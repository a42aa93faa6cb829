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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from minipeft.checks.framework.changes import Change, changes
from minipeft.checks.framework.comparing import compare
from minipeft.checks.framework.observing import floating, plain
from minipeft.checks.framework.surroundings import seed_everything

STEPS = 8  # to find the factor that a learner's answer holds
STARTS = (1.3, 0.3, 6.0, -1.0)
MANY = 3  # numbers in an answer that a factor does not meet by chance
MODULES = ("torch", "F", "math", "nn", "functools", "itertools", "objectives")


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
        self.expressions = instrument.expressions
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
        ordered = sorted(self.expressions, key=lambda place: len(place.text))
        return {place: self.seen[place.number] for place in ordered if place.number in self.seen}


class _Nothing:
    """No answer."""


class _Instrument(ast.NodeTransformer):
    """Puts `_probe(n, ..)` around expressions, and after the head of a function for arguments."""

    def __init__(self) -> None:
        self.expressions: list[Place] = []
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
        has_docstring = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        names = [a.arg for a in [*node.args.args, *node.args.kwonlyargs] if a.arg != "self"]
        rest = [self.visit(statement) for statement in body[has_docstring:]]
        heads = [
            ast.Assign(
                [ast.Name(name, ast.Store())], self.around(ast.Name(name, ast.Load())), lineno=1
            )
            for name in names
        ]
        node.body = [*body[:has_docstring], *heads, *rest]

    def around(self, node: ast.expr, text: str | None = None) -> ast.Call:
        place = Place(len(self.expressions), text or ast.unparse(node))
        self.expressions.append(place)
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
        same_text = [place, *(p for p in self.met if p.text == place.text and p is not place)]
        others = [
            p for p in self.check.probes.expressions if p.text == place.text and p not in same_text
        ]
        return all(
            any(self.same(failure, one, of) for one in [*same_text, *others])
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
        if isinstance(value, float) and "one too" in change.words:
            other = f"{change.of(value):.4g} for {value:.4g}"
            return f"{change.words} ({other}: is a number written in its place?)"
        if change.power is None:
            return change.words
        axis, power = change.power
        c = value.shape[axis] ** power if isinstance(value, Tensor) else 1.0
        constant = self.holds(place, lambda x: x * c)
        return f"is {c:.4g} times as large" if constant else change.words

    def constant(self) -> str | None:
        """A number that is another one, the same in every case: "`steps` is 400"."""
        for place, value in self.numbers(int | float):
            factors = [self.fitted(failure, place) for failure in self.failures[:3]]
            if len(factors) < 2 or None in factors:
                continue
            number = factors[0] * value
            others = [self.value(f, place) for f in self.failures[:3]]
            made = [c * v for c, v in zip(factors, others, strict=True)]
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
