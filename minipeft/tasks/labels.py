"""Labels as people write them: two spellings of one label, and labels that are none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable

NONE = ("nan", "<na>", "nat", "#n/a")  # what tables write where nothing was measured
PERHAPS_NONE = ("none", "null", "na", "n/a", "-", "?")  # the same, or the name of a class
FEWEST_VALUES = 5  # of numbers that measure something: 0, 0.5 and 1 may be three classes
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.I)


def check(labels: Iterable[str]) -> None:
    """Refuse labels that are no two labels, or none.

    Raises:
        ValueError: one of them is NaN, or two are one label written in two ways: 1 and 1.0, or
            with a space more.
    """
    spelling: dict[str, str] = {}
    for label in labels:
        if label.strip().lower() in NONE:
            raise ValueError(
                f"A row has the label {label!r}, which says that there is none: fill it, or leave "
                "the row out."
            )
        first = spelling.setdefault(meaning(label), label)
        if first != label:
            raise ValueError(
                f"The labels {first!r} and {label!r} are one label written in two ways: write it "
                "in one way in every row."
            )


def meaning(label: str) -> str:
    """The same for two spellings of one label."""
    seen = unicodedata.normalize("NFC", label)
    seen = " ".join("".join(sign for sign in seen if unicodedata.category(sign) != "Cf").split())
    if PLAIN_NUMBER.fullmatch(seen):
        return number(seen)
    return seen.lower() if seen.lower() in ("true", "false") else seen


def number(text: str) -> str:
    """The same for two spellings of one number, and for no two numbers, however long they are."""
    text = "".join(str(unicodedata.decimal(sign, sign)) for sign in text.lower())
    digits, _, power = text.partition("e")
    whole, _, decimals = digits.lstrip("+-").partition(".")
    significant = (whole + decimals).lstrip("0")
    short = significant.rstrip("0")
    if not short:
        return "0"
    exponent = int(power or 0) - len(decimals) + len(significant) - len(short)
    return f"{'-' * digits.startswith('-')}{short}e{exponent}"


def are_numbers(labels: Iterable[str]) -> bool:
    """Are all of them numbers?"""
    return all(PLAIN_NUMBER.fullmatch(label.strip()) for label in labels)


def are_measured(labels: Collection[str]) -> bool:
    """Are they numbers with decimals, and so many that they are probably no names of classes?"""
    return (
        len(labels) >= FEWEST_VALUES
        and are_numbers(labels)
        and any(float(label) % 1 for label in labels)
    )


def perhaps_none(labels: Iterable[str]) -> list[str]:
    """Those of the labels that may say that there is none."""
    return [label for label in labels if label.lower() in PERHAPS_NONE]


def differ_in_capitals(labels: Iterable[str]) -> list[str]:
    """The first labels that differ in capital letters only; empty where there are none."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(label.casefold(), []).append(label)
    return next((sorted(group) for group in groups.values() if len(group) > 1), [])
