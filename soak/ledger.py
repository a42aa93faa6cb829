"""What was tried, and how it ended."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

OURS = tuple(f"{Path(__file__).parents[1] / name}/" for name in ("minipeft", "tiny_transformer"))
REFUSALS = (ValueError, TypeError, OSError)  # FileNotFoundError is an OSError


@dataclass
class Line:
    """One line of the table: each trial was refused with a sentence, worked, or is a failure."""

    what: str
    refused: int = 0
    worked: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""

    @property
    def tried(self) -> int:
        return self.refused + self.worked + len(self.failures)

    def fail(self, trial: object, reason: str) -> None:
        self.failures.append(f"{trial}: {reason}")

    def attempt(self, trial: object, action) -> object | None:
        """Count `action()` as worked, as refused with a sentence of ours, or as a failure."""
        try:
            result = action()
        except Exception as error:
            wrong = unclear(error)
            if wrong:
                self.fail(trial, wrong)
            else:
                self.refused += 1
            return None
        self.worked += 1
        return result


def unclear(error: Exception) -> str | None:
    """Why this is no refusal of ours, or None: our code raised it, and it is a sentence or two."""
    frames = traceback.extract_tb(error.__traceback__)
    place, number = (frames[-1].filename, frames[-1].lineno) if frames else ("nowhere", 0)
    text = str(error)
    what = f"{type(error).__name__} {text[:300]!r}, raised in {place}, line {number}"
    if not isinstance(error, REFUSALS):
        return what
    if not place.startswith(OURS):
        return f"not raised by us: {what}"
    if not text.endswith(".") or "\n" in text or not text[0].isprintable() or len(text) > 1000:
        return f"no sentence: {what}"
    return None


class Clock:
    """Says how far a count is to go: all of it, or until the seconds are over."""

    def __init__(self, seconds: float | None = None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    def over(self) -> bool:
        return self.end is not None and time.monotonic() > self.end


def table(lines: list[Line]) -> str:
    """The counts, a line each."""
    header = ("what", "tried", "refused", "worked", "failures", "seconds", "")
    rows = [
        (
            *(line.what, f"{line.tried:,}", f"{line.refused:,}", f"{line.worked:,}"),
            *(str(len(line.failures)), f"{line.seconds:.0f}", line.note),
        )
        for line in lines
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    made = [
        "  ".join(
            cell.ljust(width) if i in (0, 6) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([made[0], "-" * len(made[0]), *made[1:]])
