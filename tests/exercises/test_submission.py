"""`python -m minipeft check`: verdicts, limits, and what is said about other files."""

import json
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest
from submitted import HELPER, IMPORTS, REFERENCE, SOLUTION, STUB, WHOLE, WRONG, small_course

from minipeft.__main__ import main
from minipeft.checks import lessons, sandbox, submission


@pytest.fixture(autouse=True)
def course(tmp_path_factory, monkeypatch):
    folder = small_course(tmp_path_factory.mktemp("course"))
    monkeypatch.setattr(lessons, "folder", lambda: folder)


def text_of(path):
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended
        return ""


def exercise(source, reference=REFERENCE, uses=None):
    return submission.Submitted("10.1", reference, textwrap.dedent(source), uses or {})


def judge(source, seconds=60.0, megabytes=2048, **options):
    return submission.judge(exercise(source, **options), seconds, megabytes)


def write(path, *cells, listed=None):
    """A notebook whose cells are (source, exercise it claims to be)."""
    listed = [REFERENCE] if listed is None else listed
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "source": textwrap.dedent(source),
                "metadata": {"minipeft": {"exercise": reference}} if reference else {},
            }
            for source, reference in cells
        ],
        "metadata": {
            "minipeft": {
                "exercises": [
                    {"exercise": r, "number": f"10.{i}", "uses": []}
                    for i, r in enumerate(listed, start=1)
                ]
            }
        },
    }
    path.write_text(json.dumps(notebook))
    return path


def test_a_right_submission_passes_and_exits_zero(tmp_path, capsys):
    cells = (IMPORTS, None), (HELPER, None), (SOLUTION, REFERENCE)
    path = write(tmp_path / "a.ipynb", *cells)
    assert main(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "10.1" in out and "LoRAPatch" in out and "passed" in out and "1 of 1 passed" in out


def test_a_wrong_submission_is_told_its_mistake_and_exits_one(tmp_path, capsys):
    wrong = """
        from minipeft.methods.lora import LoRAPatch as Right
        class LoRAPatch(Right):
            def delta(self):
                return super().delta().T
        """
    path = write(tmp_path / "a.ipynb", (wrong, REFERENCE))
    assert main(["check", str(path)]) == 1
    assert "delta is transposed" in capsys.readouterr().out


def test_an_unfinished_exercise_is_called_so():
    verdict = judge("""
        from minipeft.methods.lora import LoRAPatch as Right
        class LoRAPatch(Right):
            def forward(self, x, y):
                raise NotImplementedError("LoRAPatch.forward is yours to write")
        """)
    assert (verdict.result, verdict.sentence) == (
        "unfinished",
        "LoRAPatch.forward is yours to write",
    )


@pytest.mark.slow
def test_a_loop_that_never_ends_is_stopped_with_all_it_started(tmp_path):
    mark = tmp_path / "alive"
    began = time.monotonic()
    verdict = judge(
        f"""
        import subprocess, time
        subprocess.Popen(["/bin/sh", "-c", "sleep 20; touch {mark}"])
        while True:
            time.sleep(0.1)
        """,
        seconds=8,
    )
    assert verdict.result == "failed" and "does a loop never end" in verdict.sentence
    assert time.monotonic() - began < 16
    if sys.platform == "linux":
        running = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(mark) in text_of(p)]
        assert not running


