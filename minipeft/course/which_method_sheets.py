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
from minipeft.course.experiments import best_rate, spread
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
                "measured here",
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
        wider = " or wider" if one.rates["novel"]["wider"] else ""
        rows.append(
            (
                *(name, source[name], one.door, f"{one.trained:,}", f"{one.stored:,}"),
                f"{sum(one.memory.values()) / 1e6:.1f} MB",
                f"{one.latency['1'][0]:.2f}",
                "yes" if one.mergeable else "no",
                "yes" if one.mixed else "no",
                *(spread(one.results[kind]["test"]) for kind in ("latent", "novel")),
                spread(one.results["novel"]["forgotten"]),
                f"{one.rates['novel']['best']:g}",
                f"{high / low:.3g}{wider}",
            )
        )
    header = ("", "from", "door", "trained", "kept", "bytes in training", "time of a pass, batch 1",
              "can be merged", "mixed batches", "latent task", "novel task", "forgotten",
              "best rate, novel", "good rates, factor")  # fmt: skip
    notes = [
        "Each lesson chose its own size: the columns of tasks are no contest. Time against the "
        "base; exact match on test; forgotten after the novel task."
    ]
    return Table("Passports side by side", header, rows, notes)


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
        *(f"{kept:,}", _by_rate(dev, ".2f"), _by_rate(test, "%"), f"{rate:g}"),
        *(", ".join(_said(value, "%") for value in values), _said(reported, "%")),
    )


def _by_rate(values: Mapping[float, float], form: str) -> str:
    return ", ".join(f"{rate:g}: {_said(value, form)}" for rate, value in values.items())


def _said(value: float, form: str) -> str:
    if not math.isfinite(value):
        return "failed"
    return f"{100 * value:.0f} %" if form == "%" else f"{value:{form}}"


def reports(stored: Runs) -> Table:
    """Five reports of the same contest, on the novel task. Two methods each; the second "wins"."""
    rows = []
    for letter, (pair, rates, faults) in REPORTS.items():
        for arm, fault in zip(pair, faults, strict=True):
            rows.append((letter, arm, *sheet(stored, arm, rates, fault)))
    header = ("report", "method", "kept", "dev loss at each rate (first seed)",
              "test at each rate (first seed)", "rate taken", "test of three seeds at it",
              "reported")  # fmt: skip
    return Table(f"Five reports on {NOVEL}", header, rows)


REPORTS = {  # letter: (two methods, the rates that were tried, the fault of each method's row)
    "A": (("BitFit", "P-tuning"), RATES, ("", "test")),
    "B": (("adapter", "LoRA"), RATES, ("", "")),
    "C": (("BitFit", "adapter"), RATES, ("", "")),
    "D": (("P-Tuning v2", "LoRA"), RATES[:-1], ("", "")),
    "E": (("LoRA", "DoRA"), RATES, ("", "seeds")),
}
