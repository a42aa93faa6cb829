"""From failing cases to one sentence: the usual mistakes first, then what can be worked out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from minipeft.checks.framework.cases import EQUAL, LARGE, Case
from minipeft.checks.framework.comparing import Difference, compare, differs
from minipeft.checks.framework.diagnosis import (
    by_kind,
    by_numbers,
    changed_defaults,
    changed_order,
)
from minipeft.checks.framework.observing import Observation
from minipeft.checks.framework.probes import what_was_changed
from minipeft.checks.framework.randomness import distribution_differs
from minipeft.checks.framework.showing import conditions
from minipeft.checks.framework.trial import Mistake, Trial, View
from minipeft.checks.framework.unexplained import unexplained

FEW = 4  # kinds of numbers: an answer of so few agrees with another one by chance
# what a call does besides answering has no other explanation than itself
BESIDE = ("argument", "shared", "random", "generator", "settings")
SAME_DROPS = (
    "dropout drops the same numbers in every row or at every call: draw anew each time, and do not "
    "seed"
)
Passed = list[tuple[Trial, Case]]  # cases that the learner's object passes


@dataclass(frozen=True)
class Failure:
    """A case that fails: what the reference showed, what the learner's object showed."""

    case: Case
    wanted: Observation
    given: Observation
    difference: Difference

    def view(self, trial: Trial) -> View:
        """For a mistake's `when`."""
        return View(
            self.case,
            self.wanted.inputs,
            self.wanted.result,
            self.given.result,
            self.given.error,
            self.difference,
            trial,
            bool(set(self.given.moved) - set(self.wanted.moved)),
        )


def name_the_mistake(
    check, trial: Trial, candidate: Any, failures: list[Failure], passed: Passed
) -> str:
    """One sentence for these failures of one trial, of which these cases are passed."""
    first = failures[0]
    if first.difference.kind == "rule":
        return str(first.difference.given)
    name = getattr(candidate, "__name__", type(candidate).__name__)
    changed = changed_defaults(check.reference, candidate, check.blank)
    changed = changed or changed_order(check.reference, candidate, check.blank)
    if changed is not None:
        return changed
    if first.difference.kind in BESIDE:
        return by_kind(first.view(trial), name, check.reference, candidate)
    named, sure = _usual(check, trial, candidate, failures, passed)
    if named is not None:
        better = None if sure else _all_explained(check, trial, failures, passed)
        return better or named + _only_where(check, trial, candidate, first, named)
    if trial.copies:
        return (
            _dropout(check, trial, first)
            or by_kind(first.view(trial), name, check.reference, candidate)
            or unexplained(check, trial, candidate, first, passed)
        )
    sentence = by_kind(first.view(trial), name, check.reference, candidate)
    if sentence is not None:
        return sentence + _when(first, trial)
    return (
        _beyond(trial, first)
        or _earlier(check, trial, name, failures, passed)
        or _share(trial, failures)
        or _mutant(check, trial, failures, passed)
        or _probed(check, trial, failures, passed)
        or unexplained(check, trial, candidate, first, passed)
    )


def _when(failure: Failure, trial: Trial) -> str:
    """The options in which it shows, where they tell something."""
    if failure.difference.kind not in ("error", "no error", "nan", "type", "shape", "gradient nan"):
        return ""
    words = conditions(failure.case, trial.every_axis)
    return f" (with {words})" if 0 < len(words) < 60 else ""


def _only_where(check, trial: Trial, candidate: Any, failure: Failure, named: str) -> str:
    """The mode in which a mistake is made, if it is not made in the other one."""
    axis = next((a for a in ("phase", "training") if len(trial.every_axis.get(a, ())) > 1), None)
    if axis is None or trial.copies or "mode" in named or failure.difference.kind != "value":
        return ""
    mode = failure.case[axis]
    other = next(value for value in trial.every_axis[axis] if value != mode)
    case = failure.case.changed(**{axis: other})
    if not trial.valid(case) or check.failure(trial, candidate, case) is not None:
        return ""
    return f" (only in {'training' if mode in (True, 'training') else 'evaluation'} mode)"


