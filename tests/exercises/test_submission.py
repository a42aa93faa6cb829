"""`python -m minipeft check`: verdicts, limits, and what is said about other files."""

import json
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from minipeft.__main__ import main
from minipeft.checks import sandbox, submission

REFERENCE = "minipeft.methods.lora:LoRAPatch"
RIGHT = "from minipeft.methods.lora import LoRAPatch"


def text_of(path):
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended
        return ""


def exercise(source, reference=REFERENCE, uses=None):
    return submission.Submitted("10.1", reference, textwrap.dedent(source), uses or {})


def judge(source, seconds=60.0, megabytes=2048, **more):
    return submission.judge(exercise(source, **more), seconds, megabytes)


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
    path = write(tmp_path / "a.ipynb", ("import torch", None), (RIGHT, REFERENCE))
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
    verdict = judge(f"""
        import os
        assert "SOME_TOKEN" not in os.environ, "saw the token"
        assert "HOME" in os.environ and os.listdir(".") == [], os.listdir(".")
        assert os.getcwd() != {os.getcwd()!r}
        {RIGHT}
        """)
    assert verdict.result == "passed", verdict.sentence


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
        ("class LoRAPatch(nn.Module): pass", "put its imports into it"),
        ("raise MemoryError", "too much memory"),
    ],
)
def test_a_cell_that_cannot_run_says_why(verdict, source, words):
    result, sentence = verdict(source)
    assert result == "failed" and words in sentence


def test_an_exercise_that_builds_on_an_earlier_one_is_judged_alone(verdict):
    """The name it takes from the earlier exercise is there, in the package's version."""
    uses = {"LoRA": "minipeft.methods.lora:LoRA"}
    assert verdict(RIGHT + "\nLoRA(rank=2)", uses=uses) == ("passed", "")


def test_an_unknown_exercise_is_refused(verdict):
    result, sentence = verdict("f = 1", reference="os:system")
    assert result == "failed" and "not an exercise" in sentence


def test_a_deleted_cell_is_missing(tmp_path, capsys):
    path = write(tmp_path / "a.ipynb", ("1 + 1", None))
    assert main(["check", str(path)]) == 1
    assert "missing" in capsys.readouterr().out


def test_a_cell_that_lost_its_mark_is_found_by_name_and_the_last_copy_counts(tmp_path):
    copies = ("class LoRAPatch: first = 1", None), ("class LoRAPatch: second = 2", None)
    (found,) = submission.read(write(tmp_path / "a.ipynb", *copies))
    assert "second" in found.source


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
