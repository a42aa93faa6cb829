"""Which exercises the course has: read from the exercise notebooks that the package brings along.

In the repository they stand in notebooks/exercises/, in an installed package in minipeft/lessons/.
What a submitted notebook says of itself is not asked: it only tells which lesson it belongs to.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from minipeft.checks.cells import Cell, blanked, read_cells


@dataclass(frozen=True)
class Exercise:
    """One exercise of the course: "10.1", "minipeft.methods.lora:LoRAPatch", its points.

    blanked: the functions whose bodies the learner writes or mends ("forward", "delta").
    given: the text of its cell where something in it is to be mended.
    """

    number: str
    reference: str
    points: int
    blanked: tuple[str, ...]
    given: str | None = None

    @property
    def name(self) -> str:
        return self.reference.partition(":")[2]

    @property
    def is_number(self) -> bool:
        """Is the answer a number, a shape or a word, and not a function or a class?"""
        return self.reference.startswith("minipeft.checks:")


@dataclass(frozen=True)
class Lesson:
    """One exercise notebook: "10_lora", its file, its exercises in order."""

    slug: str
    path: Path
    exercises: tuple[Exercise, ...]


def folder() -> Path:
    """Where the exercise notebooks stand: beside the package in the repository, or inside it."""
    package = Path(__file__).resolve().parents[1]
    places = [package / "lessons", package.parent / "notebooks" / "exercises"]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        "The exercise notebooks of the course were not found: install minipeft from its wheel or "
        "run from the repository."
    )


def lessons() -> dict[str, Lesson]:
    """Every lesson that has exercises, by its name ("10_lora"), in order."""
    return _lessons(folder())


@functools.lru_cache(maxsize=4)
def _lessons(place: Path) -> dict[str, Lesson]:
    return {path.stem: _lesson(path) for path in sorted(place.glob("*.ipynb"))}


def _lesson(path: Path) -> Lesson:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    stubs = {cell.exercise: cell for cell in read_cells(notebook)}
    exercises = []
    for entry in notebook["metadata"]["minipeft"]["exercises"]:
        reference = entry["exercise"]
        mend = entry.get("broken", ())
        bodies = sorted(mend or blanked(stubs[reference], reference.partition(":")[2]))
        given = stubs[reference].text if mend else None
        points = int(entry.get("points", 1))
        exercises.append(Exercise(entry["number"], reference, points, tuple(bodies), given))
    return Lesson(path.stem, path, tuple(exercises))


def to_mend(reference: str) -> list[str]:
    """The cells of the course in which this object is given with something wrong in it."""
    try:
        every = [e for lesson in lessons().values() for e in lesson.exercises]
    except FileNotFoundError:  # the package without its course
        return []
    return [e.given for e in every if e.reference == reference and e.given is not None]


def lesson_of(notebook: dict, cells: list[Cell], file: Path) -> Lesson | None:
    """The lesson that a submitted notebook belongs to; None when it is none of this course.

    Its metadata say so, or its file's name ("smith_10_lora.ipynb"), or its title ("# 10 · LoRA"),
    or the marks of its cells; the first that names a lesson of this course counts.
    """
    known = lessons()
    facts = _facts(notebook)
    if facts.get("lesson") in known:
        return known[facts["lesson"]]
    for slug in known:
        if slug in file.stem:
            return known[slug]
    numbers = {slug.partition("_")[0]: slug for slug in known}
    for cell in notebook["cells"]:
        title = re.match(r"# (\d\d[a-z]?) · ", "".join(cell.get("source", "")))
        if cell.get("cell_type") == "markdown" and title and title[1] in numbers:
            return known[numbers[title[1]]]
    listed = [entry["exercise"] for entry in facts.get("exercises", [])]
    marks = {str(mark).partition(":")[2] for mark in [*listed, *(c.exercise for c in cells)]}
    for lesson in known.values():
        if marks & {exercise.name for exercise in lesson.exercises}:
            return lesson
    return None


def _facts(notebook: dict) -> dict:
    facts = notebook.get("metadata", {}).get("minipeft", {})
    return facts if isinstance(facts, dict) else {}
