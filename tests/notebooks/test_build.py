"""The builder, on a small course in a temporary folder."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import nbformat
import pytest
from patience import patience
from submitted import said_by

import build
from builder import graders, progress, run, setup_cell, silence
from builder.lesson import LessonError, read
from minipeft import checks

ROOT = Path(build.__file__).resolve().parents[1]

HEADER = """
    # ---
    # jupyter:
    #   minipeft:
    #     title: Toy
    #     question: Is $1 + 1$ two?
    #     minutes: 0.5
    # ---
"""

EXERCISE = """
    # %% exercise="minipeft.methods.lora:LoRAPatch" blank="forward,delta" difficulty=2 minutes=10
    # Mind the shapes.
    # forward: x meets A first

    # %%
    from minipeft import checks
    checks.lora(LoRAPatch)
"""

NUMBER = """
    # %% exercise="minipeft.checks:lora_parameters" difficulty=1 minutes=3
    # Mind both.
    # lora_parameters: count A and B
    r = 8  # the rank
    lora_parameters = 4 * 2 * r * (80 + 80)

    # %%
    from minipeft import checks
    checks.lora_parameters(lora_parameters)
"""

MEND = """
    # %% exercise="tiny_transformer.layers:FeedForward" broken="self.up(x)) => x)" difficulty=2 minutes=8
    # Two maps and a bend.

    # %%
    from minipeft import checks
    checks.feed_forward(FeedForward)
