"""Tables as .jsonl, .csv or .tsv files."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
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


@contextmanager
def keeping(
    path: str | None, header: Sequence[str], *columns: Sequence[str]
) -> Iterator[dict[int, str]]:
    """Gives a dict for answers, number of a row -> answer. Where answering is stopped or fails,
    those that are there are written beside `path`, behind the row's other columns, and it is said.
    """
    known: dict[int, str] = {}
    try:
        yield known
    except BaseException:
        if path and known:
            part = Path(path).with_suffix(f".part{Path(path).suffix}")
            rows = [(*(column[i] for column in columns), known[i]) for i in sorted(known)]
            write_rows(part, header, rows)
            print(f"note: the {len(known):,} answers so far are in {part}", file=sys.stderr)
        raise
