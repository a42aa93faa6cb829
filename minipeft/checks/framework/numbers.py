"""Exercises whose answer is a number, a shape or a word, worked out before the code does.

    lora_parameters = NumberCheck(
        "lora_parameters", "r (in + out) for each of two maps", 2048,
        wrong={1024: "that is one of the two maps: query and value are both adapted"},
    )
    checks.lora_parameters(2048)

Equivalent forms are one answer: 2048, 2048.0, a tensor or an array of one number, Fraction(2048);
(2, 3), [2, 3], torch.Size([2, 3]), a tensor that holds the sizes; "b", "B" for a choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy
import torch

from minipeft.checks.framework.comparing import as_number
from minipeft.checks.framework.errors import GREEN, PLAIN, CheckFailed, NotFinished, is_stub
from minipeft.checks.framework.showing import show, with_article
from minipeft.checks.framework.surroundings import surroundings


def number(value: Any, name: str) -> float:
    """What a function gave back, as a number.

    Raises:
        CheckFailed: it is none.
    """
    converted = as_number(value)
    if converted is None:
        missing = " (is a return missing?)" if value is None else ""
        raise CheckFailed(f"{name} should return a number, not {_kind(value)}{missing}")
    return converted


class NumberCheck:
    """Judges an answer that is a number, a shape, a word (of a choice), or a dict of such.

    Args:
        name: of the check, as notebooks call it; the learner's variable has the same.
        tried: what the green line says.
        right: the answer, or a function that works it out.
        wrong: wrong answers and where each comes from: a mapping, or pairs. The nearest one is
            told, of equally near ones the first; rounded and in per cent, too.
        tolerance: relative, of what is measured; whole numbers (ints) are exact all the same.
    """

    def __init__(
        self,
        name: str,
        tried: str,
        right: Any | Callable[[], Any],
        wrong: Mapping[Any, str] | list[tuple[Any, str]] = (),
        tolerance: float = 0.0,
    ) -> None:
        self.__name__ = self.name = name
        self.tried, self._right, self.tolerance = tried, right, tolerance
        self.wrong = list(wrong.items()) if isinstance(wrong, Mapping) else list(wrong)

    @property
    def right(self) -> Any:
        return self._right() if callable(self._right) else self._right

    @property
    def exercise(self) -> str:
        """What the marker line of a lesson calls it."""
        return f"minipeft.checks:{self.name}"

    def __call__(self, answer: Any) -> None:
        """Judge an answer, or what a function without arguments answers.

        Raises:
            NotFinished: the answer is still `...`, or the stub's exception.
            CheckFailed: it is wrong; the sentence says where it comes from, if that is known.
        """
        with surroundings():
            self._judge(answer)
        print(f"{GREEN}✓ {self.name}: {self.tried}{PLAIN}")

    def _judge(self, answer: Any) -> None:
        if answer is ...:
            raise NotFinished(f"{self.name} is yours to work out: put your answer in place of ...")
        if isinstance(answer, NumberCheck):
            raise CheckFailed(f"this is the check itself: set {self.name} to your answer before it")
        if callable(answer) and as_number(answer) is None:
            try:
                answer = answer()
            except Exception as error:
                if is_stub(error):
                    raise NotFinished(str(error)) from None
                words = f"{type(error).__name__}: {error}"[:200]
                raise CheckFailed(f"{self.name} stopped with {words}") from error
        parts = answer.items() if isinstance(answer, Mapping) else [(self.name, answer)]
        dots = ", ".join(str(key) for key, part in parts if _has_dots(part))
        if dots:
            raise NotFinished(f"{self.name} is yours to work out: {dots} is still ...")
        if self.accepts(answer):
            return
        right = self.right
        raise CheckFailed(
            self._unit(answer, right)
            or self._known(answer, right)
            or self._exchanged(answer, right)
            or self._in_per_cent(answer, right)
            or self._relation(answer, right)
        )

    def accepts(self, answer: Any) -> bool:
        """Is it right, and no known wrong one that lies close?"""
        right = self.right
        return self.equal(answer, right) and not self._known(answer, right)

    def _known(self, answer: Any, right: Any) -> str:
        """What is said of the known wrong answer that comes nearest, or ""."""
        near = [pair for pair in self.wrong if self._is_known(answer, pair[0], right)]
        return min(near, key=lambda pair: _apart(answer, pair[0]), default=("", ""))[1]

    def _is_known(self, answer: Any, known: Any, right: Any) -> bool:
        """Is it this wrong answer, perhaps rounded, and clearly rather than the right one?"""
        if isinstance(known, Mapping):
            return isinstance(answer, Mapping) and all(
                key in answer and self._is_known(answer[key], part, right[key])
                for key, part in known.items()
            )
        given, wrong, true = map(as_number, (answer, known, right))
        if None in (given, wrong, true) or isinstance(answer, list | tuple):
            return self.equal(answer, known)
        if wrong != true and self.tolerance and self.equal(answer, right):
            return 3 * abs(given - wrong) < abs(wrong - true)
        return self.equal(answer, known) or self.tolerance > 0 and _rounded(wrong, given, least=2)

    def _in_per_cent(self, answer: Any, right: Any) -> str:
        """What is said of a known wrong answer where it is given in per cent instead of a share."""
        if isinstance(right, Mapping):
            if not isinstance(answer, Mapping):
                return ""
            shares = {key: _share(answer.get(key), part) for key, part in right.items()}
            same = all(shares[key] is answer.get(key) for key in right)
        else:
            shares = _share(answer, right)
            same = shares is answer
        known = "" if same else self._known(shares, right)
        return known and f"{known}; and a share is asked, not per cent"

    def _unit(self, answer: Any, right: Any) -> str:
        """Are all numbers of a dict too large by one factor of a unit?"""
        if not isinstance(right, Mapping) or not isinstance(answer, Mapping):
            return ""
        pairs = [(as_number(right[key]), as_number(answer.get(key))) for key in right]
        pairs = [pair for pair in pairs if pair != (0, 0)]
        if len(pairs) < 2 or any(not a or b is None for a, b in pairs):
            return ""
        (factor, side, cause), *others = {self._factor(a, b) for a, b in pairs}
        sure = cause and not others and factor != 2
        return f"{self.name}: every number is {factor:g} times too {side}{cause}" if sure else ""

    def _factor(self, right: float, given: float) -> tuple[float, str, str]:
        """(8, "large", " (bits and bytes?)"); the last is "" where it is not likely, and the first
        is 1 where there is no such factor.
        """
        for factor, (words, of) in FACTORS.items():
            near = max(1e-6, self.tolerance) if of else 1e-6  # a unit shows in a rounded answer
            for side, ratio in (("large", factor), ("small", 1 / factor)):
                if right and math.isclose(given / right, ratio, rel_tol=near):
                    return factor, side, words if self._may_be(of, right, side) else ""
        return 1, "", ""

    def _may_be(self, of: str, right: float, side: str) -> bool:
        """Can the answer be in the wrong unit of this kind?"""
        asked = "byte" in self.tried.lower()
        match of:
            case "share":
                return abs(right) <= 1
            case "bytes":  # of a count they may be taken, and none can be forgotten
                return asked or side == "large" and right.is_integer() and abs(right) >= 100
            case "many":
                return right.is_integer() and (abs(right) >= 1000 or asked)
        return True

    def equal(self, answer: Any, right: Any) -> bool:
        """Are the two one answer, in whatever form?"""
        if isinstance(right, Mapping):
            return (
                isinstance(answer, Mapping)
                and answer.keys() >= right.keys()
                and all(self.equal(answer[key], right[key]) for key in right)
            )
        if isinstance(right, str):
            return isinstance(answer, str) and _word(answer) == _word(right)
        wanted, given = _plain(right), _plain(answer)
        if wanted is None or given is None or len(wanted) != len(given):
            return False
        if as_number(right) is None and as_number(answer) is not None:
            return False
        if as_number(right) is not None and isinstance(answer, list | tuple):
            return False  # a shape is no number, even one of a single axis
        exact = isinstance(right, int) or not self.tolerance
        return all(self._near(a, b, exact) for a, b in zip(wanted, given, strict=True))

    def _near(self, right: float, given: float, exact: bool) -> bool:
        """Equal up to the tolerance; a number of things, however large, to the last one."""
        if exact and right.is_integer() and abs(given - right) > 1e-6:
            return False
        near = 1e-9 if exact else self.tolerance
        return math.isclose(right, given, rel_tol=near, abs_tol=0 if right else near * 1e-3)

    def _relation(self, answer: Any, right: Any) -> str:
        """What can be said of a wrong answer without giving the right one away."""
        if isinstance(right, Mapping):
            return self._of_a_dict(answer, right)
        if isinstance(right, str):
            words = sorted({right, *(value for value, _ in self.wrong if isinstance(value, str))})
            return f"{self.name} should be one of {', '.join(words)}, not {show(answer)}"
        wanted, given = _plain(right), _plain(answer)
        said = f"{self.name} is not {show(answer)}"
        if as_number(right) is None:
            if given is None or as_number(answer) is not None:
                if isinstance(answer, list | tuple):
                    part = next(p for p in answer if as_number(p) is None)
                    answer = f"with {_kind(part)} in it, {show(part)}"
                elif isinstance(answer, torch.Tensor | numpy.ndarray) and answer.ndim > 1:
                    answer = f"{_kind(answer)}: give its .shape"
                else:
                    answer = _kind(answer)
                return (
                    f"{self.name} should be a shape, a tuple of {len(wanted)} numbers, not {answer}"
                )
            if len(given) != len(wanted):
                return f"{said}: it has {len(wanted)} axes, not {len(given)}"
            if sorted(given) == sorted(wanted):
                return f"{said}: the sizes are right, their order is not"
            off = [i for i, (a, b) in enumerate(zip(wanted, given, strict=True)) if a != b]
            return f"{said}: axis {off[0]} is another size"
        if isinstance(answer, str):
            return (
                f"{self.name} should be a number, not {show(answer)}: that is text, so leave out "
                "the quotes and what is no part of the number"
            )
        if given is None or len(given) != 1 or isinstance(answer, list | tuple):
            missing = " (is a return missing?)" if answer is None else ""
            return f"{self.name} should be a number, not {_kind(answer)}{missing}"
        a, b = wanted[0], given[0]
        if math.isnan(b):
            return f"{said}: that is no number (0 / 0, or infinity minus infinity?)"
        if math.isinf(b):
            return f"{said}: that is infinite, is something divided by 0?"
        if isinstance(right, int) and abs(a - b) < 1:
            return f"{self.name} is not {b:.10g}: it should be a whole number"
        if a == -b:
            return f"{said}: the sign is wrong"
        if abs(a - b) == 1 and float(a).is_integer():
            return f"{said}: it is off by one"
        factor, side, cause = self._factor(a, b)
        if factor != 1:
            return f"{said}: it is {factor:g} times too {side}{cause}"
        side = "large" if b > a else "small"
        if self.tolerance and _rounded(a, b):
            return f"{said}: it is rounded too far, give more digits"
        return f"{said}: it is too {side}, {_about(a, b)}"

    def _exchanged(self, answer: Any, right: Any) -> str:
        """Which two numbers of a dict stand under the key of each other, or ""."""
        if not isinstance(right, Mapping) or not isinstance(answer, Mapping):
            return ""
        numbers = [key for key in right if key in answer and as_number(right[key]) is not None]
        for one, other in combinations(numbers, 2):
            crossed = {one: right[other], other: right[one]}
            if not self.equal(answer[one], right[one]) and self.equal(answer, crossed):
                return f"{self.name}: {one} and {other} are exchanged"
        return ""

    def _of_a_dict(self, answer: Any, right: Mapping) -> str:
        if not isinstance(answer, Mapping):
            missing = " (is a return missing?)" if answer is None else ""
            form = "{" + ", ".join(f"{key!r}: .." for key in right) + "}"
            return f"{self.name} should be a dict, {form}, not {_kind(answer)}{missing}"
        lacking = [str(key) for key in right if key not in answer]
        if lacking:
            said = f"{self.name} has no {', '.join(lacking)}"
            if set(map(str, right)) <= set(map(str, answer.values())):
                return f"{said}: the dict is turned round, these are its keys and not its values"
            keys = ", ".join(map(str, right))
            others = ", ".join(str(key) for key in answer if key not in right)
            instead = f", and it has {others} instead" if others else ""
            return f"{said}{instead}: its keys are {keys}, written as in the exercise"
        key = next(k for k in right if not self.equal(answer[k], right[k]))
        words = [
            (value[key], "")
            for value, _ in self.wrong
            if isinstance(value, Mapping) and key in value
        ]
        part = NumberCheck(f"{self.name}: {key}", self.tried, right[key], words, self.tolerance)
        return part._relation(answer[key], right[key])


FACTORS = {  # what it may come from, and of what
    2: (" (is a half, or a pair, forgotten?)", ""),
    4: (" (bytes of a float32?)", "bytes"),
    8: (" (bits and bytes?)", "bytes"),
    100: (" (per cent, or a share?)", "share"),
    1000: (" (thousands?)", "many"),
    1024: (" (kilobytes?)", "many"),
    10**6: (" (millions, or megabytes?)", "many"),
    10**9: (" (billions, or gigabytes?)", "many"),
    10**12: (" (millions of millions, or terabytes?)", "many"),
    2**20: (" (megabytes, or bytes?)", "many"),
    2**30: (" (gigabytes, or bytes?)", "many"),
    1 / math.log(2): (" (nats, or bits?)", ""),
}


def _about(a: float, b: float) -> str:
    if a and b and a * b > 0:
        ratio = max(a / b, b / a)
        if ratio < 1.05:
            counted = float(a).is_integer() and float(b).is_integer()
            part = " (a small part, such as a bias, left out or counted twice?)" if counted else ""
            return f"by less than 5 %{part}"
        return f"by a factor of {ratio:.3g}"
    return f"by {abs(a - b):.3g}"


def _apart(given: Any, known: Any) -> float:
    """How far two numbers, or the farthest two of a dict, lie apart."""
    if isinstance(known, Mapping):
        return max(_apart(given[key], known[key]) for key in known)
    a, b = as_number(given), as_number(known)
    return 0.0 if a is None or b is None else abs(a - b)


def _share(value: Any, right: Any) -> Any:
    """The share that a number above 1 is in per cent, where a share is right."""
    a, b = as_number(right), as_number(value)
    return b / 100 if a and b and abs(a) < 1 < b else value


def _rounded(exact: float, given: float, least: int = 1) -> bool:
    """Is one the other, rounded to some digits behind the point, at `least` so many in all?"""
    whole, _, part = f"{abs(given):.10g}".partition(".")
    digits = len((whole + part).lstrip("0"))
    return part.isdigit() and digits >= least and round(exact, len(part)) == given


def _plain(value: Any) -> list[float] | None:
    """A number as [n], a shape as the list of its sizes; None for anything else."""
    single = as_number(value)
    if single is not None:
        return [single]
    if isinstance(value, torch.Tensor | numpy.ndarray):
        value = value.tolist() if value.ndim == 1 else None
    if isinstance(value, list | tuple):
        numbers = [as_number(entry) for entry in value]
        return None if None in numbers else numbers
    return None


def _word(text: str) -> str:
    """A word of a choice, however it is written: " B." is "b"."""
    return text.strip(" \t\n.,:;()[]*`'\"").casefold()


def _has_dots(value: Any) -> bool:
    return value is ... or isinstance(value, list | tuple) and any(part is ... for part in value)


def _kind(value: Any) -> str:
    return "None" if value is None else with_article(type(value).__name__)


def diagnosis(
    name: str, shows: str, causes: Mapping[str, str], hints: Mapping[tuple[str, str], str]
) -> NumberCheck:
    """The check of an exercise in which every patient gets its cause.

    Args:
        name, shows: as for NumberCheck.
        causes: patient -> the right cause.
        hints: (patient, wrong cause) -> what can be seen that speaks against it.
    """
    wrong = [
        ({who: cause}, f"{who} is not {cause!r}: {hint}") for (who, cause), hint in hints.items()
    ]
    return NumberCheck(name, shows, dict(causes), wrong)