"""  # noqa: E501


@pytest.fixture
def course(tmp_path):
    """A builder on empty folders, and a way to write sources."""
    builder = build.Builder(tmp_path / "notebooks", tmp_path / "out")
    builder.sources.mkdir(parents=True)

    def write(name, *parts, header=HEADER):
        text = textwrap.dedent(header).lstrip() + "\n".join(textwrap.dedent(p) for p in parts)
        (builder.sources / f"{name}.py").write_text(text)
        return builder

    builder.write = write
    return builder


@pytest.fixture
def runs(monkeypatch):
    """Executions in name only, for what does not depend on outputs; a list of what was run."""
    done = []

    def execute(notebook, progress, threads, stop):
        done.append(notebook.metadata["minipeft"]["lesson"])
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for count, cell in enumerate(code, start=1):
            cell.execution_count = count
        return 1.0

    monkeypatch.setattr(build, "execute", execute)
    return done


def course_run(builder, **changes):
    options = {"force": False, "fast": False, "threads": 1} | changes
    return builder.course(builder.lessons(), **options)


def test_a_lesson_is_run_and_its_outputs_are_kept(course, capsys, monkeypatch):
    monkeypatch.setenv("MINIPEFT_ASSETS", "/some/where/assets")
    course.write(
        "01_toy",
        """
        # %% fast="n = 1"
        n = 21

        # %%
        import os, sys
        print("progress", file=sys.stderr)
        print(2 * n, os.path.dirname(os.path.abspath("x")), sys.executable)
        print("/some" + "/where/assets/here", object())

        # %% tags=["raises-exception"]
        1 / 0

        # %%
        os.environ["OMP_NUM_THREADS"]
        """,
    )
    assert course_run(course) == 0
    path = course.output / "01_toy.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    header, first, prints, error, threads = notebook.cells
    assert header.source.startswith("# 01 · Toy\n\n**Is $1 + 1$ two?**")
    assert "30 seconds" in header.source
    assert [c.execution_count for c in notebook.cells[1:]] == [1, 2, 3, 4]
    assert [o.get("name") for o in prints.outputs] == ["stdout"]  # nothing from stderr
    text = prints.outputs[0].text
    assert text.startswith("42 . ") and "$MINIPEFT_ASSETS/here" in text and "0x..." in text
    assert error.outputs[0].ename == "ZeroDivisionError"
    assert threads.outputs[0].data["text/plain"] == "'1'"
    for private in (str(ROOT), "/some/where", str(course.output)):
        assert private not in path.read_text()
    assert not list(course.output.glob("*.tmp"))

    page = (course.output / "01_toy.html").read_text()
    index = (course.output / "index.html").read_text()
    assert '<a href="01_toy.html">01 · Toy</a>' in index and "0.5 min" in index
    for text in (page, index):
        assert "<math" in text
        assert not re.search(r"(src|href)=.https?:", text)
        assert "http" not in re.sub(r"http://www.w3.org/[\w/]*", "", text)
        assert "<script" not in text


def test_what_is_unchanged_is_not_run_again(course, runs, tmp_path, capsys, monkeypatch):
    shared = tmp_path / "shared.py"
    shared.write_text("a = 1")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "_shared_sources", lambda: [shared])

    def after(expected, **changes):
        course._shared_hash = None
        assert course_run(course, **changes) == 0
        assert len(runs) == expected

    course.write("01_toy", "# %%\n1")
    after(1)
    after(1)
    assert "up to date" in capsys.readouterr().out
    after(2, force=True)
    course.write("01_toy", "# %%\n2")
    after(3)
    shared.write_text("a = 2")  # a file of the package
    after(4)
    (course.output / "01_toy.ipynb").write_text("{")  # not whole
    after(5)
    after(5)


def test_outputs_with_and_without_the_real_checkpoints_are_kept_apart(course, runs, monkeypatch):
    course.write("01_toy", "# %%\n1")
    course.write("02_toy", "# %%\nimport os; os.environ.get('MINIPEFT_ASSETS')")
    monkeypatch.delenv("MINIPEFT_ASSETS", raising=False)
    course_run(course)
    assert len(runs) == 2
    monkeypatch.setenv("MINIPEFT_ASSETS", "/some/where")
    course_run(course)
    assert len(runs) == 3  # only the lesson that looks for them


def test_outputs_with_and_without_the_real_models_are_kept_apart(course, runs, monkeypatch):
    present = []
    monkeypatch.setattr(build.real, "find", lambda name: name in present)
    course.write("01_toy", "# %%\n1")
    course.write("02_toy", "# %%\nfrom minipeft.course import real\nreal.load('smollm2')")
    course_run(course)
    present.append("smollm2")
    for _ in range(2):
        course_run(course)
        assert len(runs) == 3  # only the lesson that asks for them


def test_publish_takes_what_the_course_has_run(course, runs):
    course.write("01_toy", "# %%\n1")
    course_run(course)
    for _ in range(2):
        assert course.publish(course.lessons(), force=False, threads=1) == 0
    assert len(runs) == 1
    same = [(p / "01_toy.ipynb").read_text() for p in (course.solutions, course.output)]
    assert same[0] == same[1]


def test_the_shared_sources_are_the_packages_the_data_and_the_pins():
    names = {str(p.relative_to(ROOT)) for p in build._shared_sources()}
    assert {
        "requirements.txt",
        "minipeft/checks/exercises/lora.py",
        "tiny_transformer/attention.py",
        "notebooks/builder/cut.py",
    } <= names
    assert any(name.startswith("data/tasks/") for name in names)
    assert not any("__pycache__" in name or name.startswith("tests/") for name in names)


def test_a_failing_cell_is_named_and_the_others_are_still_run(course, capsys):
    course.write("01_bad", "# %%\na = 1\n\n# %%\nraise ValueError('this one')\n\n# %%\na")
    course.write("02_good", "# %%\n1 + 1")
    assert course_run(course) == 1
    error = capsys.readouterr().err
    said, advice = error.splitlines()
    assert said == "01_bad: cell 3 failed: ValueError: this one"
    log = course.output / "01_bad.failed.txt"
    assert str(log.name) in advice and "`make course ONLY=01`" in advice
    assert "raise ValueError('this one')" in log.read_text() and "\x1b" not in log.read_text()
    assert not (course.output / "01_bad.ipynb").exists()
    assert (course.output / "02_good.ipynb").exists()
    assert "not run yet" in (course.output / "index.html").read_text()


def test_an_error_is_told_although_a_figure_stands_behind_it(course, capsys):
    course.write("01_bad", "# %%\nfrom matplotlib import pyplot\npyplot.plot([1])\n1 / 0")
    assert course_run(course) == 1
    assert "cell 2 failed: ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_a_kernel_that_dies_is_said(course, capsys):
    course.write("01_bad", "# %%\nimport os; os._exit(1)")
    assert course_run(course) == 1
    assert "the kernel died" in capsys.readouterr().err


@pytest.mark.slow
def test_a_lesson_that_is_silent_is_ended_and_one_that_works_is_not(course, capsys, monkeypatch):
    """The limit is on silence: the first lesson is longer than that, the second says nothing."""
    limit = patience(0.5)
    monkeypatch.setattr(run, "patience", lambda environment: limit)
    works = f"for n in range(8):\n    time.sleep({limit / 4})\n    print(n, file=sys.stderr)"
    course.write("01_works", f"# %%\nimport sys, time\n{works}")
    course.write("02_hangs", "# %%\nimport time\nwhile True:\n    time.sleep(1)")
    assert course_run(course) == 1
    (said, advice) = capsys.readouterr().err.splitlines()
    assert said == f"02_hangs: cell 2 failed: nothing was heard for {limit:.0f} s"
    assert "make course ONLY=02" in advice
    assert (course.output / "01_works.ipynb").exists()


def test_patience_grows_with_what_a_loop_needs_here(monkeypatch):
    def said(text, code=0):
        silence._known.clear()
        answer = subprocess.CompletedProcess([], code, stdout=text)
        monkeypatch.setattr(silence.subprocess, "run", lambda *a, **options: answer)
        return silence.patience({"OMP_NUM_THREADS": "1"})

    monkeypatch.setattr(silence, "_known", {})
    assert said("0.01") == said("", code=1) == silence.SILENCE
    assert said(str(3 * silence.USUAL)) == pytest.approx(3 * silence.SILENCE)


def test_lessons_run_side_by_side_and_a_failure_loses_no_other(course, tmp_path, capsys):
    """Each waits until the other runs, so one after another they would not end."""
    for mine, other in (("01", "02"), ("02", "01")):
        code = (
            "import pathlib, sys, time\n"
            f"here = pathlib.Path({str(tmp_path)!r})\n(here / '{mine}').touch()\n"
            f"while not (here / '{other}').exists():\n"
            "    time.sleep(0.05)\n    print('waits', file=sys.stderr)\n"
        )
        course.write(f"{mine}_waits", f"# %%\n{code}" + ("1 / 0" if mine == "01" else ""))
    assert course_run(course, jobs=2) == 1
    out, error = capsys.readouterr()
    assert "01_waits: cell 2 failed: ZeroDivisionError: division by zero" in error
    assert [line.split()[0] for line in sorted(out.splitlines())[:2]] == ["01_waits", "02_waits"]
    assert not (course.output / "01_waits.ipynb").exists()
    assert (course.output / "02_waits.ipynb").exists()


def test_in_a_terminal_one_line_tells_of_all_lessons(capsys, monkeypatch):
    lines = progress.Progress()
    lines.live = True
    monkeypatch.setenv("COLUMNS", "120")
    one, two = lines.lesson("01_a"), lines.lesson("02_b")
    one.update(3, 9, "")
    two.update(1, 5, "")
    assert capsys.readouterr().out.endswith("\r\x1b[K  01_a cell 3/9 0 s  |  02_b cell 1/5 0 s")
    one.update(3, 9, "SomeWarning: beware\n")
    one.end("9 cells")
    out = capsys.readouterr().out
    assert "01_a                     9 cells\n      cell 3: SomeWarning: beware\n" in out
    two.update(2, 5, "")
    two.update(2, 5, "\r 50%|####   ")
    lines.show()
    assert capsys.readouterr().out.endswith("\r\x1b[K  02_b cell 2/5 0 s  50%|####")


@pytest.mark.slow
def test_an_interrupted_build_goes_on_where_it_stopped(course, tmp_path):
    """Killed while the second lesson runs: the first is kept whole and not run again."""
    count = tmp_path / "count"
    course.write("01_toy", f"# %%\nopen({str(count)!r}, 'a').write('1')")
    slow = f"# %%\nimport os, time\nopen({str(count)!r}, 'a').write('2')\n"
    course.write("02_toy", slow + f"while not os.path.exists({str(tmp_path / 'go')!r}):\n"
                 "    time.sleep(0.05)")  # fmt: skip
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'notebooks')!r})\n"
        # where the tests run in the background, the shell has told everybody to ignore Ctrl-C
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; import build\n"
        f"b = build.Builder(Path({str(course.solutions)!r}), Path({str(course.output)!r}))\n"
        "sys.exit(b.course(b.lessons(), force=False, fast=False, threads=1))"
    )
    for sign in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        wanted = "12" if sign == signal.SIGKILL else "122"
        deadline = time.monotonic() + patience(30)
        while not (count.exists() and count.read_text() == wanted):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(sign)
        process.communicate(timeout=patience(15))
        assert process.returncode != 0
        assert (course.output / "01_toy.ipynb").is_file()
        assert not (course.output / "02_toy.ipynb").exists()
    (tmp_path / "go").touch()
    assert course_run(course) == 0
    assert count.read_text() == "1222"
    assert not list(course.output.glob("*.tmp"))


def test_the_folder_of_a_killed_build_is_taken_away_and_that_of_a_living_one_is_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, other = tmp_path / f"{run.PLACE}dead", tmp_path / "other"
    (dead / "lesson").mkdir(parents=True)
    other.mkdir()
    with run.workplace() as living:
        assert not dead.exists() and not list(living.iterdir())
        with run.workplace() as place:
            assert living.is_dir() and place.is_dir() and place != living
        assert set(tmp_path.iterdir()) == {living, other}
        with pytest.raises(FileNotFoundError), run.workplace():
            raise FileNotFoundError
    assert set(tmp_path.iterdir()) == {other}


def test_the_student_notebook_has_no_answer_in_it(course):
    course.write("10_toy", EXERCISE)
    builder = course
    assert builder.student(builder.lessons()) == 0
    path = builder.exercises / "10_toy.ipynb"
    nbformat.validate(nbformat.read(path, as_version=4))
    text = path.read_text()
    source = (ROOT / "minipeft/methods/lora.py").read_text()
    for name in ("forward", "delta"):
        start = source.index(f"def {name}(self")
        body = source[start:].split('"""')[2].split("\n    def ")[0].split("\n@")[0]
        answers = [line.strip() for line in body.splitlines() if line.strip()]
        assert answers
        for line in answers:
            assert json.dumps(line)[1:-1] not in text
    assert "# Exercise 10.1 · LoRAPatch · difficulty ●●○○○ · about 10 minutes" in text
    assert "# Mind the shapes." in text and "# Hint: x meets A first" in text
    assert "checks.lora(LoRAPatch)" in text
    assert "LoRAPatch.delta is yours to write" in text
    notebook = nbformat.read(path, as_version=4)
    assert all(not c.get("outputs") for c in notebook.cells)
    before = path.stat().st_mtime_ns
    builder.student(builder.lessons())
    assert path.stat().st_mtime_ns == before  # what is up to date is not written again


