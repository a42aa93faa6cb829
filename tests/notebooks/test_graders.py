"""nbgrader and otter-grader give the points that they should: all for what is right, none else.

They are installed in a virtual environment of their own, build/graders, beside the packages of this
one. Where there is no package index the tests are skipped and say so; where they cannot be
installed for another reason they fail in continuous integration.
"""

import copy
import csv
import fcntl
import json
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
import zlib
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest
from submitted import MODULES, said_by, solutions, space_of
from whole import WHOLE

import build
from builder import graders
from builder.worked import is_worked
from minipeft import checks

ROOT = Path(build.__file__).resolve().parents[1]
LESSONS = [lesson for lesson in build.Builder().lessons() if lesson.exercises]
# Two graders run what these hand in: functions, classes, numbers, patients, what is to be mended.
# WHOLE=1: all lessons.
GRADED = [x for x in LESSONS if WHOLE or x.slug[:3] in ("01_", "14_")]
EXERCISES = [e for lesson in GRADED for e in lesson.exercises.values()]
POINTS = float(sum(e.difficulty for e in EXERCISES))
WRONG = 3 if WHOLE else 1  # wrong solutions of each exercise
STUDENTS = ["right", "blank", *(f"wrong-{i}" for i in range(WRONG))] if WHOLE else ["right", "none"]
# A right solution that warns and writes to stderr keeps its points.
NOISE = """
import os, sys, warnings
def noisy(function):
    def call(*args, **more):
        warnings.warn("this takes long")
        print("working", file=sys.stderr)
        os.write(2, b"from below")
        return function(*args, **more)
    return call
attend = noisy(attend)
"""


NO_INDEX = (
    "No matching distribution", "Could not find a version", "Connection", "Temporary failure",
    "Name or service not known", "ProxyError", "SSLError", "timed out",
)  # fmt: skip


def missing(said):
    """Skip where there is no package index; fail in continuous integration for any other reason."""
    reason = " ".join(said.split())[-300:]
    if any(words in said for words in NO_INDEX):
        pytest.skip(f"nbgrader and otter-grader are not tried: no package index is here: {reason}")
    message = f"nbgrader and otter-grader cannot be installed: {reason}"
    pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.mark.parametrize(
    ("said", "ci", "outcome"),
    [
        ("ERROR: No matching distribution found for nbgrader==0.9.5", "1", "Skipped"),
        ("NewConnectionError: Temporary failure in name resolution", "true", "Skipped"),
        ("error: Microsoft Visual C++ is required", "1", "Failed"),
        ("error: Microsoft Visual C++ is required", "", "Skipped"),
    ],
)
def test_without_an_index_the_graders_are_skipped_and_the_reason_is_said(
    monkeypatch, said, ci, outcome
):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(BaseException) as caught:
        missing(said)
    assert type(caught.value).__name__ == outcome
    assert "nbgrader and otter-grader" in str(caught.value) and said[-20:] in str(caught.value)


