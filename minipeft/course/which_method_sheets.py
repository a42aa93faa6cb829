"""Lesson 15: what other lessons stored, laid side by side, and five reports of one contest.

passports_of(missing)    # stored passports, and those that are measured since no lesson has them
verdicts([4, 11])        # what lessons recorded about these claims
reports(stored)          # the sheets of the exercise `unfair_contests`
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from minipeft.analysis.plots import look
from minipeft.course import claims
from minipeft.course.experiments import best_rate
from minipeft.course.passport import MIME, Passport, measure, passports
from minipeft.course.which_method import ARMS, NOVEL, RATES, Runs
from minipeft.methods.method import Method
from minipeft.report import Table

LESSON = "15_which_method"  # its own passports are measured anew


def passports_of(
    methods: Mapping[str, tuple[Method, Sequence[float]]], quick: bool = False
) -> tuple[dict[str, Passport], dict[str, str]]:
    """(method -> passport, method -> where it comes from).

    Those that lessons stored in the committed notebooks; the rest of `methods`, name -> (method,
    rates to try), is measured here and shown.
    """
    every, source = {}, {}
    try:
        lessons = {
            data["method"]: lesson for lesson, _, data in claims.stored(claims.folder(), MIME)
        }
        for name, one in passports().items():
            if lessons[name] != LESSON:
                name = _usual(name)
                every[name], source[name] = one, f"lesson {lessons[one.method].split('_')[0]}"
    except FileNotFoundError as error:
        print(error)
    for name, (method, rates) in methods.items():
        if name not in every:
            options = dict(steps=2, seeds=(0, 1), rows=6, repeats=2) if quick else {}
            rates = list(rates)[:1] if quick else rates
            every[name], source[name] = (
                measure(method, rates, name=name, **options),
                "here",
            )
            claims.show(every[name])
    order = [name for name in ARMS if name in every]
    order += [name for name in every if name not in order]
    return {name: every[name] for name in order}, source


def _usual(name: str) -> str:
    """The course's name of a method: "P-tuning" for "PTuning"."""
    return next((arm for arm in ARMS if look(arm) == look(name)), name)


def passport_table(every: Mapping[str, Passport], source: Mapping[str, str]) -> Table:
    """A row for each method, the answers that a choice turns on."""
    rows = []
    for name, one in every.items():
        low, high = one.rates["novel"]["good"]
        wider = "≥ " if one.rates["novel"]["wider"] else ""
        rows.append(
            (
                *(name, source[name].removeprefix("lesson "), f"{one.stored:,}"),
                f"{sum(one.memory.values()) / 1e6:.1f}",
                f"{one.latency['1'][0]:.2f}",
                "yes" if one.mergeable else "no",
                "yes" if one.mixed else "no",
                *(_percent(one.results[kind]["test"]) for kind in ("latent", "novel")),
                _percent(one.results["novel"]["forgotten"]),
                f"{wider}{high / low:.3g}",
            )
        )
    header = ("", "lesson", "kept", "MB to train", "time of a pass", "merges", "mixed batch",
              "latent task", "novel task", "forgotten", "good rates")  # fmt: skip
    notes = [
        "Each lesson chose its own size: the columns of tasks are no contest. Time at batch 1 "
        "against the base; exact match on test and what was forgotten after the novel task, in %; "
        "good rates: the highest over the lowest, novel task.",
        f"Merge into the base: {_names(every, 'mergeable', True)}. "
        f"Cannot share a batch: {_names(every, 'mixed', False)}.",
    ]
    return Table("Passports side by side", header, rows, notes)


def _names(every: Mapping[str, Passport], answer: str, value: bool) -> str:
    """The methods that give this answer."""
    return ", ".join(name for name, one in every.items() if getattr(one, answer) == value) or "none"


def _percent(values: Sequence[float]) -> str:
    """The mean in %; a table of many columns has no room for the interval."""
    known = [value for value in values if math.isfinite(value)]
    return f"{100 * sum(known) / len(known):.0f}" if known else "failed"


def verdicts(numbers: Sequence[int]) -> Table:
    """What the lessons recorded about some claims, from the committed notebooks."""
    try:
        every = [one for one in claims.records() if one.lesson != LESSON]
    except FileNotFoundError as error:
        return Table(str(error), ("claim", "verdicts"), [])
    rows = []
    for number in numbers:
        about = [one for one in every if one.claim == number]
        said = "; ".join(f"{one.lesson.split('_')[0]}: {one.verdict}" for one in about)
        rows.append((number, claims.CLAIMS[number].text, said or "no record yet"))
    notes = ["`python -m minipeft claims` shows what was measured, with rule and address."]
    return Table("Verdicts of earlier lessons", ("", "claim", "lesson: verdict"), rows, notes)


# -- five reports ----------------------------------------------------------------------------------

FAULTS = {"A": "test", "B": "fair", "C": "size", "D": "rates", "E": "seeds"}
SEEDS = (0, 1, 2)


def sheet(stored: Runs, arm: str, rates: Sequence[float], fault: str) -> tuple:
    """(kept, dev by rate, test by rate, rate, test by seed, reported), as a report shows them."""
    first = {rate: stored.one(NOVEL, arm, rate, SEEDS[0]) for rate in rates}
    dev = {rate: one.dev for rate, one in first.items()}
    rate = best_rate(dev)
    if fault == "test":
        rate = max(rates, key=lambda r: first[r].test if first[r].test == first[r].test else -1)
    values = [stored.one(NOVEL, arm, rate, seed).test for seed in SEEDS]
    reported = max(values) if fault == "seeds" else sum(values) / len(values)
    kept = max(one.stored for one in first.values())
    test = {rate: one.test for rate, one in first.items()}
    return (
        *(f"{kept:,}", _row(dev, ".2f"), _row(test, "%"), f"{rate:g}"),
        *(", ".join(_said(value, "%") for value in values), _said(reported, "%")),
    )


def _row(values: Mapping[float, float], form: str) -> str:
    """One value for each of all rates; a bar for those that were not tried."""
    return ", ".join(_said(values[rate], form) if rate in values else "–" for rate in RATES)


def _said(value: float, form: str) -> str:
    if not math.isfinite(value):
        return "failed"
    return f"{100 * value:.0f}" if form == "%" else f"{value:{form}}"


def reports(stored: Runs) -> Table:
    """Five reports of the same contest, on the novel task. Two methods each; the second "wins"."""
    rows = []
    for letter, (pair, rates, faults) in REPORTS.items():
        for arm, fault in zip(pair, faults, strict=True):
            rows.append((letter, arm, *sheet(stored, arm, rates, fault)))
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    header = ("report", "method", "kept", "dev loss at each rate", "test at each rate",
              "rate taken", "three seeds at it", "reported")  # fmt: skip
    notes = [
        f"At each rate: {rates}, with the first seed; – was not tried. Test: exact match in %."
    ]
    return Table(f"Five reports on {NOVEL}", header, rows, notes)


REPORTS = {  # letter: (two methods, the rates that were tried, the fault of each method's row)
    "A": (("BitFit", "P-tuning"), RATES, ("", "test")),
    "B": (("adapter", "LoRA"), RATES, ("", "")),
    "C": (("BitFit", "adapter"), RATES, ("", "")),
    "D": (("P-Tuning v2", "LoRA"), RATES[:-1], ("", "")),
    "E": (("LoRA", "DoRA"), RATES, ("", "seeds")),
}
