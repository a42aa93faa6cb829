"""A short soak of every part; `make soak` runs the long one."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from soak.ledger import Clock, Line, table, unclear

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"bad_settings": 120, "bad_adapters": 100, "bad_tables": 100, "cycles": 30, "orders": 10}


@pytest.mark.parametrize("part", SHORT)
def test_a_short_soak(part):
    lines = importlib.import_module(f"soak.{part}").soak(SHORT[part], Clock(10))
    assert sum(line.tried for line in lines) > 5
    assert not [f"{line.what}: {failure}" for line in lines for failure in line.failures]


@pytest.mark.slow
def test_kills_and_determinism_from_the_command_line():
    """In a process of its own: it forks, which a process with threads should not."""
    command = [sys.executable, "-m", "soak", "--only", "kills", "determinism", "--count", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed: train" in done.stdout and "0 failures" in done.stdout


def test_what_counts_as_a_failure():
    line = Line("trials")
    line.attempt(1, lambda: None)
    line.attempt(2, lambda: [][0])
    line.attempt(3, lambda: int("x"))
    assert (line.worked, line.refused, len(line.failures)) == (1, 0, 2)
    assert "2" in table([line]) and unclear(KeyError("x"))
