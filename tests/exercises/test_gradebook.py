"""`python -m minipeft check FOLDER --csv FILE`: a class, resumable, only what changed."""

import csv
import json

import pytest
from submitted import HELPER, IMPORTS, SOLUTION, STUB, WHOLE, WRONG, small_course

from minipeft.__main__ import main
from minipeft.checks import gradebook, lessons, submission


@pytest.fixture
def classroom(tmp_path, monkeypatch):
    """A folder of submissions, and the verdicts that were really made."""
    folder = tmp_path / "submissions"
    folder.mkdir()
    judged = []

    def judge(exercise, seconds, megabytes):
        judged.append(exercise)
        if classroom.broken:
            raise KeyboardInterrupt
        results = {STUB: "unfinished", WRONG: "failed", None: "missing"}
        result = results.get(exercise.source, "passed")
        sentence = "" if result == "passed" else f'=1+1, "{result}"'
        return submission.Verdict(result, sentence, 1.0)

    monkeypatch.setattr(gradebook, "judge", judge)
    course = small_course(tmp_path / "course")
    monkeypatch.setattr(lessons, "folder", lambda: course)

    class Classroom:
        broken = False
        csv = tmp_path / "grades.csv"

        def write(self, name, *cells, lesson="10_lora"):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            code = [{"cell_type": "code", "source": s, "metadata": {}} for s in cells]
            facts = {"minipeft": {"lesson": lesson}}
            path.write_text(json.dumps({"cells": code, "metadata": facts}))

        def grade(self, *arguments):
            judged.clear()
            return main(["check", str(folder), "--csv", str(self.csv), *arguments])

        @property
        def rows(self):
            with open(self.csv, newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))

    classroom = Classroom()
    classroom.judged, classroom.folder = judged, folder
    return classroom


def test_a_row_per_student_and_exercise(classroom, capsys):
    classroom.write("smith/10_lora.ipynb", WHOLE)
    classroom.write("jones_10_lora.ipynb", IMPORTS, HELPER, WRONG)
    classroom.write("lee/03.ipynb", "x = 1", lesson="03_transfer")
    classroom.write("lee/.ipynb_checkpoints/03.ipynb", "x = 1")
    (classroom.folder / "bad.ipynb").write_text("{")
    assert classroom.grade() == 1
    rows = {(r["student"], r["exercise"]): r for r in classroom.rows}
    assert set(rows) == {
        ("smith", "10.1"), ("jones", "10.1"), ("lee", "3.1"), ("lee", "3.2"), ("lee", "3.3"),
        ("bad", ""),
    }  # fmt: skip
    smith, jones = rows["smith", "10.1"], rows["jones", "10.1"]
    assert (smith["result"], smith["points"], smith["of"]) == ("passed", "2", "2")
    assert (jones["result"], jones["points"]) == ("failed", "0")
    assert jones["sentence"] == '\'=1+1, "failed"'  # no formula
    assert rows["lee", "3.1"]["result"] == "missing"
    assert rows["bad", ""]["result"] == "unreadable" and "is not a notebook" in str(rows["bad", ""])
    out = capsys.readouterr().out
    assert "smith" in out and "1/1" in out and "2/2" in out and "5 judged" in out


def test_a_second_run_judges_only_what_changed(classroom, capsys):
    classroom.write("a_10_lora.ipynb", IMPORTS, HELPER, SOLUTION)
    classroom.write("b_10_lora.ipynb", IMPORTS, HELPER, SOLUTION)
    assert classroom.grade() == 0 and len(classroom.judged) == 2
    before = classroom.rows
    assert classroom.grade() == 0 and not classroom.judged
    assert classroom.rows == before
    assert "0 judged, 2 known from before" in capsys.readouterr().out
    # A plot, a note and an import that the exercise does not use change nothing.
    classroom.write("a_10_lora.ipynb", "import json", IMPORTS, HELPER, "print('plot')", SOLUTION)
    assert classroom.grade() == 0 and not classroom.judged
    classroom.write("a_10_lora.ipynb", IMPORTS, HELPER.replace("patch.scale *", ""), SOLUTION)
    assert classroom.grade() == 0 and len(classroom.judged) == 1  # a helper that it uses
    classroom.write("c_10_lora.ipynb", STUB)
    assert classroom.grade() == 1 and len(classroom.judged) == 1
    assert classroom.grade("--seconds", "9") == 1 and len(classroom.judged) == 3  # other limits
    (classroom.folder / "c_10_lora.ipynb").unlink()
    assert classroom.grade("--seconds", "9") == 0 and len(classroom.rows) == 2


def test_an_interrupted_run_goes_on(classroom, capsys):
    classroom.write("a_10_lora.ipynb", WHOLE)
    assert classroom.grade() == 0
    classroom.write("b_10_lora.ipynb", STUB)
    classroom.broken = True
    assert classroom.grade() == 130
    assert [row["student"] for row in classroom.rows] == ["a"]
    classroom.broken = False
    assert classroom.grade() == 1 and [e.source for e in classroom.judged] == [STUB]
    assert [row["student"] for row in classroom.rows] == ["a", "b"]
    assert not list(classroom.csv.parent.glob(".*"))


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\x89PNG\r\n\x00", b""])
def test_another_file_is_not_written_over(classroom, capsys, content):
    classroom.write("a_10_lora.ipynb", WHOLE)
    classroom.csv.write_bytes(content)
    assert classroom.grade() == 2
    assert "holds something else than grades" in capsys.readouterr().err
    assert classroom.csv.read_bytes() == content


def test_what_cannot_be_is_said(classroom, capsys, tmp_path):
    assert classroom.grade() == 2
    assert "There is no notebook in" in capsys.readouterr().err
    classroom.write("a_10_lora.ipynb", WHOLE)
    assert main(["check", str(classroom.folder / "a_10_lora.ipynb"), "--csv", "x.csv"]) == 2
    assert "--csv is for a folder" in capsys.readouterr().err
    assert classroom.grade("--workers", "0") == 2
    assert "--workers 0 must be greater" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_class_side_by_side(classroom, monkeypatch, capsys):
    monkeypatch.setattr(gradebook, "judge", submission.judge)
    classroom.write("a/10_lora.ipynb", WHOLE)
    classroom.write("b/10_lora.ipynb", WRONG)
    number = "rank, width = 8, 80\nlora_parameters = {}"
    classroom.write("c/20.ipynb", number.format("8 * rank * 2 * width"), lesson="20_numbers")
    classroom.write("d/20.ipynb", number.format("rank * 2 * width"), lesson="20_numbers")
    classroom.write("e/20.ipynb", number.format("..."), lesson="20_numbers")
    classroom.csv = "-"
    assert main(["check", str(classroom.folder), "--csv", "-", "--workers", "2"]) == 1
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    results = ["passed", "failed", "passed", "failed", "unfinished"]
    assert [row["result"] for row in rows] == results
    assert "transposed" in rows[1]["sentence"] and "one map of one layer" in rows[3]["sentence"]
