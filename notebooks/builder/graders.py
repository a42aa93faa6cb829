"""The exercises as assignments of nbgrader and of otter-grader.

An assignment holds the exercises of a lesson and the text before each, not the lesson's
experiments: it is run once per student. Points are the difficulty, one check is one graded cell,
and what an exercise takes from an earlier one comes from the package, so that each is graded alone.

    build/nbgrader/     nbgrader_config.py, source/LESSON/LESSON.ipynb
    build/otter/        LESSON/LESSON.ipynb, LESSON/requirements.txt
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from builder import setup_cell
from builder.cut import BEGIN, banner
from builder.lesson import KERNEL, Exercise, Lesson

SECONDS = 120  # for one cell
PROMPT = re.compile(r'^ *""" # BEGIN PROMPT\n.*?^ *""" # END PROMPT\n?', re.M | re.S)
CONFIG = f'''"""minipeft's exercises for nbgrader; next: nbgrader generate_assignment LESSON"""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "minipeft"
c.ExecutePreprocessor.timeout = {SECONDS}  # seconds for one cell
# The checks call an exercise that raises this "unfinished", not wrong.
c.ClearSolutions.code_stub = {{"python": 'raise NotImplementedError("this is yours to write")'}}
'''


def nbgrader(lesson: Lesson) -> NotebookNode:
    """The source notebook of an assignment: cells with nbgrader's metadata, schema 3."""
    cells = _head(lesson)
    for exercise, text in _exercises(lesson):
        cells += text
        name = re.sub(r"\W", "-", f"{lesson.number}-{exercise.cut.name}")
        answer = new_code_cell(_cell(exercise, PROMPT.sub("", exercise.alone.marked).rstrip()))
        answer.metadata["nbgrader"] = _nbgrader(f"write-{name}", solution=True)
        check = new_code_cell("\n".join([*_check(exercise), f"grade(check, {exercise.cut.name})"]))
        check.metadata["nbgrader"] = _nbgrader(
            f"check-{name}", grade=True, locked=True, points=float(exercise.difficulty)
        )
        cells += [answer, check]
    return _notebook(lesson, cells)


def otter(lesson: Lesson) -> NotebookNode:
    """The notebook that `otter assign` reads: questions in raw cells, tests that raise."""
    config = ["# ASSIGNMENT CONFIG", f"name: {lesson.slug}", "requirements: requirements.txt",
              "export_cell: false", "generate: true", "tests:", "  ok_format: false"]  # fmt: skip
    cells = [new_raw_cell("\n".join(config)), *_head(lesson)]
    for exercise, text in _exercises(lesson):
        name = re.sub(r"\W", "_", f"q{exercise.number}_{exercise.cut.name}")
        question = f"# BEGIN QUESTION\nname: {name}\npoints: {exercise.difficulty}"
        called = [
            f"    {line}" for line in (*_check(exercise), f"grade(check, {exercise.cut.name})")
        ]
        test = f"def test_{exercise.check}({exercise.cut.name}):"
        ignored = f"test_{exercise.check}({exercise.cut.name})  # IGNORE"
        cells += [
            new_raw_cell(question),
            *text,
            new_raw_cell("# BEGIN SOLUTION"),
            new_code_cell(_cell(exercise, exercise.alone.marked)),
            new_raw_cell("# END SOLUTION"),
            new_raw_cell("# BEGIN TESTS"),
            new_code_cell("\n".join([test, *called, "", ignored])),
            new_raw_cell("# END TESTS"),
            new_raw_cell("# END QUESTION"),
        ]
    return _notebook(lesson, cells)


def requirements() -> str:
    """What an autograder installs."""
    return f"minipeft @ git+{setup_cell.REPOSITORY}@{setup_cell.TAG}\n"


def _head(lesson: Lesson) -> list[NotebookNode]:
    return [
        new_markdown_cell(
            f"# {lesson.number} · {lesson.title}\n\n**{lesson.question}**\n\n*The exercises of "
            f"this lesson, to be graded; the lesson is `{lesson.slug}.ipynb` of the course.*"
        ),
        new_code_cell(setup_cell.SOURCE),
    ]


def _exercises(lesson: Lesson) -> Iterator[tuple[Exercise, list[NotebookNode]]]:
    """Each exercise with the text cells right before it."""
    text: list[NotebookNode] = []
    for index, cell in enumerate(lesson.cells):
        if cell.cell_type == "markdown":
            if "solution-only" not in cell.metadata.get("tags", []):
                text.append(new_markdown_cell(cell.source))
            continue
        if index in lesson.exercises:
            yield lesson.exercises[index], text
        text = []


def _cell(exercise: Exercise, code: str) -> str:
    assert BEGIN in code
    return "\n".join(filter(None, [banner(exercise.title), exercise.notes])) + "\n" + code


def _check(exercise: Exercise) -> Sequence[str]:
    return (
        f"from minipeft.checks import {exercise.check} as check",
        "from minipeft.checks.grading import grade",
        "",
    )


def _nbgrader(grade_id: str, **others) -> dict:
    facts = {"schema_version": 3, "grade": False, "locked": False, "solution": False, "task": False}
    return facts | {"grade_id": grade_id} | others


def _notebook(lesson: Lesson, cells: list[NotebookNode]) -> NotebookNode:
    for position, cell in enumerate(cells):
        cell["id"] = f"{lesson.number}-{position:03d}"
    language = {"name": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": KERNEL, "language_info": language})
    nbformat.validate(notebook)
    return notebook


def files(kind: str, lessons: Sequence[Lesson]) -> dict[Path, NotebookNode | str]:
    """Path in the folder of the grader -> what is written there. kind: "nbgrader" or "otter"."""
    graded = [lesson for lesson in lessons if lesson.exercises]
    if kind == "nbgrader":
        files_of = {Path("source", x.slug, f"{x.slug}.ipynb"): nbgrader(x) for x in graded}
        return {Path("nbgrader_config.py"): CONFIG, **files_of}
    files_of = {Path(x.slug, f"{x.slug}.ipynb"): otter(x) for x in graded}
    return files_of | {Path(x.slug, "requirements.txt"): requirements() for x in graded}