def _usual(
    check, trial: Trial, candidate: Any, failures: list[Failure], passed: Passed
) -> tuple[str | None, bool]:
    """The mistake of the list that explains the plainest failure, and fits all else best.

    And whether it is sure: numbers that speak against it, or that it leaves unexplained, may have
    a better explanation.
    """
    best, most = None, (False, 0, 0)
    for entry in check.mistakes:
        wrong = wrong_object(check, entry)
        if trial.copies and _contradictions(check, wrong, passed[:3], key_of(entry)):
            continue  # it would not have come as far as this trial, where a case takes long
        first = _explains(check, trial, entry, failures[0])
        if not first and most[0]:
            continue
        count = _count(check, trial, entry, failures[1:], 0 if first else len(failures) / 2)
        if not first and 2 * count < len(failures):
            continue
        against = _contradictions(check, wrong, passed, key_of(entry))
        if (first, -against, count) > most or best is None:
            best, most = entry, (first, -against, count)
        if most == (True, 0, len(failures) - 1) and entry is best:
            best = _told_apart(check, trial, candidate, entry, failures, passed)
            break
    if best is None:
        return None, False
    first, against, count = most
    one_number = not best.when and getattr(failures[0].wanted.result, "shape", None) == ()
    chance = one_number or _may_be_chance(failures[0])
    if chance and (against or 3 * (first + count) < 2 * len(failures)):
        return None, False
    sure = best.when is not None or most == (True, 0, len(failures) - 1)
    if callable(best.sentence):
        example = next(f for f in failures if _explains(check, trial, best, f))
        return best.sentence(example.view(trial)), sure
    return best.sentence, sure


def _told_apart(
    check, trial: Trial, candidate: Any, first: Mistake, failures: list[Failure], passed: Passed
) -> Mistake:
    """`first`, or a later mistake that stops with the same error and fits other cases better."""
    if trial.copies or first.when or failures[0].difference.kind != "error":
        return first
    later = check.mistakes[check.mistakes.index(first) + 1 :]
    possible = [first] + [
        entry
        for entry in later
        if not entry.when
        and all(_explains(check, trial, entry, failure) for failure in failures)
        and not _contradictions(check, wrong_object(check, entry), passed, key_of(entry))
    ]
    for case in trial.cases if len(possible) > 1 else ():
        right = [check.is_right(trial, wrong_object(check, e), case, key_of(e)) for e in possible]
        if len(set(right)) > 1:
            is_right = check.failure(trial, candidate, case) is None
            possible = [e for e, one in zip(possible, right, strict=True) if one is is_right]
    return possible[0]


def _may_be_chance(failure: Failure) -> bool:
    """Are so few answers possible that one case agrees with a mistake that was not made?"""
    wanted = failure.difference.wanted
    if not isinstance(wanted, torch.Tensor):
        return isinstance(wanted, int)
    return not wanted.is_floating_point() and len(wanted.unique()) < FEW


def _count(check, trial: Trial, entry: Mistake, failures: list[Failure], needed: float) -> int:
    """How many failures a mistake explains; counting ends where `needed` is out of reach."""
    count = 0
    for left, failure in zip(range(len(failures), 0, -1), failures, strict=True):
        if count + left < needed:
            break
        count += _explains(check, trial, entry, failure)
    return count


def wrong_object(check, entry: Mistake) -> Any:
    """The object that makes the mistake, None for one that is recognised by `when`."""
    if not entry.edits:
        return entry.wrong
    if entry.edits not in check.built:
        check.built[entry.edits] = check.source.edited(entry.edits)
    return check.built[entry.edits]


def key_of(entry: Mistake) -> Any:
    return entry.edits or entry.wrong


def _contradictions(check, wrong: Any, passed: Passed, key: Any) -> int:
    """Cases that the learner's object passes and this wrong one would not."""
    if wrong is None:
        return 0
    return sum(not check.is_right(trial, wrong, case, key) for trial, case in passed)


