"""What can be said of an answer that nothing explains: who has no part in it, where it is right."""

from __future__ import annotations

from typing import Any

from minipeft.checks.framework.diagnosis import to_some_digits, where_right
from minipeft.checks.framework.showing import conditions
from minipeft.checks.framework.trial import Trial


def unexplained(check, trial: Trial, candidate: Any, failure: Any, passed: list) -> str:
    """The sentence for a failure, with (trial, case) of cases that the learner's object passes."""
    what = trial.called(failure.difference.where)
    if failure.difference.kind == "gradient":
        return (
            f"the numbers are right, but the gradient of {failure.difference.where} is not: part "
            "of the way is detached, or computed where autograd does not look (.data, .item(), "
            "no_grad)"
        )
    words = conditions(failure.case, trial.every_axis)
    words = f" (with {words})" if 0 < len(words) < 60 else ""
    if set(failure.given.moved) - set(failure.wanted.moved):
        return (
            f"{what} is wrong{words}, and random numbers are drawn (a dropout, a noise?): nothing "
            "is random here"
        )
    before = [case for one, case in passed if one is trial]
    if not trial.copies and any(check.failure(trial, candidate, case) for case in before):
        name = getattr(candidate, "__name__", type(candidate).__name__)
        return (
            f"{name} was right with the same arguments before and is wrong now: something is kept "
            "between calls (in a global, the class or a default argument)"
        )
    left_out = _left_out(failure)
    if left_out:
        return f"{what} is wrong{words}, and is made without {left_out}"
    wanted, given = failure.difference.wanted, failure.difference.given
    worst, place = "", None
    if hasattr(wanted, "shape") and getattr(given, "shape", None) == wanted.shape:
        digits = to_some_digits(wanted, given)
        if digits:
            return f"{what} {digits}"
        gap = (given.double() - wanted.double()).abs().max().item()
        worst, place = f": the largest difference is {gap:.3g}", where_right(wanted, given)
    elif isinstance(wanted, bool | str) and _short(given):
        return f"{what} is wrong{words}: it should be {wanted!r} and is {given!r}"
    elif _short(wanted) and _short(given):
        worst = f": it should be {_short(wanted)} and is {_short(given)}"
    if place:
        return f"{what} is wrong{words}: {place}; work the small case below out on paper"
    return (
        f"{what} is wrong{words}{worst}, and it is none of the usual mistakes; work the small "
        "case below out on paper"
    )


def _left_out(failure: Any) -> str:
    """What the right answer is made of and the learner's is not: "key, query.bias"."""
    wanted, given = failure.wanted.gradients, failure.given.gradients
    made_of = [name for name, right in wanted.items() if right is not None and right.any()]
    missing = [n for n in made_of if given.get(n) is None or not given[n].any()]
    return " and ".join(missing[:3]) if 0 < len(missing) < len(made_of) else ""


def _short(value: Any) -> str:
    """A setting in words: a number, a word, nothing; "" for what is long."""
    if isinstance(value, float):
        return f"{value:.4g}"
    plain = value is None or isinstance(value, int | str)
    return repr(value) if plain and len(repr(value)) < 30 else ""
