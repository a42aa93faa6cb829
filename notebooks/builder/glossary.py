"""The glossary: the field's terms in one plain sentence, with the place where each comes first.

The terms stand in notebooks/teaching/glossary.toml; their first uses are looked up here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from builder.cut import ROOT
from builder.lesson import Lesson
from builder.measure import NOT_PROSE

FILE = ROOT / "notebooks" / "teaching" / "glossary.toml"


@dataclass(frozen=True)
class Term:
    """One term. forms: a pattern that finds it in a text, "" for the term itself."""

    term: str
    chinese: str
    says: str
    forms: str = ""

    @property
    def pattern(self) -> re.Pattern:
        plain = rf"{re.escape(self.term)}s?"
        return re.compile(rf"(?<!\w)(?:{self.forms or plain})(?!\w)", re.IGNORECASE)


@dataclass(frozen=True)
class Use:
    """Where a term comes first: a cell of a lesson."""

    lesson: Lesson
    cell: str


def terms() -> list[Term]:
    """All terms in alphabetical order."""
    with FILE.open("rb") as file:
        listed = [Term(**fields) for fields in tomllib.load(file)["term"]]
    return sorted(listed, key=lambda one: one.term.lower())


def first_uses(every: Sequence[Term], lessons: Sequence[Lesson]) -> dict[str, Use]:
    """Term -> its first use in the prose of the lessons, code and equations left out."""
    texts = [
        (lesson, cell["id"], NOT_PROSE.sub(" ", cell.source))
        for lesson in lessons
        for cell in lesson.solution().cells[1:]
        if cell.cell_type == "markdown"
    ]
    uses = {}
    for one in every:
        for lesson, cell, text in texts:
            if one.pattern.search(text):
                uses[one.term] = Use(lesson, cell)
                break
    return uses


def markdown(lessons: Sequence[Lesson], folder: str = "../notebooks/") -> str:
    """docs/glossary.md."""
    every = terms()
    uses = first_uses(every, lessons)
    lines = [
        "# Glossary",
        "",
        "Each term with its Chinese one, what it means, and where the lessons use it first. The "
        "[README](../README.md) has the methods, [equations](equations.md) their lines of code.",
        "",
        "| term | 中文 | what it means | first in |",
        "|---|---|---|---|",
    ]
    for one in every:
        use, link = uses.get(one.term), ""
        if use:
            name, file = f"{use.lesson.number} {use.lesson.title}", f"{use.lesson.slug}.ipynb"
            link = f"[{name}]({folder}{file}#cell-id={use.cell})"
        lines.append(f"| **{one.term}** | {one.chinese} | {one.says} | {link} |")
    return "\n".join(lines) + "\n"