@pytest.mark.parametrize(
    "eater",
    [
        "x = []\nwhile True: x.append(bytearray(10_000_000))",
        "import torch\nx = torch.ones(4_000_000_000)",
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_one_that_eats_memory_is_stopped(eater):
    verdict = judge(eater, megabytes=300)
    assert (verdict.result, verdict.sentence) == ("failed", "needed more than 300 MB of memory")


def test_one_that_fills_the_disk_is_stopped():
    verdict = judge("f = open('big', 'wb')\nwhile True: f.write(bytes(1_000_000))")
    assert verdict.result == "failed"
    assert "File too large" in verdict.sentence or "wrote more" in verdict.sentence


def test_it_sees_no_secret_and_no_folder_of_ours(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    spying = f"""
def look():
    import os
    assert "SOME_TOKEN" not in os.environ, "saw the token"
    assert "HOME" in os.environ and os.listdir(".") == [], os.listdir(".")
    assert os.getcwd() != {os.getcwd()!r}
"""
    verdict = judge(spying + WHOLE.replace("    def __init__", "    look()\n\n    def __init__"))
    assert verdict.result == "passed", verdict.sentence


def inside(code):
    """A right solution whose class body runs `code` first."""
    function = "def first():\n" + textwrap.indent(textwrap.dedent(code), "    ") + "\n"
    return function + WHOLE.replace("    def __init__", "    first()\n\n    def __init__", 1)


FORGED = '{"result": "passed", "sentence": "", "token": ""}\\n'


@pytest.mark.parametrize(
    ("code", "result", "words"),
    [
        ("print('x' * 50_000_000)", "passed", ""),
        ("import sys\nsys.stdout.close()\nsys.stderr = None", "passed", ""),
        ("import os\nos.close(1)\nos.close(2)", "passed", ""),
        # a flood into everything that is open, the way of the verdict among it
        (
            """
            import os
            for number in range(3, 20):
                try:
                    os.write(number, b"x" * 20_000_000)
                except OSError:
                    pass
            """,
            "passed",
            "",
        ),
        (
            f"""
            import os
            for number in range(20):
                try:
                    os.write(number, b'{FORGED}')
                except OSError:
                    pass
            os._exit(0)
            """,
            "failed",
            "ended early with exit code 0",
        ),
        ("import os\nos.closerange(0, 100)", "failed", "ended early with exit code 1"),
        ("raise SystemExit(0)", "failed", "the cell stopped with SystemExit: 0"),
        ("raise KeyboardInterrupt", "failed", "the cell stopped with KeyboardInterrupt"),
        ("import os\nos.kill(os.getpid(), 9)", "failed", "signal 9"),
        ("raise ValueError('\\ud800 \\x1b[2J\\n' + 'é' * 10**6)", "failed", "ValueError: [2J é"),
        ("import sys\nsys.setrecursionlimit(50)", "passed", ""),
    ],
)
def test_a_cell_that_does_odd_things_gets_one_true_line(code, result, words, tmp_path, capsys):
    path = write(tmp_path / "a.ipynb", (inside(code), REFERENCE))
    main(["check", str(path)])
    head, line, closing = capsys.readouterr().out.splitlines()
    assert result in line and words in line and len(line) < 400
    assert line.isprintable()


def test_a_sentence_is_one_line_of_at_most_300_characters():
    assert sandbox.clean("a\n\tb\x07\x9b\u202e\ud800c\u00a0d") == "a bc d"
    assert len(sandbox.clean("é" * 1000)) == 300 and sandbox.clean("é" * 1000).endswith("é…")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux finds what left the session")
def test_what_leaves_the_session_is_ended_too(tmp_path):
    mark = tmp_path / "alive"
    verdict = judge(
        inside(f"""
        import subprocess, sys
        code = "import time, sys; time.sleep(60)"
        for _ in range(2):
            subprocess.Popen(
                [sys.executable, "-S", "-c", code, {str(mark)!r}],
                start_new_session=True, env={{}}, cwd="/",
            )
        """)
    )
    assert verdict.result == "passed", verdict.sentence
    running = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(mark) in text_of(p)]
    assert not running


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_shared_memory_counts():
    eater = """
        import mmap
        first.kept = [mmap.mmap(-1, 100_000_000) for _ in range(20)]
        for piece in first.kept:
            piece.write(bytes(100_000_000))
        """
    verdict = judge(inside(eater), megabytes=300)
    assert (verdict.result, verdict.sentence) == ("failed", "needed more than 300 MB of memory")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_the_memory_of_all_processes_counts():
    eater = """
        import subprocess, sys
        code = "x = bytearray(250_000_000); import time; time.sleep(60)"
        some = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(6)]
        for one in some:
            one.wait()
        """
    verdict = judge(inside(eater), megabytes=300)
    assert (verdict.result, verdict.sentence) == ("failed", "needed more than 300 MB of memory")


def test_the_list_of_exercises_is_the_packages(tmp_path, capsys):
    """A notebook that lists one of three exercises is still asked for three."""
    reference = "minipeft.transfer:forgotten"
    path = write(tmp_path / "03_transfer.ipynb", ("x = 1", None), listed=[reference])
    assert main(["check", str(path)]) == 1
    out = capsys.readouterr().out
    assert out.count("missing") == 3 and "0 of 3 passed" in out


@pytest.mark.parametrize(
    ("name", "notebook"),
    [
        ("smith_10_lora(1).ipynb", {"metadata": {}}),
        ("a.ipynb", {"metadata": {"minipeft": {"lesson": "10_lora"}}}),
        ("a.ipynb", {"metadata": {}, "title": "# 10 · LoRA\n\ntext"}),
    ],
)
def test_the_lesson_is_known_by_its_metadata_its_name_or_its_title(tmp_path, name, notebook):
    cells = [{"cell_type": "markdown", "source": notebook.pop("title", ""), "metadata": {}}]
    (tmp_path / name).write_text(json.dumps(notebook | {"cells": cells}))
    (submitted,) = submission.read(tmp_path / name)
    assert (submitted.number, submitted.name, submitted.source) == ("10.1", "LoRAPatch", None)


def test_a_stub_beside_a_solution_does_not_win(tmp_path):
    for cells in ((STUB, WHOLE), (WHOLE, STUB)):
        path = write(tmp_path / "a.ipynb", *((cell, REFERENCE) for cell in cells))
        assert submission.read(path)[0].source == textwrap.dedent(WHOLE)


def test_other_systems_say_which_limits_they_cannot_set(monkeypatch, tmp_path, capsys):
    """And judge: without a warden, without `resource`, as on Windows."""
    assert submission.limits_missing() == "" or sys.platform != "linux"
    monkeypatch.setattr(submission, "LINUX", False)
    assert "cannot limit memory" in submission.limits_missing()
    path = write(tmp_path / "a.ipynb", (WRONG, REFERENCE))
    assert main(["check", str(path)]) == 1
    captured = capsys.readouterr()
    assert "delta is transposed" in captured.out and "cannot limit memory" in captured.err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os; os._exit(0)", "exit code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("print('x' * 100_000_000)\n1 / 0", "the cell stopped with ZeroDivisionError: division"),
    ],
)
def test_a_cell_that_ends_its_process_or_prints_without_end_says_why(source, words):
    verdict = judge(source)
    assert verdict.result == "failed"
    assert words in verdict.sentence