def test_what_a_learner_has_worked_in_is_never_overwritten(course, tmp_path, capsys):
    builder = course.write("10_toy", EXERCISE)
    work = tmp_path / "work"
    builder.work(builder.lessons(), work)
    builder.student(builder.lessons())
    copy, original = work / "10_toy.ipynb", builder.exercises / "10_toy.ipynb"
    assert copy.read_text() == original.read_text()
    mine = copy.read_text().replace("raise NotImplementedError", "return 7  #")
    copy.write_text(mine)
    run = original.read_text().replace('"execution_count": null', '"execution_count": 3')
    original.write_text(run)
    builder.write("10_toy", EXERCISE, "# %%\n1 + 1")  # the lesson has changed
    builder.work(builder.lessons(), work)
    builder.student(builder.lessons())
    assert copy.read_text() == mine
    assert original.read_text() == run and "has been worked in" in capsys.readouterr().out


@pytest.mark.slow
def test_the_built_notebooks_go_through_the_checker(course, capsys, monkeypatch):
    """The solution passes `python -m minipeft check`; the student notebook is unfinished."""
    from minipeft.__main__ import main
    from minipeft.checks import lessons

    course.write("10_toy", EXERCISE, NUMBER, MEND)
    monkeypatch.setattr(lessons, "folder", lambda: course.exercises)
    assert course.publish(course.lessons(), force=False, threads=1) == 0
    capsys.readouterr()
    assert main(["check", str(course.solutions / "10_toy.ipynb")]) == 0
    assert "3 of 3 passed" in capsys.readouterr().out
    assert main(["check", str(course.exercises / "10_toy.ipynb")]) == 1
    out = capsys.readouterr().out
    assert out.count("unfinished") == 3
    assert "is yours to write" in out and "is yours to work out" in out
    assert "FeedForward is as it was given: something in it is wrong" in out


