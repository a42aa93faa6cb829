"""Check a submitted notebook: each exercise in a process of its own, with limits.

The sandbox keeps an honest learner's mistake from harming the checker: a loop that never ends, a
tensor that fills the memory, a file that fills the disk, a print that never stops. It is not a
jail. It does not stop code that wants to do harm: that code can read the files this user can read,
use the network, start processes, and lie about its own result. Run strangers' notebooks in a
container or a virtual machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60.0
MEGABYTES = 2048
OUTPUT_BYTES = 10_000_000  # what one exercise may print or write


@dataclass(frozen=True)
class Submitted:
    """One exercise of a notebook: "10.1", "minipeft.methods.lora:LoRAPatch", its cell's text.

    source is None when the cell is not in the notebook any more. uses maps the names that the cell
    takes from earlier exercises to where the package has them: an exercise is judged on its own.
    """

    number: str
    reference: str
    source: str | None
    uses: dict[str, str]

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
    """The exercises of a notebook, in order.

    Raises FileNotFoundError or ValueError with one sentence when there is nothing to check.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: give the notebook you worked in.")
    try:
        notebook = json.loads(path.read_bytes())
        cells = notebook["cells"]
        sources = [_source(cell) for cell in cells]
        metadata = [cell.get("metadata", {}).get("minipeft", {}) for cell in cells]
        listed = notebook.get("metadata", {}).get("minipeft", {}).get("exercises")
        if not listed:
            raise ValueError(
                f"{path} holds no exercises of this course: give a notebook made from "
                "notebooks/exercises/, saved by Jupyter."
            )
        where = {entry["exercise"].partition(":")[2]: entry["exercise"] for entry in listed}
        found = []
        for entry in listed:
            # The last cell that claims the exercise counts; a lost mark is made up for by the name.
            marked = [
                s
                for s, m in zip(sources, metadata, strict=True)
                if s is not None and m.get("exercise") == entry["exercise"]
            ]
            name = entry["exercise"].partition(":")[2]
            named = [s for s in sources if s and (f"class {name}" in s or f"def {name}(" in s)]
            source = (marked or named or [None])[-1]
            uses = {name: where[name] for name in entry["uses"]}
            found.append(Submitted(entry["number"], entry["exercise"], source, uses))
        return found
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{path} is not a notebook: it is not JSON text.") from None
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a notebook of this course: its form is wrong.") from None


def judge(exercise: Submitted, seconds: float = SECONDS, megabytes: int = MEGABYTES) -> Verdict:
    """Run one exercise and its check in a subprocess, at most so long and with so much memory."""
    began = time.perf_counter()
    if exercise.source is None:
        return Verdict("missing", "its cell is not in the notebook", 0.0)
    order = {
        "reference": exercise.reference,
        "source": exercise.source,
        "uses": exercise.uses,
        "megabytes": megabytes,
        "seconds": seconds,
        "output_bytes": OUTPUT_BYTES,
    }
    with tempfile.TemporaryDirectory(prefix="check-", ignore_cleanup_errors=True) as folder:
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("sandbox.py")), str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=_environment(folder),
            pass_fds=[writer],
            start_new_session=True,  # so that what it starts can be ended with it
        )
        os.close(writer)
        ended = True
        try:
            process.communicate(json.dumps(order).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            ended = False
        finally:
            _end(process)
        os.set_blocking(reader, False)
        with open(reader, "rb") as pipe:
            answer = pipe.read(100_000) or b""
    took = time.perf_counter() - began
    if not ended:
        return Verdict("failed", f"stopped after {seconds:g} s: does a loop never end?", took)
    try:
        answer = json.loads(answer)
        return Verdict(answer["result"], answer["sentence"], took)
    except (ValueError, KeyError, TypeError):
        return Verdict("failed", _death(process.returncode, megabytes), took)


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


def _source(cell: dict) -> str | None:
    if cell["cell_type"] != "code":
        return None
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _environment(folder: str) -> dict[str, str]:
    """Nothing of this process's environment but what a program needs to start."""
    kept = {k: os.environ[k] for k in ("LD_LIBRARY_PATH", "SYSTEMROOT") if k in os.environ}
    return kept | {
        "PATH": "/usr/bin:/bin",
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _end(process: subprocess.Popen) -> None:
    """End the process and everything it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _death(code: int, megabytes: int) -> str:
    if code == -signal.SIGXFSZ:
        return f"stopped: it wrote more than {OUTPUT_BYTES // 1_000_000} MB"
    if code == -signal.SIGXCPU:
        return "stopped: it used up its time"
    if code < 0:
        return f"its process was killed (signal {-code}); more than {megabytes} MB of memory?"
    return f"its process ended early with exit code {code}: does the cell call exit()?"