@pytest.fixture(scope="session")
def run():
    """Run `python -m ..` with the graders' virtual environment in a folder."""
    place, pins = ROOT / "build" / "graders", ROOT / "requirements-graders.txt"
    place.parent.mkdir(exist_ok=True)
    bin_folder, stamp = place / "bin", place / f"ready-{zlib.crc32(pins.read_bytes()):08x}"
    with open(place.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file():
            subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
            (site,) = place.glob("lib/python*/site-packages")
            # The packages of this environment are seen from that one, and not installed again.
            (site / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
            done = subprocess.run(
                [bin_folder / "python", "-m", "pip", "install", "-q", "-r", pins],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                missing(done.stderr)
            stamp.touch()

    def command(folder, *arguments):
        environment = {
            **os.environ,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        command = [bin_folder / "python", "-m", *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return command


@pytest.fixture(scope="session")
def wrong():
    """Reference -> cells with wrong solutions of our tests, at most WRONG of each."""
    cells, graded = defaultdict(list), {e.cut.name for e in EXERCISES}
    for path in MODULES:
        space = space_of(path)
        for reference, expression in solutions(path, space):
            check, name = checks.EXERCISES[reference], reference.partition(":")[2]
            if (
                name in graded
                and len(cells[reference]) < WRONG
                and said_by(check, eval(expression, space))[0] == "failed"
            ):
                cells[reference].append(path.read_text("utf-8") + f"\n\n{name} = {expression}")
    return cells


def all_in_one(kind):
    """One assignment with the exercises of all GRADED, so that a kernel starts once a student."""
    first, *others = [kind(lesson) for lesson in GRADED]
    for notebook in others:
        first.cells += notebook.cells[1 if kind is graders.otter else 0 :]
    return first


def answered(notebook, answers):
    """The notebook as a student hands it in; answers: name of the exercise -> its cell."""
    copied = copy.deepcopy(notebook)
    names = [e.cut.name for e in EXERCISES]
    begins = {n: re.compile(rf"class {n}\b|def {n}\(|{n} = \.\.\.") for n in names}
    for cell in copied.cells:
        heads = cell.source.splitlines() if cell.cell_type == "code" else []
        for name, begin in begins.items():
            if any(begin.match(line) for line in heads) and name in answers:
                cell.source = answers[name]
                break
    return copied


def students(wrong, first):
    """Student -> the cells of each exercise; an exercise with too few wrong ones has them again.

    "none", who gets no point, is blank in every other exercise and wrong in those between: with the
    two values of `first`, 0 and 1, each exercise is once blank and once wrong.
    """
    right = {e.cut.name: e.cut.solution for e in EXERCISES}
    right["attend"] += NOISE
    cells = {"right": right, "blank": {}}
    for index in range(WRONG):
        cells[f"wrong-{index}"] = {
            reference.partition(":")[2]: some[index % len(some)]
            for reference, some in wrong.items()
        }
    names = [e.cut.name for e in EXERCISES][first::2]
    cells["none"] = {name: cell for name, cell in cells["wrong-0"].items() if name in names}
    return {student: cells[student] for student in STUDENTS}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.slug)
def test_nbgrader_cells_are_valid_and_hold_the_solution_between_marks(lesson):
    notebook = graders.nbgrader(lesson)
    graded = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade")]
    written = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("solution")]
    assert len(graded) == len(written) == len(lesson.exercises)
    ids = [c.metadata["nbgrader"]["grade_id"] for c in graded + written]
    assert len(set(ids)) == len(ids)
    for exercise, answer, check in zip(lesson.exercises.values(), written, graded, strict=True):
        facts = check.metadata["nbgrader"]
        assert (facts["schema_version"], facts["locked"]) == (3, True)
        assert facts["points"] == exercise.difficulty
        assert answer.source.count("BEGIN SOLUTION") == answer.source.count("END SOLUTION") > 0
        assert "PROMPT\n" not in answer.source.replace("NO PROMPT\n", "")
        added = re.compile(r"^ *# (BEGIN|END) SOLUTION.*\n|^ *# Hint: .*\n", re.M)
        text, solution = added.sub("", answer.source + "\n"), exercise.alone.solution + "\n"
        if is_worked(exercise.cut.reference):
            solution = textwrap.indent(solution, "    ")
        assert exercise.broken or text.endswith(solution)


@pytest.mark.slow
def test_nbgrader_gives_all_points_for_right_and_none_for_wrong(run, wrong, tmp_path):
    builder = build.Builder()
    builder.graders("nbgrader", GRADED, tmp_path)
    every = all_in_one(graders.nbgrader)
    source = tmp_path / "source" / "all" / "all.ipynb"
    source.parent.mkdir()
    nbformat.write(every, source)
    for name in (GRADED[0].slug, "all"):
        run(tmp_path, "nbgrader", "generate_assignment", name)
    released = nbformat.read(tmp_path / "release" / "all" / "all.ipynb", as_version=4)
    assert "this is yours to write" in json.dumps(released)
    assert "SOLUTION" not in json.dumps(released)
    for student, answers in students(wrong, 0).items():
        folder = tmp_path / "submitted" / student / "all"
        folder.mkdir(parents=True)
        nbformat.write(answered(released, answers), folder / "all.ipynb")
    run(tmp_path, "nbgrader", "autograde", "all")
    run(tmp_path, "nbgrader", "export", "--to", "grades.csv", "--assignment=['all']")
    with open(tmp_path / "grades.csv", newline="") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores == {name: POINTS if name == "right" else 0.0 for name in STUDENTS}
    graded = (tmp_path / "autograded" / "right" / "all" / "all.ipynb").read_text("utf-8")
    assert '"name": "stderr"' not in graded


@pytest.mark.slow
def test_otter_gives_all_points_for_right_and_none_for_wrong(run, wrong, tmp_path):
    build.Builder().graders("otter", GRADED, tmp_path)
    folder = tmp_path / GRADED[0].slug
    notebook = f"{GRADED[0].slug}.ipynb"
    nbformat.write(all_in_one(graders.otter), folder / notebook)
    # It runs the solutions, too, which are those of the student who is right.
    run(folder, "otter", "assign", *([] if WHOLE else ["--no-run-tests"]), notebook, "dist")
    released = nbformat.read(folder / "dist" / "student" / notebook, as_version=4)
    assert "attend is yours to write" in json.dumps(released)
    assert "SOLUTION" not in json.dumps(released)
    (autograder,) = (folder / "dist" / "autograder").glob("*.zip")
    submitted = students(wrong, 1)
    for student in STUDENTS[:4]:
        place = tmp_path / student
        place.mkdir()
        nbformat.write(answered(released, submitted[student]), place / notebook)
        run(place, "otter", "run", "-a", autograder, "-o", place, notebook)
        results = json.loads((place / "results.json").read_text())
        scores = [(t["score"], t["max_score"]) for t in results["tests"] if t.get("max_score")]
        assert len(scores) == len(EXERCISES)
        assert sum(full for _, full in scores) == POINTS
        assert sum(score for score, _ in scores) == (POINTS if student == "right" else 0.0)
