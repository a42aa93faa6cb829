"""The page for those who teach: notebooks/teaching/instructors.md with two tables filled in.

{timing}       a row for each lesson, from the sources' headers and what the notebooks measured
{questions}    three questions with a rubric for each lesson, from questions.toml
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat

from builder.cut import ROOT
from builder.lesson import Lesson

FOLDER = ROOT / "notebooks" / "teaching"


@dataclass(frozen=True)
class Question:
    """A question to discuss. two, one, none: what earns so many points."""

    lesson: str
    asks: str
    two: str
    one: str
    none: str


def questions() -> list[Question]:
    """All questions, in the order of the lessons."""
    with (FOLDER / "questions.toml").open("rb") as file:
        return [Question(**fields) for fields in tomllib.load(file)["question"]]


def markdown(lessons: Sequence[Lesson], notebooks: Path) -> str:
    """docs/instructors.md."""
    text = (FOLDER / "instructors.md").read_text(encoding="utf-8")
    text = text.replace("{timing}", _timing(lessons, notebooks))
    return text.replace("{questions}", _questions(lessons))


def _timing(lessons: Sequence[Lesson], notebooks: Path) -> str:
    lines = ["| lesson | sitting | checks until all passed | exercises plan | words | runs |"]
    lines += ["|---|---|---|---|---|---|"]
    for lesson in lessons:
        sitting, attempts = lesson.tried.get("sitting"), lesson.tried.get("attempts")
        planned = sum(exercise.minutes for exercise in lesson.exercises.values())
        row = (
            f"[{lesson.number} {lesson.title}](../notebooks/{lesson.slug}.ipynb)",
            f"{sitting:g} min" if sitting else "",
            f"{attempts}" if attempts else "",
            f"{len(lesson.exercises)}: {planned:g} min" if planned else "",
            _words(notebooks / f"{lesson.slug}.ipynb"),
            f"{lesson.minutes:g} min",
        )
        lines.append(f"| {' | '.join(row)} |")
    tried = sum("sitting" in lesson.tried for lesson in lessons)
    return "\n".join(
        [*lines, "", f"{tried} of {len(lessons)} lessons have been done by a reader so far."]
    )


def _words(path: Path) -> str:
    if not path.is_file():
        return ""
    facts = nbformat.read(path, as_version=4).metadata.get("minipeft", {})
    return f"{facts.get('measured', {}).get('words', 0):,}"


def _questions(lessons: Sequence[Lesson]) -> str:
    lines: list[str] = []
    every = questions()
    for lesson in lessons:
        lines += [f"### {lesson.number} {lesson.title}", ""]
        lines += ["| question | 2 points | 1 point | 0 points |", "|---|---|---|---|"]
        for one in every:
            if one.lesson == lesson.number:
                lines.append(f"| {one.asks} | {one.two} | {one.one} | {one.none} |")
        lines.append("")
    return "\n".join(lines).rstrip()