def test_a_number_is_shown_with_its_working_or_as_dots(course):
    builder = course.write("10_toy", NUMBER)
    (lesson,) = builder.lessons()
    solution, student = (n.cells[-2].source for n in (lesson.solution(), lesson.student()))
    head = "# Exercise 10.1 · lora_parameters · difficulty ●○○○○ · about 3 minutes\n# Mind both.\n"
    assert solution == head + "r = 8  # the rank\nlora_parameters = 4 * 2 * r * (80 + 80)"
    assert student == (
        f"{head}# Hint: count A and B\nlora_parameters = ...  # your answer in place of the dots"
    )


def test_an_object_to_mend_is_the_packages_with_one_thing_wrong(course, monkeypatch):
    from minipeft.checks import cells, lessons

    builder = course.write("10_toy", MEND)
    (lesson,) = builder.lessons()
    builder.student([lesson])
    monkeypatch.setattr(lessons, "folder", lambda: builder.exercises)
    (piece,) = (e.cut for e in lesson.exercises.values())
    right, given = "self.activation(self.up(x))", "self.activation(x)"
    assert piece.solution.replace(right, given) == piece.stub
    (exercise,) = lessons.lessons()["10_toy"].exercises
    assert exercise.blanked == ("forward",) and given in exercise.given

    def judged(text):
        space = {}
        exec(text, space)
        checks.feed_forward(space["FeedForward"])

    judged(piece.stub.replace(given, right))
    for untouched in (piece.stub, f"# mine\n\n{piece.stub}"):
        with pytest.raises(checks.NotFinished, match="as it was given: something in it is wrong"):
            judged(untouched)
    for other in ("self.activation(2 * x)", "self.up(x)"):
        with pytest.raises(checks.CheckFailed) as caught:
            judged(piece.stub.replace(given, other))
        assert not isinstance(caught.value, checks.NotFinished)
    mended = [cells.Cell(text, text) for text in (piece.solution, piece.stub)]
    for order in (mended, mended[::-1]):  # the mended one counts, wherever it exercise
        best = cells.candidates(tuple(order), "FeedForward", {"forward"}, given=exercise.given)
        assert order[best[0][0]].source == piece.solution


