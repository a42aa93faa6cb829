"""Answers of predict, evaluate and generate while they come, and after a process was killed."""

import signal
import subprocess
import sys
from pathlib import Path

from minipeft.commands import evaluate, writers

KILLED = """
import os, signal, sys
from minipeft.__main__ import main
from minipeft.commands import generate, writers
from minipeft.tasks.encoding import Encoding
writers.EVERY, writers.SHARE, calls = 0, 0, []
where, name = (generate, "write_batch") if sys.argv[1] == "generate" else (Encoding, "answers")
answer = getattr(where, name)

def killed(*args):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(*args)

setattr(where, name, killed)
main(sys.argv[1:])
"""


def test_a_killed_process_leaves_its_answers_and_no_other_writes_over_them(cli, run, pairs):
    data = ("--data", pairs, "--batch-size", 16)
    for words in (
        ("predict", run, *data, "--out"),
        ("evaluate", run, *data, "--predictions"),
        ("generate", run, *data, "--tokens", 2, "--out"),
    ):
        assert cli(*words, "whole.jsonl").code == 0
        whole = Path("whole.jsonl").read_text().splitlines()
        places = [Path(f"{words[0]}{part}.jsonl") for part in ("", ".part", ".part-2", ".part-3")]
        for part in places[1:3]:
            before = {place: place.read_text() for place in places if place.exists()}
            line = [sys.executable, "-c", KILLED, *map(str, words), str(places[0])]
            done = subprocess.run(line, capture_output=True, text=True)
            assert done.returncode == -signal.SIGKILL, done.stderr
            kept = part.read_text().splitlines()
            assert len(kept) == 32 and set(kept) <= set(whole)
            assert all(place.read_text() == text for place, text in before.items())
        done = cli(*words, places[0])
        assert done.code == 0 and f"{places[2]} is there already and stays as it is" in done.err
        assert [place.exists() for place in places] == [True, True, True, False]
        assert places[0].read_text().splitlines() == whole


def test_answers_survive_what_happens_behind_the_last_one(cli, run, pairs, monkeypatch):
    """Scores that cannot be counted; a full disk that has room again at the end."""
    words = ("evaluate", run, "--data", pairs, "--batch-size", 16, "--predictions")
    assert cli(*words, "whole.csv").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(evaluate.scoring, "scores", lambda *_: 1 / 0)
        assert cli(*words, "unscored.csv").code == 2
    assert Path("unscored.csv").read_text() == Path("whole.csv").read_text()

    def full(path, *rows, write=writers.write_rows):
        if ".part" in str(path):
            raise OSError(f"{path} could not be written (No space left on device).")
        write(path, *rows)

    monkeypatch.setattr(writers, "EVERY", 0.0)
    monkeypatch.setattr(writers, "write_rows", full)
    done = cli(*words, "full.csv")
    assert done.code == 0 and "No space left" in done.err
    assert Path("full.csv").read_text() == Path("whole.csv").read_text()
