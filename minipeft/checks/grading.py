"""What the cells of graders call: the check of an exercise, in silence and of one's own work.

    from minipeft.checks import lora
    from minipeft.checks.grading import grade

    grade(lora, LoRAPatch)

nbgrader takes all points away when a graded cell writes anything to stderr, so nothing that the
check or the learner's code writes there arrives.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator


def grade(check: Callable, candidate: object) -> None:
    """Run the check of an exercise.

    Raises:
        CheckFailed, NotFinished: as the check does; also when the candidate is the package's.
        ValueError: `check` judges no exercise of this version of minipeft.
    """
    from minipeft.checks import EXERCISES, CheckFailed
    from minipeft.checks.guard import part_of_package
    from minipeft.checks.lessons import lessons

    reference = next((r for r, judge in EXERCISES.items() if judge is check), None)
    if reference is None:
        raise ValueError("The check judges no exercise of this version of minipeft: update it.")
    exercises = [e for lesson in lessons().values() for e in lesson.exercises]
    blanked = next((e.blanked for e in exercises if e.reference == reference), ())
    module, _, name = reference.partition(":")
    with silent():
        check(candidate)
    part = part_of_package(candidate, getattr(importlib.import_module(module), name), set(blanked))
    if part:
        raise CheckFailed(f"{name}{part} is the package's: write it in the notebook instead")


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing reaches stderr: no warning, no progress bar, not what libraries write in C."""
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        try:
            kept = os.dup(2)
        except OSError:  # it is closed already
            kept = None
        if kept is not None:
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            os.dup2(nothing.fileno(), 2)
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
