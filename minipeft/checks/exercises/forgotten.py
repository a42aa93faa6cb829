"""What was forgotten: the share of the right answers that went wrong."""

from __future__ import annotations

from collections.abc import Callable

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake
from minipeft.checks.framework.numbers import number
from minipeft.tasks.metrics import normal

TARGETS = ["lima", "paris", "rome", "oslo", "cairo", "delhi"]
BEFORE = ["lima", "paris", "rome", "oslo", "x", "y"]  # 4 of 6 right
AFTER = {
    "nothing changed": BEFORE,
    "one of four is lost": ["lima", "paris", "rome", "z", "x", "y"],
    "one is lost and two are learnt": ["lima", "paris", "rome", "z", "cairo", "delhi"],
    "a wrong answer became another wrong one": ["lima", "paris", "rome", "oslo", "z", "z"],
    "all is lost": ["z"] * 6,
    "three of four are lost": ["paris", "lima", "rome", "rome", "x", "y"],
}
SPELT = {
    "kept": (["Lima .", "oslo"], ["lima", "Oslo  ."], ["lima .", "oslo"]),
    "lost": (["Lima .", "oslo", "Rome"], ["lima", "x", "z"], ["lima .", "Oslo", "rome."]),
    "in the answers": (["LIMA", "oslo"], ["Lima.", "x"], ["lima", "oslo"]),
    "in the targets": (["lima", "x"], ["lima", "y"], ["Lima", "oslo ."]),
    "spaces inside": (["new  delhi", "oslo"], ["new delhi", "x"], ["new delhi", "oslo"]),
    "a longer answer": (["lima bay", "oslo"], ["lima", "oslo bay"], ["lima", "oslo"]),
    "a shorter answer": (["new", "oslo"], ["new delhi", "o"], ["new delhi", "oslo"]),
    "the same answer twice": (["lima", "lima"], ["lima", "x"], ["lima", "lima"]),
}
IMPOSSIBLE = {
    "nothing was right before": (["x"], ["lima"], ["lima"]),
    "after is shorter": (["lima", "oslo"], ["lima"], ["lima", "oslo"]),
    "before is shorter": (["lima"], ["lima", "x"], ["lima", "oslo"]),
    "targets are shorter": (["lima", "oslo"], ["lima", "oslo"], ["lima"]),
    "after is longer": (["lima"], ["lima", "oslo"], ["lima"]),
    "there are no questions": ([], [], []),
}


def share(formula: Callable, same: Callable = lambda a, b: normal(a) == normal(b)) -> Callable:
    """A formula of (right before, right after, lost, changed, questions)."""

    def forgotten(before, after, targets):
        rows = list(zip(before, after, targets, strict=True))
        known = sum(same(b, t) for b, a, t in rows)
        now = sum(same(a, t) for b, a, t in rows)
        lost = sum(same(b, t) and not same(a, t) for b, a, t in rows)
        changed = sum(not same(a, b) for b, a, t in rows)
        if not known:
            raise ValueError("Nothing was right before.")
        return formula(known, now, lost, changed, len(rows))

    return forgotten


def inputs(case: Case, draw: Draw) -> dict:
    """All six stories, in this order or turned round, as lists or tuples."""
    stories = list(AFTER.values())
    ordered = (lambda rows: rows[::-1]) if case.order == "turned" else (lambda rows: list(rows))
    kind = tuple if case.sequence == "tuple" else list
    return {
        "before": kind(ordered(BEFORE)),
        "afters": [kind(ordered(after)) for after in stories],
        "targets": kind(ordered(TARGETS)),
    }


def run(forgotten, case: Case, given) -> list[float]:
    answers = [forgotten(given.before, after, given.targets) for after in given.afters]
    return [number(answer, "forgotten") for answer in answers]


def single(forgotten, case: Case, given) -> float:
    return number(forgotten(given.before, given.after, given.targets), "forgotten")


def spelt(case: Case, draw: Draw) -> dict:
    before, after, targets = SPELT[case.text]
    return {"before": list(before), "after": list(after), "targets": list(targets)}


def impossible(case: Case, draw: Draw) -> dict:
    before, after, targets = IMPOSSIBLE[case.why]
    return {"before": list(before), "after": list(after), "targets": list(targets)}