def _explains(check, trial: Trial, entry: Mistake, failure: Failure) -> bool:
    if entry.when is not None:
        try:
            return bool(entry.when(failure.view(trial)))
        except Exception:  # the result has another form than the mistake looks for
            return False
    return _answers_alike(check, trial, wrong_object(check, entry), failure, key_of(entry))


def _answers_alike(check, trial: Trial, wrong: Any, failure: Failure, key: Any) -> bool:
    """Does the wrong object show, in this case, what the learner's shows?"""
    other = check.shown_by(trial, wrong, failure.case, key)
    if other is None:
        return False
    given = failure.given
    if given.error is not None or other.error is not None:
        if type(given.error) is not type(other.error) or given.error is None:
            return False  # a ValueError is worded by whoever raises it
        if isinstance(given.error, AttributeError):  # its words hold the name of the class
            return given.error.name == other.error.name
        said, answer = str(given.error)[:60], str(other.error)[:60]
        return said == answer or isinstance(given.error, ValueError)
    if trial.copies:
        if failure.difference.kind == "repeats":
            return False
        return not distribution_differs(given.outcomes, other.outcomes)
    if check.difference(trial, failure.case, failure.wanted, other) is None:
        return False  # it is right in this case
    if failure.difference.kind in ("value", "shape", "type", "nan", "parts", "dtype", "no error"):
        same = compare(given.result, other.result, trial) is None
        return same and compare(other.result, given.result, trial) is None
    return trial.judge is None and differs(given, other, trial) is None


def _share(trial: Trial, failures: list[Failure]) -> str | None:
    """A number from 0 to 1 that is told in per cent, or of the other part."""
    pairs = [(f.difference.wanted, f.difference.given) for f in failures]
    if not all(isinstance(n, float) for pair in pairs for n in pair):
        return None
    what = trial.called(failures[0].difference.where)
    for words, of in (
        ("100 times as large as it should be: a share, not per cent", lambda x: 100 * x),
        ("1 minus what it should be: the other part is asked for", lambda x: 1 - x),
        ("what it should be with the opposite sign: a minus is wrong", lambda x: -x),
    ):
        if all(
            math.isclose(of(wanted), given, rel_tol=1e-5, abs_tol=1e-6) for wanted, given in pairs
        ):
            return f"{what} is {words}"
    return None


def _mutant(check, trial: Trial, failures: list[Failure], passed: Passed) -> str | None:
    """A small change of the reference that gives all the answers that were given."""
    if failures[0].difference.kind not in ("value", "gradient"):
        return None
    numbers = by_numbers(failures[0].view(trial))
    chance = _may_be_chance(failures[0])
    if chance and any(by_numbers(failure.view(trial)) != numbers for failure in failures[1:]):
        numbers = None
    if numbers is not None and ("interchanged" in numbers or "wrong places" in numbers):
        return numbers
    best, least = None, 1 if chance else len(passed) + 1
    for mutant, wrong in check.mutants():
        if wrong is not None and all(
            _answers_alike(check, trial, wrong, failure, None)
            for failure in (failures if chance else failures[:3])
        ):
            against = _contradictions(check, wrong, passed, None)
            if against < least:
                best, least = mutant, against
            if not against:
                break
    if best is None or (numbers and least):
        return numbers
    return f"{trial.called(failures[0].difference.where)} is wrong: {best.words}"


def _probed(
    check, trial: Trial, failures: list[Failure], passed: Passed, factors: bool = True
) -> str | None:
    """One value of the reference that is another one, in all these cases."""
    if failures[0].difference.kind != "value" or trial.judge is not None:
        return None
    change = what_was_changed(check, trial, failures, passed, factors)
    what = trial.called(failures[0].difference.where)
    return change and f"{what} is wrong: the answer is what you get when {change}"


