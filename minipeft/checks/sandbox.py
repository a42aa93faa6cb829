"""The process in which one submitted exercise runs; started by `submission.judge`, not by people.

It reads an order (JSON) from standard input, takes limits upon itself that it cannot lift again,
runs what the exercise needs of its notebook, runs the check, and writes the verdict to what was its
standard output. What the submission prints goes nowhere.
"""

from __future__ import annotations

import importlib
import json
import linecache
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

LONGEST = 300  # characters of a sentence
MAPPED = 256 * 2**20  # bytes that may be mapped beside what is limited: threads, shared libraries


def limit(order: dict) -> None:
    """Memory beyond what is in use now, processor seconds, size of files; no core dump.

    On Linux private memory is limited and so is all that is mapped, which counts shared memory.
    """
    if resource is None:
        return
    wanted = {
        resource.RLIMIT_CPU: int(order["seconds"]) + 1,
        resource.RLIMIT_FSIZE: order["output_bytes"],
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        used = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
        room = order["megabytes"] * 2**20
        wanted[resource.RLIMIT_DATA] = int(used["VmData"]) * 1024 + room
        wanted[resource.RLIMIT_AS] = int(used["VmSize"]) * 1024 + room + MAPPED
    for kind, value in wanted.items():
        resource.setrlimit(kind, (value, value))


def clean(text: object) -> str:
    """Text as one line of at most 300 characters that can be printed, whatever it was."""
    kept = "".join(
        " " if c.isspace() else "" if unicodedata.category(c)[0] == "C" else c
        for c in str(text)[: 20 * LONGEST]
    )
    line = " ".join(kept.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def described(error: BaseException) -> str:
    """`ValueError: its message`, also when its message cannot be had."""
    try:
        message = clean(error)
    except BaseException:
        message = "(its message cannot be shown)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class Runner:
    """Runs statements of a notebook in a module `__main__` and keeps what failed, by name."""

    def __init__(self, cells, given: dict) -> None:
        from minipeft.checks.cells import features

        self.cells, self.flags = cells, features(cells)
        self.module = ModuleType("__main__")
        self.space = self.module.__dict__
        self.space.update(given)
        # What a notebook has and a program has not.
        self.space.update(display=lambda *_, **__: None, get_ipython=lambda: None)
        self.failed: dict[str, BaseException] = {}
        self.done: set = set()
        for index, cell in enumerate(cells):  # for tracebacks, inspect and torch.jit
            text = cell.source if cell.text is None else cell.text
            lines = [line + "\n" for line in text.split("\n")]
            linecache.cache[self.label(index)] = (len(text), None, lines, self.label(index))

    @staticmethod
    def label(index: int) -> str:
        return f"<cell {index + 1}>"

    def run(self, statement) -> BaseException | None:
        """Run it unless it has run; returns what it raised."""
        from minipeft.checks.cells import compiled

        if statement in self.done:
            return None
        try:
            exec(compiled(statement.node, self.label(statement.cell), self.flags), self.space)
        except MemoryError:
            raise
        except BaseException as error:  # also SystemExit: a notebook survives it
            self.failed |= dict.fromkeys(statement.binds, error)
            return error
        self.done.add(statement)
        for name in statement.binds:
            self.failed.pop(name, None)
        return None

    def reason(self, error: BaseException | None) -> str:
        """What to add when `error` is about a name whose statement failed."""
        name = error.name if type(error) is NameError else None
        if name is None:
            return ""
        if name in self.failed:
            return f" (the line that sets {name} stopped with {described(self.failed[name])})"
        return " (no cell of the notebook defines or imports it)"


def verdict(order: dict, memory_error: str) -> tuple[str, str]:
    """Run what the exercise needs, then the check: ("passed" | "failed" | "unfinished", sentence).

    order: reference, source (its cell), uses (names -> references of other exercises); and where
    a whole notebook is known: cells (every code cell), marks (the exercise each claims to be),
    blanked (the functions to write) and given (the cell of an exercise that is to be mended). An
    exercise that this one builds on is taken from the package: each is judged alone.
    """
    from minipeft.checks import EXERCISES, cells, guard

    reference = order["reference"]
    if reference not in EXERCISES:
        return "failed", f"{reference} is not an exercise of this version of minipeft"
    given = {
        used: getattr(importlib.import_module(where.partition(":")[0]), used)
        for used, where in order["uses"].items()
    }
    sources = order.get("cells") or [order["source"]]
    marks = order.get("marks") or [reference]
    notebook = tuple(
        cells.Cell(source, cells.python_of(source), mark)
        for source, mark in zip(sources, marks, strict=True)
    )
    blanked = set(order.get("blanked") or ())
    before = guard.picture()
    limit(order)
    try:
        result = _judged(order, notebook, given, blanked)
    except MemoryError:
        result = "failed", memory_error
    except BaseException as error:  # a submission that breaks what the checker itself needs
        result = "failed", f"the check could not be run: {described(error)}"
    try:
        if changed := guard.replaced(before):
            return "failed", f"the notebook replaces {changed}, which the check relies on"
    except MemoryError:
        return "failed", memory_error
    memory = ("MemoryError", "can't allocate", "Cannot allocate memory")
    if result[0] == "failed" and any(words in result[1] for words in memory):
        return "failed", memory_error
    return result


def _judged(order: dict, notebook: tuple, given: dict, blanked: set[str]) -> tuple[str, str]:
    from minipeft.checks import EXERCISES
    from minipeft.checks.cells import as_given, candidates
    from minipeft.checks.framework import NumberCheck
    from minipeft.checks.framework.errors import AS_GIVEN
    from minipeft.checks.guard import part_of_package

    reference, mend = order["reference"], order.get("given")
    judge, name = EXERCISES[reference], reference.partition(":")[2]
    original = getattr(importlib.import_module(reference.partition(":")[0]), name)
    result = "failed", f"no cell defines {name}"
    for place, statement in candidates(notebook, name, blanked, reference, mend):
        if statement is not None and as_given(statement.node, name, mend):
            return "unfinished", AS_GIVEN.format(name)
        runner = Runner(notebook, given)
        with _as_main(runner.module):
            result = _define(runner, place, statement, name, set(given))
            if result is not None:
                return result
            if not callable(runner.space[name]) and not isinstance(judge, NumberCheck):
                result = "failed", f"{name} is of the type {type(runner.space[name]).__name__}"
                continue
            result = _check(runner, judge, name)
        part = part_of_package(runner.space[name], original, blanked)
        if result[0] == "passed" and part:
            return "failed", f"{name}{part} is the package's: write it in the notebook instead"
        return result
    return result


def _define(runner: Runner, place: int, statement, name: str, given: set[str]):
    """Run what defines `name`; None when it is defined, else a verdict."""
    from minipeft.checks.cells import UNFINISHED, program, statements

    cell = runner.cells[place]
    if cell.text is None:
        try:
            compile(cell.source, runner.label(place), "exec")
            error = None
        except (SyntaxError, ValueError, RecursionError) as raised:
            error = raised
        return "failed", f"the cell stopped with {described(error)}"
    if statement is None:  # it defines something else: say where it stops, if it does
        steps = [s for s in statements(runner.cells) if s.cell == place]
    else:
        steps = program(runner.cells, statement, name, given)
    for step in steps:
        error = runner.run(step)
        if error is not None and (step is statement or statement is None):
            if isinstance(error, NotImplementedError) and described(error).endswith(UNFINISHED):
                return "unfinished", clean(error)
            return "failed", f"the cell stopped with {described(error)}{runner.reason(error)}"
    if name not in runner.space:
        return "failed", f"the cell does not define {name}"
    return None


def _check(runner: Runner, judge, name: str) -> tuple[str, str]:
    from minipeft.checks import CheckFailed, NotFinished

    with _silent():
        try:
            judge(runner.space[name])
            return "passed", ""
        except NotFinished as error:
            return "unfinished", clean(error)
        except CheckFailed as error:
            if isinstance(error.__cause__, MemoryError):
                raise MemoryError from None
            return "failed", f"{clean(error)}{runner.reason(error.__cause__)}"
        except MemoryError:
            raise
        except BaseException as error:  # SystemExit, KeyboardInterrupt: whatever a learner raises
            return "failed", f"{name} stopped with {described(error)}{runner.reason(error)}"


@contextmanager
def _as_main(module: ModuleType) -> Iterator[None]:
    """`module` is `__main__` meanwhile, as a notebook's is: dataclasses and pickles look there."""
    kept = sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        yield
    finally:
        sys.modules["__main__"] = kept


@contextmanager
def _silent() -> Iterator[None]:
    """The check prints into nothing, also when the submission has closed sys.stdout."""
    kept = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8", errors="replace") as nothing:
        sys.stdout = sys.stderr = nothing
        try:
            yield
        finally:
            sys.stdout, sys.stderr = kept


def main() -> None:
    """Read the order, run it, write the verdict."""
    order = json.load(sys.stdin)
    write, leave = os.write, os._exit
    channel = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    sys.stdin = open(os.devnull, encoding="utf-8")
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="replace")
    result, sentence = verdict(order, f"needed more than {order['megabytes']} MB of memory")
    answer = {"token": order["token"], "result": result, "sentence": clean(sentence)}
    write(channel, b"\n" + json.dumps(answer).encode() + b"\n")
    leave(0)  # do not wait for threads that the exercise may have left behind


if __name__ == "__main__":
    main()