def test_graders_get_both_bodies_of_an_object_to_mend(course):
    """The right one between marks; without it a line that raises, and the wrong one behind that."""
    builder = course.write("10_toy", MEND)
    (lesson,) = builder.lessons()
    solution = re.compile(r"^ *# BEGIN SOLUTION NO PROMPT\n.*?# END SOLUTION\n", re.M | re.S)
    for kind in (graders.nbgrader, graders.otter):
        (answer,) = [c.source for c in kind(lesson).cells if "BEGIN SOLUTION NO" in c.source]
        given = graders.PROMPT.sub("", solution.sub("", answer))  # and the line that raises
        stub = given.replace(
            "        return self.down", '        raise NotImplementedError("x is yours to write")\n'
            "        return self.down",
        )  # fmt: skip
        mended = given.replace("activation(x)", "activation(self.up(x))")
        results = {answer: "passed", stub: "unfinished", given: "failed", mended: "passed"}
        for text, result in results.items():
            space = {}
            exec(text, space)
            assert said_by(checks.feed_forward, space["FeedForward"])[0] == result


@pytest.mark.parametrize(
    ("given", "address", "opens"),
    [
        ("https://github.com/school/peft.git/", "https://github.com/school/peft", "school/peft"),
        ("https://gitlab.com/school/peft", "https://gitlab.com/school/peft", None),
        ("", setup_cell.PROJECT["urls"]["Repository"], "minipeft"),
    ],
)
def test_notebooks_name_the_repository_that_is_set(monkeypatch, given, address, opens):
    monkeypatch.setenv("MINIPEFT_REPOSITORY", given)
    module = vars(setup_cell).copy()
    exec(Path(setup_cell.__file__).read_text("utf-8"), module)
    assert f"git+{address}@v" in module["SOURCE"]
    badge = module["badge"]("10_lora.ipynb")
    assert f"/github/{opens}" in badge if opens else badge == ""