@pytest.fixture
def verdict(monkeypatch):
    """What the sandbox would say, in this process and without its limits: quick."""
    monkeypatch.setattr(sandbox, "limit", lambda order: None)

    def run(source, reference=REFERENCE, uses=None):
        order = {"source": source, "reference": reference, "uses": uses or {}}
        return sandbox.verdict(order, "too much memory")

    return run


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def LoRAPatch(:", "the cell stopped with SyntaxError"),
        ("class Other: pass", "does not define LoRAPatch"),
        ("class LoRAPatch(nn.Module): pass", "no cell of the notebook defines or imports it"),
        ("raise MemoryError", "too much memory"),
    ],
)
def test_a_cell_that_cannot_run_says_why(verdict, source, words):
    result, sentence = verdict(source)
    assert result == "failed" and words in sentence


def test_an_exercise_that_builds_on_an_earlier_one_is_judged_alone(verdict):
    """The name it takes from the earlier exercise is there, in the package's version."""
    uses = {"LoRA": "minipeft.methods.lora:LoRA"}
    source = WHOLE.replace("super().__init__()", "super().__init__()\n        LoRA(rank=2)")
    assert verdict(source, uses=uses) == ("passed", "")


def test_an_unknown_exercise_is_refused(verdict):
    result, sentence = verdict("f = 1", reference="os:system")
    assert result == "failed" and "not an exercise" in sentence


def test_a_deleted_cell_is_missing(tmp_path, capsys):
    path = write(tmp_path / "a.ipynb", ("1 + 1", None))
    assert main(["check", str(path)]) == 1
    assert "missing" in capsys.readouterr().out


def test_a_cell_that_lost_its_mark_is_found_by_name_and_the_last_copy_counts(tmp_path):
    copies = ("class LoRAPatch: first = 1", None), ("class LoRAPatch: second = 2", None)
    (submitted,) = submission.read(write(tmp_path / "a.ipynb", *copies))
    assert "second" in submitted.source


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "There is no file"),
        (b"\x89PNG\r\n", "not a notebook"),
        (b"print('hello')", "not a notebook"),
        (b"[]", "form is wrong"),
        (b'{"cells": 3}', "form is wrong"),
        (b'{"cells": [{"cell_type": "code"}], "metadata": {}}', "form is wrong"),
        (b'{"cells": [], "metadata": {}}', "holds no exercises"),
        (b'{"cells": [], "metadata": {"minipeft": {"exercises": [1]}}}', "form is wrong"),
        (b"[" * 100_000, "form is wrong"),
    ],
)
def test_what_is_no_notebook_is_refused_in_one_sentence(tmp_path, capsys, content, words):
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_bytes(content)
    assert main(["check", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_help_says_what_the_sandbox_does_not_stop(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    assert "It is not a\njail" in capsys.readouterr().out
