"""The two ways to be rejected: a mistake, and work that is not finished."""

from __future__ import annotations

import traceback

from torch import Tensor

GREEN, RED, YELLOW, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


AS_GIVEN = "{} is as it was given: something in it is wrong, find it and mend it"


class CheckFailed(AssertionError):
    """The learner's object does not do what the exercise asks.

    The message is one sentence that names the mistake. `case` shows the smallest case that fails:
    what came in, what is wanted, what was given. `failed` is the trial and the case where it showed
    first, if one call was enough to show it.
    """

    mark = f"{RED}✗"
    failed = None

    def __init__(self, sentence: str, case: str = "") -> None:
        super().__init__(sentence)
        self.case = case
        if case:
            self.add_note(case)  # a plain Python traceback prints it too

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows instead of a traceback: the sentence, where it happened, the case."""
        lines = [f"{self.mark} {self}{PLAIN}"]
        if self.__cause__ is not None:
            last = traceback.extract_tb(self.__cause__.__traceback__)[-1]
            if last.line:
                lines.append(f"  in {last.name}: {last.line}")
        return lines + self.case.splitlines()


class NotFinished(CheckFailed):
    """The exercise still raises the stub's own NotImplementedError, or is as it was given."""

    mark = f"{YELLOW}…"


def expect(condition: bool | Tensor, sentence: str) -> None:
    """Raise CheckFailed with `sentence` unless the condition holds."""
    if not condition:
        raise CheckFailed(sentence)


def is_stub(error: BaseException) -> bool:
    """Is this the exception that the blanked body of an exercise raises?"""
    return isinstance(error, NotImplementedError) and str(error).endswith("is yours to write")
