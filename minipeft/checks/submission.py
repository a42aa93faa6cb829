"""Check a submitted notebook: each exercise in a process of its own, with limits.

The sandbox keeps an honest learner's mistake from harming the checker: a loop that never ends, a
tensor that fills the memory, a file that fills the disk, a print that never stops. It is not a
jail. It does not stop code that wants to do harm: that code can read the files this user can read,
use the network, start processes that end with it, and lie about its own result: it shares a process
with its check, so it can search it for what the check knows, put back what it replaced, or call the
package's solution in a roundabout way. Run strangers' notebooks in a container or a virtual
machine. A container without network that sees nothing but the notebooks and is thrown away:

  docker run --rm --network none --memory 4g --pids-limit 200 --read-only --tmpfs /tmp \\
      -v "$PWD/submissions:/in:ro" IMAGE python -m minipeft check /in --csv - > grades.csv
  bwrap --ro-bind / / --tmpfs /tmp --tmpfs /home --dev /dev --proc /proc --unshare-all \\
      --die-with-parent --ro-bind "$PWD/submissions" /tmp/in python -m minipeft check /tmp/in

IMAGE is any image with Python and `pip install minipeft`. Without a network a notebook can tell
nobody what it saw; that it tells the truth about itself no container ensures: look at what passes.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from minipeft.checks.cells import candidates, read_cells
from minipeft.checks.lessons import lesson_of
from minipeft.checks.sandbox import clean

SECONDS = 60.0
MEGABYTES = 2048
OUTPUT_BYTES = 10_000_000  # what one exercise may write into one file
LARGEST = 100_000_000  # bytes of a notebook's file
KEPT = 65_536  # bytes of what the sandbox says; the verdict is its last line
GRACE = 20.0  # seconds after which a sandbox that its warden did not end is ended here
LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Submitted:
    """One exercise of a notebook: "10.1", "minipeft.methods.lora:LoRAPatch", its cell's text.

    source is None when no cell of the notebook defines it. uses maps the names of the lesson's
    other exercises to where the package has them: an exercise is judged on its own. cells and
    marks are all code cells of the notebook and the exercise that each claims to be (none: source
    is all there is); blanked are the functions that the learner writes; points is what it is worth.
    """

    number: str
    reference: str
    source: str | None
    uses: dict[str, str]
    cells: tuple[str, ...] = ()
    marks: tuple[str | None, ...] = ()
    blanked: tuple[str, ...] = ()
    points: int = 1
    given: str | None = None

    @property
    def name(self) -> str:
        return self.reference.partition(":")[2]


@dataclass(frozen=True)
class Verdict:
    """result: "passed", "failed", "unfinished" or "missing"; sentence: what to tell the learner."""

    result: str
    sentence: str
    seconds: float


def read(path: str | Path) -> list[Submitted]:
    """The exercises of a notebook's lesson, in order, and the cells that count for them.

    Raises FileNotFoundError or ValueError with one sentence when there is nothing to check.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: give the notebook you worked in.")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST // 10**6} MB: clear its outputs first.")
    try:
        notebook = json.loads(path.read_bytes())
        cells = read_cells(notebook)
        lesson = lesson_of(notebook, cells, path)
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{path} is not a notebook: it is not JSON text.") from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is not a notebook of this course: its form is wrong.") from None
    if lesson is None:
        raise ValueError(
            f"{path} holds no exercises of this course: give a notebook made from "
            "notebooks/exercises/, saved by Jupyter."
        )
    exercises = []
    for exercise in lesson.exercises:
        best = candidates(
            cells, exercise.name, set(exercise.blanked), exercise.reference, exercise.given
        )
        source = cells[best[0][0]].source if best else None
        # A number that a later exercise uses is the learner's own; functions are the package's.
        others = [e for e in lesson.exercises if e is not exercise and not e.is_number]
        uses = {e.name: e.reference for e in others}
        whole = tuple(c.source for c in cells), tuple(c.exercise for c in cells)
        exercises.append(
            Submitted(
                *(exercise.number, exercise.reference, source, uses, *whole),
                *(exercise.blanked, exercise.points, exercise.given),
            )
        )
    return exercises


def judge(exercise: Submitted, seconds: float = SECONDS, megabytes: int = MEGABYTES) -> Verdict:
    """Run one exercise and its check in a subprocess, at most so long and with so much memory."""
    began = time.perf_counter()
    if exercise.source is None:
        return Verdict("missing", "no cell of the notebook defines it", 0.0)
    token = secrets.token_hex(16)
    order = {
        "token": token,
        "reference": exercise.reference,
        "source": exercise.source,
        "uses": exercise.uses,
        "cells": exercise.cells,
        "marks": exercise.marks,
        "blanked": exercise.blanked,
        "given": exercise.given,
        "megabytes": megabytes,
        "seconds": seconds,
        "output_bytes": OUTPUT_BYTES,
    }
    with tempfile.TemporaryDirectory(prefix="check-", ignore_cleanup_errors=True) as folder:
        said, ended = _run(json.dumps(order).encode(), folder, seconds, megabytes)
    took = time.perf_counter() - began
    for line in reversed(said.split(b"\n")):
        try:
            answer = json.loads(line)
            if answer["token"] == token:
                return Verdict(str(answer["result"]), clean(answer["sentence"]), took)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return Verdict("failed", _death(ended, seconds, megabytes), took)