def test_check_sees_every_kind_of_drift(course, runs, capsys):
    builder = course.write("10_toy", EXERCISE, "# %%\n1 + 1")
    lessons = builder.lessons()
    assert builder.check(lessons) == 2  # nothing built yet
    builder.publish(lessons, force=False, threads=1)
    assert builder.check(lessons) == 0
    solution = builder.solutions / "10_toy.ipynb"
    student = builder.exercises / "10_toy.ipynb"
    whole = {path: path.read_text() for path in (solution, student)}

    def said(path, text):
        path.write_text(text)
        capsys.readouterr()
        assert builder.check(lessons) == 1
        path.write_text(whole[path])
        return capsys.readouterr().err

    assert "exercises/10_toy.ipynb" in said(student, whole[student].replace("Mind", "Forget"))
    assert "cell 2 does not" in said(solution, whole[solution].replace("Mind", "Forget"))
    assert "not run once each" in said(
        solution, whole[solution].replace('"execution_count": 2', '"execution_count": 7')
    )
    extra = builder.solutions / "99_gone.ipynb"
    whole[extra] = whole[solution]
    assert "99_gone.ipynb has no source" in said(extra, whole[solution])
    extra.unlink()
    # a source that changed
    builder.write("10_toy", EXERCISE, "# %%\n1 + 2")
    assert builder.check(builder.lessons()) == 2
    assert capsys.readouterr().err.count("does not correspond") == 2


def test_a_fast_run_adds_its_lines_and_leaves_cells_out(course):
    (lesson,) = course.write(
        "01_toy", '# %% fast="steps = 2"\nsteps = 400\n\n# %% tags=["not-fast"]\nassert steps > 9'
    ).lessons()
    assert [c.source for c in lesson.solution(fast=True).cells[1:]] == ["steps = 400\nsteps = 2"]
    assert [c.source for c in lesson.solution().cells[1:]] == ["steps = 400", "assert steps > 9"]
    assert "fast" not in json.dumps([c.metadata for c in lesson.solution().cells])


def test_cells_for_one_notebook_only(course):
    (lesson,) = course.write(
        "01_toy", '# %% tags=["solution-only"]\na\n\n# %% tags=["student-only"]\nb'
    ).lessons()
    assert [c.source for c in lesson.solution().cells[1:]] == ["a"]
    assert [c.source for c in lesson.student().cells[1:]] == ["b"]


