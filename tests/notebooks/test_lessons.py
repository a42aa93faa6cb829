"""The course as committed: sources, notebooks and checks belong together.

Every lesson as a learner meets it is run by tests/test_wheel.py, every solution by `.ci/run`.
"""

import re

import pytest

import build
from builder.lesson import read
from minipeft import checks

SOURCES = sorted((build.HERE / "src").glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_exercise_has_the_check_that_its_lesson_calls(source):
    for exercise in read(source).exercises.values():
        judge = checks.EXERCISES.get(exercise.cut.reference)
        assert judge is not None, f"{exercise.cut.reference} is not in minipeft.checks.EXERCISES"
        assert judge.__name__ == exercise.check
        assert getattr(checks, exercise.check) is judge


def test_the_committed_notebooks_correspond_to_their_sources(capsys):
    builder = build.Builder()
    stale = builder.check(builder.lessons())
    assert stale == 0, capsys.readouterr().err


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_an_exercise_notebook_names_its_solution_wherever_it_is_copied_to(source):
    """`make lab` copies it to work/, `minipeft lessons` anywhere: no path from where it lies."""
    lesson = read(source)
    if lesson.exercises:
        head = lesson.student().cells[0].source
        assert (build.ROOT / re.search(r"Solution: `([^`]+)`", head)[1]).is_file()