def limits_missing() -> str:
    """Which limits this system cannot set, as a sentence; "" where it can set all of them."""
    if LINUX:
        return ""
    if sys.platform == "win32":
        missing = "memory, processor time and the size of files"
    else:
        missing = "memory"
    return (
        f"This system cannot limit {missing}, nor end a process that leaves its group; "
        "only the time of each exercise is limited in any case."
    )


def table(exercises: list[Submitted], verdicts: list[Verdict], colour: bool = False) -> str:
    """One line per exercise, and a closing one."""
    paint = {"passed": "\x1b[32m", "failed": "\x1b[31m"} if colour else {}
    width = max(len(e.name) for e in exercises)
    lines = [f"{'exercise':<10}{'object':<{width + 2}}{'result':<12}{'seconds':>7}"]
    for exercise, verdict in zip(exercises, verdicts, strict=True):
        start, stop = (paint.get(verdict.result, "\x1b[33m"), "\x1b[0m") if colour else ("", "")
        lines.append(
            f"{exercise.number:<10}{exercise.name:<{width + 2}}"
            f"{start}{verdict.result:<12}{stop}{verdict.seconds:>7.1f}"
            + (f"  {verdict.sentence}" if verdict.result != "passed" else "")
        )
    passed = sum(v.result == "passed" for v in verdicts)
    lines.append(f"{passed} of {len(verdicts)} passed")
    return "\n".join(lines)


def _run(order: bytes, folder: str, seconds: float, megabytes: int) -> tuple[bytes, str]:
    """Run the sandbox in `folder`: (the end of what it said, how it ended: "time", "code 0" ..)."""
    folder_of_checks = Path(__file__).parent
    command = [sys.executable, "-I", str(folder_of_checks / "sandbox.py")]
    reader = writer = None
    if LINUX:
        reader, writer = os.pipe()
        warden = [sys.executable, "-I", "-S", str(folder_of_checks / "warden.py")]
        command = [*warden, str(writer), str(seconds), str(megabytes), *command]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=_environment(folder),
        pass_fds=[writer] if LINUX else [],
        start_new_session=not sys.platform.startswith("win"),  # it is ended with what it started
    )
    said: list[bytes] = [b""]

    def listen() -> None:
        """Read while it writes, so that it never waits; keep the end."""
        with process.stdout:
            while block := process.stdout.read1(65_536):
                said[0] = (said[0] + block)[-KEPT:]

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    ended = ""
    try:
        try:
            with process.stdin:
                process.stdin.write(order)
        except OSError:  # it ended before it had read its order
            pass
        process.wait(seconds + GRACE if LINUX else seconds)
    except subprocess.TimeoutExpired:
        ended = "time"
    finally:
        _end(process)
        listener.join(2)
        if LINUX:
            os.close(writer)
            with open(reader, "rb") as report:
                ended = report.read(100).decode() or ended
    if not ended:
        code = process.returncode
        ended = f"code {code}" if code >= 0 else f"signal {-code}"
    return said[0], ended


def _environment(folder: str) -> dict[str, str]:
    """Nothing of this process's environment but what a program needs to start."""
    kept = {k: os.environ[k] for k in ("LD_LIBRARY_PATH", "SYSTEMROOT") if k in os.environ}
    path = os.environ.get("PATH", "") if sys.platform == "win32" else "/usr/bin:/bin"
    return kept | {
        "PATH": path,
        "HOME": folder,
        "USERPROFILE": folder,
        "TMPDIR": folder,
        "TEMP": folder,
        "TMP": folder,
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _end(process: subprocess.Popen) -> None:
    """End the process and its group; on Linux its warden has ended the rest."""
    if sys.platform == "win32":
        process.kill()
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended already
            pass
    process.wait()


def _death(ended: str, seconds: float, megabytes: int) -> str:
    """What to say of a sandbox that ended without a verdict."""
    how, _, number = ended.partition(" ")
    known = {s.value: s.name for s in signal.Signals}
    name = known.get(int(number), "") if how == "signal" else ""
    if how == "time":
        return f"stopped after {seconds:g} s: does a loop never end?"
    if how == "memory":
        return f"needed more than {megabytes} MB of memory"
    if name == "SIGXFSZ":
        return f"stopped: it wrote more than {OUTPUT_BYTES // 1_000_000} MB"
    if name == "SIGXCPU":
        return "stopped: it used up its time"
    if how == "signal":
        return f"its process was killed (signal {number}); more than {megabytes} MB of memory?"
    return (
        f"its process ended early with exit code {number}: does the cell call exit(), or close "
        "what it has not opened?"
    )
