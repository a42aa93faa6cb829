"""What the checks look at: `python -m minipeft.checks.coverage`.

For each exercise: how many cases there are, which parameters never have two values, which pairs of
options never meet in two values each. A gap is a mistake that a check cannot see; the exit code is
1 then. With --mutants every small change of the reference goes through the check, and those it
accepts are listed. With --mistakes every usual mistake does, and must be named by its sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minipeft.checks import EXERCISES
from minipeft.checks.framework import Check, CheckFailed, NumberCheck
from minipeft.checks.framework.naming import wrong_object
from minipeft.checks.framework.surroundings import surroundings

Calls = list[dict[str, set]]  # for each case: parameter -> the values it had


@dataclass(frozen=True)
class Report:
    """Of one check: cases, parameters, options, and what never varied."""

    name: str
    cases: int
    parameters: tuple[str, ...]
    options: tuple[str, ...]
    never_varied: tuple[str, ...]
    one_setting: tuple[str, ...]  # numbers that might as well be written into a solution
    pairs_never_varied: tuple[tuple[str, str], ...]

    def line(self) -> str:
        gaps = [
            *self.never_varied,
            *self.one_setting,
            *(f"{a} x {b}" for a, b in self.pairs_never_varied),
        ]
        return (
            f"{self.name:<16}{self.cases:>6} cases{len(self.parameters):>4} parameters"
            f"{len(self.options):>4} options   never varied: {len(gaps)}"
            + (f" ({', '.join(gaps)})" if gaps else "")
        )


def report(check: Check) -> Report:
    """Run every case with the reference, and see which arguments it was called with."""
    calls: Calls = []
    with surroundings():
        for trial in check.trials:
            for case in trial.cases:
                calls.append({})
                watched = _watched(check, calls[-1])
                check.seen(trial, check.subject(trial, watched, case))
    parameters = list(_parameters(check))
    options = [p for p in parameters if any(not _data(v) for c in calls for v in c.get(p, ()))]
    constant = [p for p in parameters if len(set().union(*(c.get(p, set()) for c in calls))) < 2]
    pairs = [
        (a, b)
        for a, b in itertools.combinations([o for o in options if o not in constant], 2)
        if not _vary_together(calls, a, b) and not check.impossible_pair(a, b)
    ]
    single = [
        p
        for p in options
        if p not in constant and _one_setting(set().union(*_values(calls, p)), p, check)
    ]
    cases = sum(len(trial.cases) for trial in check.trials)
    return Report(
        check.name,
        cases,
        tuple(parameters),
        tuple(options),
        tuple(constant),
        tuple(single),
        tuple(pairs),
    )


def _values(calls: Calls, name: str) -> list[set]:
    return [call.get(name, set()) for call in calls]


def _methods(check: Check) -> list[str]:
    return ["__init__", *check.blank]


def _parameters(check: Check) -> Iterator[str]:
    """ "forward.mask", or "mask" for a function."""
    if not inspect.isclass(check.reference):
        yield from inspect.signature(check.reference).parameters
        return
    for method in _methods(check):
        if method in check.inner:
            continue
        for name in list(inspect.signature(getattr(check.reference, method)).parameters)[1:]:
            yield f"{method}.{name}".removeprefix("__init__.")


def _one_setting(values: set, name: str, check: Check) -> bool:
    """Is one number (or list) all that is tried beside the default, or whole ones of a float?"""
    method, _, parameter = name.rpartition(".")
    owner = check.reference
    if inspect.isclass(owner):
        owner = getattr(owner, method or "__init__")
    about = inspect.signature(owner).parameters[parameter]
    numbers = {v for v in values if _is_number(v)} - {repr(about.default)}
    lists = {v for v in values if _data(v) and v[1] in ("tuple", "list")}
    lists -= {_described(about.default)} if about.default is not about.empty else set()
    if len(numbers | lists) == 1:
        return True
    whole = all(float(number).is_integer() for number in numbers)
    return bool(numbers) and about.annotation in (float, "float") and whole


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip("-")[:1].isdigit()


def _watched(check: Check, seen: dict[str, set]) -> Any:
    """The reference, writing down its arguments."""

    def note(function, prefix: str, arguments: tuple, options: dict) -> None:
        bound = inspect.signature(function).bind(*arguments, **options)
        for name in inspect.signature(function).parameters:
            if name != "self":
                value = _described(bound.arguments[name]) if name in bound.arguments else "left out"
                seen.setdefault(prefix + name, set()).add(value)

    reference = check.reference
    if not inspect.isclass(reference):

        def function(*arguments, **options):
            note(reference, "", arguments, options)
            return reference(*arguments, **options)

        return function
    methods = {}
    for name in _methods(check):
        original = getattr(reference, name)

        def method(self, *arguments, _original=original, _name=name, **options):
            prefix = "" if _name == "__init__" else f"{_name}."
            note(_original, prefix, (self, *arguments), options)
            return _original(self, *arguments, **options)

        methods[name] = method
    return type(reference.__name__, (reference,), methods)


def _described(value: Any) -> Any:
    """What tells one argument from another; data by its form, options by their value."""
    if isinstance(value, Tensor):
        return ("data", str(value.dtype), tuple(value.shape), value.is_contiguous())
    if isinstance(value, torch.Generator):
        return "given"
    if isinstance(value, nn.Module):
        return (
            "data",
            type(value).__name__,
            sum(tensor.numel() for tensor in (*value.parameters(), *value.buffers())),
            tuple(p.requires_grad for p in value.parameters()),
        )
    if isinstance(value, list | tuple):
        return ("data", type(value).__name__, len(value), repr(value)[:200])
    if isinstance(value, dict):  # a cache: before the first step, and later
        return "given" if value else "empty"
    if is_dataclass(value):
        return ("data", repr(value))
    if value is None or isinstance(value, bool | int | float | str | slice):
        return repr(value)
    plain = {k: v for k, v in vars(value).items() if isinstance(v, int | str)}
    return ("data", type(value).__name__, len(getattr(value, "words", None) or ()), repr(plain))


def _data(value: Any) -> bool:
    return isinstance(value, tuple) and value[0] == "data"


def _kind(value: Any) -> Any:
    """For pairs any tensor is as good as any other."""
    return "given" if _data(value) else value


def _vary_together(calls: Calls, a: str, b: str) -> bool:
    """Are there two values of each that meet in all four ways?"""
    met = {(_kind(x), _kind(y)) for call in calls for x in call.get(a, ()) for y in call.get(b, ())}
    by_x: dict[Any, set] = {}
    for x, y in met:
        by_x.setdefault(x, set()).add(y)
    return any(len(one & two) > 1 for one, two in itertools.combinations(by_x.values(), 2))


def survivors(check: Check, known: Collection[str] = ()) -> tuple[int, list[str]]:
    """How many mutants there are, and the keys of those that the check accepts.

    known: keys of mutants that are not tried, since a person has read them.
    """
    count, accepted = 0, []
    for mutant, wrong in check.mutants():
        count += 1
        if mutant.key not in known and wrong is not None and check.accepts(wrong):
            accepted.append(mutant.key)
    return count, accepted


def misnamed(check: Check, most: int | None = None) -> list[str]:
    """The usual mistakes that are accepted, or rejected with a sentence of no mistake.

    Of two mistakes in one object the one that shows first may be named. most: so many of them,
    spread over the list, are asked for their sentence, the others for their verdict only.
    """
    sentences = {entry.sentence for entry in check.mistakes if isinstance(entry.sentence, str)}
    made = [(entry, wrong_object(check, entry)) for entry in check.mistakes]
    made = [(entry, wrong) for entry, wrong in made if wrong is not None]
    step = 1 if most is None else max(1, math.ceil(len(made) / most))
    gaps = []
    for place, (entry, wrong) in enumerate(made):
        if place % step:
            said = entry.sentence if not check.accepts(wrong) else "accepted"
        else:
            try:
                check(wrong)
                said = "accepted"
            except CheckFailed as error:
                said = str(error)
        if said not in sentences and said != entry.sentence:
            gaps.append(f"{entry.sentence}: {said}")
    return gaps


def unexplained(check: NumberCheck) -> list[str]:
    """What is missing where the answer is a number: each of these is a gap."""
    gaps = [] if len(check.wrong) > 1 else ["fewer than two wrong answers are explained"]
    exactly = NumberCheck(check.name, "", None, tolerance=min(check.tolerance, 1e-3))
    for place, (value, sentence) in enumerate(check.wrong):
        if check.accepts(check.right | value if isinstance(value, Mapping) else value):
            gaps.append(f"{value!r} is right")
        if any(exactly.equal(value, other) for other, _ in check.wrong[:place]):
            gaps.append(f"{value!r} stands there twice")
        if len(sentence) < 20:
            gaps.append(f"{value!r} is not explained")
    return gaps


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m minipeft.checks.coverage", description=__doc__)
    parser.add_argument("names", nargs="*", help="checks, all of them when none is named")
    parser.add_argument(
        "--mistakes", action="store_true", help="also list usual mistakes that are not named"
    )
    parser.add_argument("--mutants", action="store_true", help="also list the mutants that survive")
    options = parser.parse_args(arguments)
    gaps = tried = passed = 0
    checks = [c for c in EXERCISES.values() if c.name in options.names or not options.names]
    for check in checks:
        if isinstance(check, NumberCheck):
            missing = unexplained(check)
            gaps += len(missing)
            said = f" ({', '.join(missing)})" if missing else ""
            print(f"{check.name:<16} {len(check.wrong)} wrong answers explained{said}", flush=True)
            continue
        coverage = report(check)
        gaps += len(coverage.never_varied) + len(coverage.one_setting)
        gaps += len(coverage.pairs_never_varied)
        print(coverage.line(), flush=True)
        if options.mistakes:
            with contextlib.redirect_stdout(io.StringIO()):
                missed = misnamed(check)
            gaps += len(missed)
            print(f"  {len(check.mistakes)} usual mistakes, {len(missed)} not named", flush=True)
            for line in missed:
                print(f"    {line}", flush=True)
        if options.mutants:
            count, accepted = survivors(check)
            tried, passed = tried + count, passed + len(accepted)
            print(f"  {count} mutants, {len(accepted)} accepted", flush=True)
            for key in accepted:
                print(f"    {key}", flush=True)
    print(f"{len(checks)} exercises, options never varied: {gaps}")
    if options.mutants:
        print(f"{tried:,} mutants, {passed} accepted: see tests/equivalent_mutants.py")
    return 1 if gaps else 0


if __name__ == "__main__":
    raise SystemExit(main())
