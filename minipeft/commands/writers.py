"""Tables as .jsonl, .csv or .tsv files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tiny_transformer.files import write_text


def _jsonl(header, rows) -> str:
    lines = (json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) for row in rows)
    return "\n".join(lines)


def _csv(header, rows) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def _tsv(header, rows) -> str:
    lines = ([" ".join(cell.split()) for cell in row] for row in [header, *rows])
    return "\n".join("\t".join(line) for line in lines)


# The headers of files with what a model said: predict's, evaluate's and generate's
PREDICTED = ("input", "prediction")
COMPARED = ("input", "target", "prediction")
WRITTEN = ("input", "adapter", "output")
HEADERS = (PREDICTED, COMPARED, WRITTEN)
LONGEST = 10_000_000  # characters of a first line that is looked at
EVERY = 2.0  # seconds between two writings of the answers so far
SHARE = 20  # and at least so many times as long as the last one took
WRITERS = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _tsv}


def check_file(path: str | None, flag: str, *read: str | None) -> None:
    """Can `write_rows` write this file, once the answers are there?

    read: files that are read, and must not be written over.

    Raises:
        ValueError: it cannot; the sentence names the flag.
    """
    if not path:
        return
    if Path(path).suffix.lower() not in WRITERS:
        raise ValueError(f"{flag} must end in {', '.join(WRITERS)}.")
    place = Path(os.path.abspath(path))
    if place.exists() and any(os.path.exists(r) and place.samefile(r) for r in read if r):
        raise ValueError(f"{flag} {path} is the file that is read, too: name another one.")
    if place.is_file() and place.stat().st_size and not holds_answers(place):
        raise ValueError(
            f"{flag} {path} is there already and holds no answers, so that it is not written over: "
            "name another file."
        )
    above = next(folder for folder in place.parents if os.path.lexists(folder))
    if place.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{flag} {path} cannot be written: name another place.")


def holds_answers(path: Path) -> bool:
    """Does a file begin as `write_rows` begins one of these headers?"""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline(LONGEST).strip()
    if path.suffix.lower() != ".jsonl":
        return any(first == sign.join(header) for header in HEADERS for sign in ",\t")
    try:
        return tuple(json.loads(first)) in HEADERS
    except (ValueError, TypeError, RecursionError):
        return False


def write_rows(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """One line per row, in the form that the path's ending names; header: one of HEADERS."""
    write_text(Path(path), WRITERS[Path(path).suffix.lower()](header, list(rows)))


class Answers(dict[int, str]):
    """Number of a row -> its answer. What is there is written beside the file every few seconds, so
    that a process that is killed loses little.

    columns: what stands before the answer in every row.
    """

    def __init__(self, path: str | None, header: Sequence[str], columns: Sequence) -> None:
        super().__init__()
        self.path, self.header, self.columns = path, header, columns
        self.part, self.due = None, time.monotonic() + EVERY
        if path:
            self.part = self.free_name(Path(path))

    def free_name(self, path: Path) -> Path:
        """FILE.part, or FILE.part-2, ..: answers of a run that was stopped stay."""
        for number in itertools.count(1):
            name = f".part-{number}" if number > 1 else ".part"
            part = path.with_suffix(f"{name}{path.suffix}")
            if not os.path.lexists(part):
                return part
            print(f"note: {part} is there already and stays as it is", file=sys.stderr)

    def update(self, answers: Iterable[tuple[int, str]]) -> None:
        super().update(answers)
        started = time.monotonic()
        if self.part and started >= self.due:
            self.write_part()
            now = time.monotonic()
            self.due = now + max(EVERY, SHARE * (now - started))

    def rows(self) -> list[tuple[str, ...]]:
        return [(*(column[i] for column in self.columns), self[i]) for i in sorted(self)]

    def write_part(self) -> bool:
        """Did it work? Where not, answering goes on, since there may be room at its end."""
        try:
            write_rows(self.part, self.header, self.rows())
        except OSError as error:
            print(f"note: {error}", file=sys.stderr)
            return False
        return True


@contextmanager
def keeping(path: str | None, header: Sequence[str], *columns: Sequence[str]) -> Iterator[Answers]:
    """Gives a dict for answers, number of a row -> answer, and writes all of them to `path`. Where
    answering is stopped or fails, those that are there stay beside it, and it is said.
    """
    known = Answers(path, header, columns)
    try:
        yield known
        if path:
            write_rows(path, header, known.rows())
    except BaseException:
        if path and known and known.write_part():
            print(f"note: the {len(known):,} answers so far are in {known.part}", file=sys.stderr)
        raise
    if path:
        known.part.unlink(missing_ok=True)