def test_an_exercise_can_build_on_the_one_before(course):
    text = """
    # %% exercise="tiny_transformer.layers:FeedForward" blank="forward" difficulty=1 minutes=5

    # %%
    checks.feed_forward(FeedForward)

    # %% exercise="tiny_transformer.layers:Block" blank="forward" difficulty=3 minutes=5

    # %%
    checks.block(Block)
    """
    (lesson,) = course.write("01_toy", text).lessons()
    first, second = lesson.exercises.values()
    assert (first.number, second.number) == ("1.1", "1.2")
    assert second.cut.uses == ("FeedForward",)
    assert "import FeedForward" not in second.cut.solution
    assert "import FusedAttention as Attention" in second.cut.solution


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("toy", "# %%\n1", "NN_name.py"),
        ("01_toy", "# %% color=3\n1", "unknown field color"),
        ("01_toy", '# %% tags=["later"]\n1', "unknown cell tag later"),
        ("01_toy", EXERCISE.replace("difficulty=2 ", ""), "misses difficulty"),
        ("01_toy", EXERCISE.replace("difficulty=2", "difficulty=6"), "difficulty is 1 to 5"),
        ("01_toy", EXERCISE.replace("forward,delta", "forwards"), "has no method forwards"),
        ("01_toy", EXERCISE.replace("lora:LoRAPatch", "lora:Nothing"), "defines no class"),
        ("01_toy", NUMBER.replace("4 * 2", "layers * 2"), "must run alone: set or import layers"),
        ("01_toy", NUMBER.replace("lora_parameters = ", "answer = "), "ends in `lora_parameters"),
        ("01_toy", NUMBER.replace("4 * 2", "4 *"), "is not Python"),
        ("01_toy", NUMBER.replace("checks.lora_parameters(", "checks.lora("), "lora_parameters"),
        ("01_toy", NUMBER.replace(" diff", ' blank="x" diff'), "has no methods"),
        ("01_toy", MEND.replace(" diff", ' blank="x" diff'), "is shown whole"),
        ("01_toy", MEND.replace("self.up(x))", "self"), "must be once"),
        ("01_toy", MEND.replace("=> x)", "=> x"), "is not Python"),
        ("01_toy", MEND.replace("=>", "->"), "and what replaces it"),
        ("01_toy", MEND.replace("self.up(x)) => x)", "I, the => J, the"), "changes no function"),
        ("01_toy", EXERCISE.replace("checks.lora(", "print("), "must call checks.NAME(LoRAPatch)"),
        ("01_toy", EXERCISE.replace("# Mind", "x = 1  # Mind"), "may hold comments only"),
        ("01_toy", EXERCISE.replace("# forward:", "# delta:"), None),
    ],
)
def test_a_bad_source_is_told_what_is_wrong(course, name, text, words):
    course.write(name, text)
    path = course.sources / f"{name}.py"
    if words is None:
        read(path)
        return
    with pytest.raises(LessonError) as caught:
        read(path)
    assert words in str(caught.value) and path.name in str(caught.value)


@pytest.mark.parametrize("field", ["title", "question", "minutes"])
def test_a_header_needs_its_fields(course, field):
    lines = [line for line in HEADER.splitlines() if f"{field}:" not in line]
    course.write("01_toy", "# %%\n1", header="\n".join([*lines, ""]))
    with pytest.raises(LessonError, match=f"the header misses {field}"):
        course.lessons()


def test_the_command_says_what_it_does_not_know(capsys):
    assert build.main(["check", "--only", "zz"]) == 2
    assert "no lesson begins with 'zz'" in capsys.readouterr().err


def test_equations_are_drawn_and_dollars_in_code_are_not(course, runs):
    course.write(
        "01_toy",
        r"""
        # %% [markdown]
        # Inline $a_1 * b_1 * c$ and `$HOME$`, it costs $5 or $6. The ids are $V, V + 1,
        # V + 2$ and not $7.
        #
        # A new paragraph ends with $8.
        #
        # $$ h = W_0 x + \frac{\alpha}{r} B A x $$
        #
        # ```
        # $not_math$
        # ```
        """,
    )
    course_run(course)
    page = (course.output / "01_toy.html").read_text()
    body = page[page.index("<main>") :]
    assert body.count("<math") == 4  # the question's, the inline one, one over two lines, the block
    assert 'display="block"' in body and "<mfrac>" in body
    assert "$HOME$" in body and "$5 or $6" in body and "$not_math$" in body
    assert "and not $7" in body and "ends with $8" in body
    assert "EQUATION" not in body
    assert body.count("<em>") == 1  # the builder's own; the stars of an equation are no emphasis


def test_ctrl_c_in_the_command_ends_in_one_sentence(monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(build.Builder, "course", interrupted)
    monkeypatch.setattr(build.Builder, "lessons", lambda self, only: [])
    assert build.main(["course"]) == 130
    assert "the lessons that finished are kept" in capsys.readouterr().err


def test_progress_bars_of_other_packages_print_no_warning_into_a_notebook():
    """tqdm.auto, which transformers takes, warns in a notebook that has no widgets."""
    source = """
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            from tqdm.auto import tqdm
        tqdm.__module__
        """
    cell = nbformat.v4.new_code_cell(textwrap.dedent(source))
    run.execute(nbformat.v4.new_notebook(cells=[cell]), threads=1)
    assert cell.outputs[0].data["text/plain"] == "'tqdm.auto'"
