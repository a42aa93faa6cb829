"""The glossary: the field's terms in one plain sentence, with the place where each comes first.

The terms stand in notebooks/teaching/glossary.toml; their first uses are looked up here.
"""

from __future__ import annotations

import html
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode

from builder.cut import ROOT
from builder.lesson import Lesson

LINK_OR_HEADING = re.compile(r"!?\[[^\]]*\]\([^)]*\)|^#{1,6} .*$|^\s*\|?[-|: ]+$", re.MULTILINE)
NOT_PROSE = re.compile(
    r"<details>.*?</details>|```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$|<[^>]+>|\]\([^)]*\)",
    re.DOTALL,
)
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

    @property
    def place(self) -> str:
        """Its name in the address of the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.term.lower()).strip("-")


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
        (lesson, cell["id"], prose(cell.source))
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


def linked(lesson: Lesson, notebook: NotebookNode, uses: dict[str, Use]) -> NotebookNode:
    """A copy of the notebook in which the first use of a term is a link to the glossary's page."""
    copy = nbformat.from_dict(notebook)
    cells = {cell.get("id"): cell for cell in copy.cells if cell.cell_type == "markdown"}
    for one in terms():
        use = uses.get(one.term)
        cell = cells.get(use.cell) if use and use.lesson.slug == lesson.slug else None
        match = one.pattern.search(prose(LINK_OR_HEADING.sub(blank, cell.source))) if cell else None
        if match:
            begin, end = in_pairs(cell.source, *match.span())
            if begin < end:
                word = f"[{cell.source[begin:end]}](glossary.html#{one.place})"
                cell.source = cell.source[:begin] + word + cell.source[end:]
    return copy


def in_pairs(text: str, begin: int, end: int) -> tuple[int, int]:
    """The span moved so that the marks of bold and italic type in it come in pairs.

    A link around half of a pair, such as head** only, would leave its stars on the page. The span
    takes in the other half if that is next to it, or leaves its own outside; where neither is
    possible it is empty.
    """
    marks = re.findall(r"\*+", text[begin:end])
    if len(marks) % 2 == 0:
        return begin, end
    first, last = marks[0], marks[-1]
    if text[:begin].endswith(first):
        return begin - len(first), end
    if text[end:].startswith(last):
        return begin, end + len(last)
    if text.startswith(first, begin):
        return begin + len(first), end
    return begin, end - len(last) if text[:end].endswith(last) else begin


def prose(text: str) -> str:
    """The text with spaces in the place of code, equations, hints and addresses."""
    return NOT_PROSE.sub(blank, text)


def blank(match: re.Match) -> str:
    """As many spaces as the match has letters."""
    return " " * len(match[0])


def with_places(body: str) -> str:
    """The glossary as HTML, its rows with the names that `linked` links to."""
    for one in terms():
        row = f"<td><strong>{html.escape(one.term)}</strong></td>"
        body = body.replace(row, row.replace("<td>", f'<td id="{one.place}">'))
    return body


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