def because(view) -> str:
    lengths = {len(view.inputs[name]) for name in ("before", "after", "targets")}
    return "the lists differ in length" if len(lengths) > 1 else "nothing was right before"


def story(view) -> str:
    for what, right, answer in zip(AFTER, view.wanted, view.given, strict=True):
        if abs(right - answer) > 1e-6:
            return f"when {what}, the answer should be {right:g}, not {answer:g}"
    return "the answer is wrong"


def of_all(sentence: str, formula: Callable):
    return mistake(f"you {sentence}", wrong=share(formula))


EVERY_CHANGE = "count every changed answer: only those right before count"
ONCE = {"dtypes": ("float32",), "layouts": ("plain",), "gradients": ("on",)}

forgotten = Check(
    "forgotten",
    "minipeft.course.transfer:forgotten",
    "share of the right answers that went wrong; gains do not count, nor changes among the wrong",
    [
        Trial(
            "the answers",
            inputs,
            run,
            axes={"order": ("as given", "turned"), "sequence": ("list", "tuple")},
            **ONCE,
        ),
        Trial("the answer", spelt, single, axes={"text": tuple(SPELT)}, **ONCE),
        Trial("the answer", impossible, single, axes={"why": tuple(IMPOSSIBLE)}, **ONCE),
    ],
    [
        mistake(
            "an answer that holds the target, or a part of it, is not the target: compare whole "
            "texts after metrics.normal",
            when=lambda view: view.case.get("text", "").endswith("er answer"),
        ),
        mistake(
            "two questions may have the same answer: go through the three lists together, not by "
            "what was answered",
            when=lambda view: view.case.get("text") == "the same answer twice",
        ),
        of_all(
            "take the fall of the accuracy: gains hide losses there",
            lambda k, n, x, c, q: (k - n) / q,
        ),
        of_all("let what was learnt make up for what was lost", lambda k, n, x, c, q: (k - n) / k),
        of_all(
            "let what was learnt make up for what was lost, down to zero",
            lambda k, n, x, c, q: max(0, k - n) / k,
        ),
        of_all(
            "count everything that is wrong now, known before or not",
            lambda k, n, x, c, q: (q - n) / q,
        ),
        of_all(
            "divide by all questions: only the known can be forgotten", lambda k, n, x, c, q: x / q
        ),
        of_all(
            "divide by what is right now: divide by those right before",
            lambda k, n, x, c, q: x / max(1, n),
        ),
        of_all(
            "give the share that is kept: the share lost is asked for",
            lambda k, n, x, c, q: 1 - x / k,
        ),
        of_all("give a number of questions: divide by those right before", lambda k, n, x, c, q: x),
        of_all(
            "give per cent: the share is a number from 0 to 1", lambda k, n, x, c, q: 100 * x / k
        ),
        mistake(
            "before and after have changed places",
            wrong=lambda b, a, t: share(lambda k, n, x, c, q: x / k)(a, b, t),
        ),
        of_all("round down: divide with /, not //", lambda k, n, x, c, q: x // k),
        *(
            of_all(
                f"round to {digits} digits: give the share as it is",
                lambda k, n, x, c, q, digits=digits: round(x / k, digits),
            )
            for digits in (1, 2, 3, 4)
        ),
        of_all(
            "count what is wrong now, also what was never right: only those right before count",
            lambda k, n, x, c, q: (q - n) / k,
        ),
        of_all(EVERY_CHANGE, lambda k, n, x, c, q: c / k),
        of_all(EVERY_CHANGE, lambda k, n, x, c, q: c / q),
        mistake(
            '"Lima ." and "lima" are the same answer: compare after metrics.normal',
            when=lambda view: "text" in view.case,
        ),
        mistake(
            lambda view: (
                f"when {because(view)} you divide by zero: raise a ValueError that says so"
            ),
            when=lambda view: isinstance(view.error, ZeroDivisionError),
        ),
        mistake(
            lambda view: (
                f"when {because(view)} there is no answer: raise a ValueError that says so"
            ),
            when=lambda view: (
                view.difference.kind == "no error"
                or ("why" in view.case and view.error is not None)
            ),
        ),
        mistake(story, when=lambda view: "order" in view.case and view.difference.kind == "value"),
    ],
)
