"""The contest's table of runs: made in pieces, nothing twice."""

from __future__ import annotations

import sys

from minipeft.course import which_method as lesson


def test_the_contest_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    from benchmarks import contest

    made = []

    def measure(situation, arm, rate, seed):
        made.append((situation, arm, rate, seed))
        dev = abs(rate - 1e-2)  # inside of the grid
        job = (situation.task, situation.examples, arm, rate, seed)
        return lesson.One(*job, 1, 1, dev, 0.5, 0.5, 0.5)

    monkeypatch.setattr(contest, "PATH", tmp_path / "results" / "contest.csv")
    monkeypatch.setattr(lesson, "measure", measure)

    def call(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["contest", *arguments])
        contest.main()
        return capsys.readouterr().out

    assert "0 runs; call again" in call("--minutes", "0")
    assert "1000 examples done" in call("--only", "0")
    first = len(made)
    assert first == len(lesson.ARMS) * (len(lesson.RATES) + 2)
    assert "settings done" in call()
    assert len(made) == len(set(made)) > first
    call()
    assert len(lesson.Runs.read(contest.PATH).every) == len(made)
    call("--seeds", "4", "--only", "1")
    assert lesson.Runs.read(contest.PATH).seeds(lesson.LATENT) == [0, 1, 2, 3]