def _all_explained(check, trial: Trial, failures: list[Failure], passed: Passed) -> str | None:
    """A change that explains every failure, and no case that is passed speaks against it."""
    if failures[0].difference.kind != "value" or trial.copies:
        return None
    for mutant, wrong in check.mutants():
        if (
            wrong is not None
            and all(_answers_alike(check, trial, wrong, failure, None) for failure in failures)
            and not _contradictions(check, wrong, passed, None)
        ):
            what = trial.called(failures[0].difference.where)
            return f"{what} is wrong: {mutant.words}"
    return _probed(check, trial, failures, passed, factors=False)


def _dropout(check, trial: Trial, failure: Failure) -> str | None:
    """What is wrong with a dropout, from the outcomes and how often they occur."""
    if failure.difference.kind == "repeats":
        return SAME_DROPS
    if failure.difference.kind != "outcomes" or trial.silenced is None:
        return None
    given = failure.given.outcomes
    axis, value = trial.silenced
    still = check.expected(trial, failure.case.changed(**{axis: value})).outcomes
    if not distribution_differs(still, given):
        return "dropout is never applied in training"
    if len(given.kinds) == 1:  # both calls, by chance
        return SAME_DROPS
    p = failure.case[axis]
    turned = check.expected(trial, failure.case.changed(**{axis: 1 - p})).outcomes
    if p != 0.5 and not distribution_differs(turned, given):
        return "dropout keeps what it should drop: p is the share that becomes zero"
    wanted = failure.wanted.outcomes
    width = failure.given.result.shape if hasattr(failure.given.result, "shape") else None
    if width is not None and wanted.kinds.shape[1] == given.kinds.shape[1]:
        right, mean = wanted.mean, given.mean
        if (right.abs() > 0.05).any() and (mean - (1 - p) * right).abs().max() < 0.1:
            return "what is kept is not divided by 1 - p, so the mean shrinks: F.dropout does it"
    return (
        f"with a dropout of {p:g} other outcomes occur than should: its share, its scale, the "
        "place where it falls, or numbers that are dropped together"
    )


def _beyond(trial: Trial, failure: Failure) -> str | None:
    """Does it fail only where a size is large, all are equal, or the numbers are large?"""
    if failure.difference.kind not in ("value", "gradient"):
        return None
    case, what = failure.case, trial.called(failure.difference.where)
    sizes = [name for name in trial.axes if case[name] == LARGE]
    equal = [name for name in trial.axes if case[name] == EQUAL]
    if sizes:
        return (
            f"{what} is right where sizes are small and wrong with {sizes[0]}={LARGE}: is a number "
            f"written where {sizes[0]} belongs, or is it counted in a dtype that ends below?"
        )
    if case.magnitude == "large":
        return (
            f"{what} is wrong where numbers are large: is something cut off (clamped), or does an "
            "exponential overflow?"
        )
    if len(equal) > 1:
        return (
            f"{what} is wrong where {' and '.join(equal)} are the same: tell axes apart by their "
            "places, not by their sizes"
        )
    return None


def _earlier(check, trial: Trial, name: str, failures: list[Failure], passed: Passed) -> str | None:
    """Is the answer that of an earlier case?"""
    first = failures[0]
    if first.difference.kind != "value":
        return None
    earlier = [(c, check.expected(trial, c).result) for one, c in passed if one is trial]

    def case_of_the_same_answer(failure: Failure) -> Case | None:
        given = failure.given.result
        return next((c for c, result in earlier if compare(result, given, trial) is None), None)

    case = case_of_the_same_answer(first)
    few = isinstance(first.difference.wanted, torch.Tensor) and _may_be_chance(first)
    if case is None or (few and not all(map(case_of_the_same_answer, failures))):
        return None
    return (
        f"{name} gives the answer of an earlier call, whose arguments were others: "
        f"something is kept between calls{_or_written(trial, first.case, case)}"
    )


def _or_written(trial: Trial, failing: Case, passed: Case) -> str:
    """A number that is written into the code answers every call alike, too."""
    others = [name for name in trial.every_axis if failing[name] != passed[name]]
    return f", or a number is written where {others[0]} belongs" if len(others) == 1 else ""
