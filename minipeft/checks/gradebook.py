"""A whole class: every notebook of a folder, a row per student and exercise, side by side.

A row is kept as long as nothing that its verdict depends on has changed: the code that the exercise
runs, the package, the limits. So a run that was interrupted goes on where it stopped, and a second
run judges only what changed.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from minipeft.checks.cells import Cell, candidates, program, python_of
from minipeft.checks.lessons import lessons
from minipeft.checks.submission import Submitted, judge, read

FIELDS = (
    "student", "file", "exercise", "object", "result", "points", "of", "seconds", "sentence", "key"
)  # fmt: skip
WRITES = 2.0  # seconds between two writes of the table while it grows
Row = dict[str, str]


def notebooks(folder: Path) -> list[Path]:
    """Every notebook below a folder, in order; not Jupyter's own copies."""
    paths = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not paths:
        raise FileNotFoundError(f"There is no notebook in {folder}: give the folder of a class.")
    return paths


def student_of(path: Path, folder: Path) -> str:
    """FOLDER/STUDENT/../10_lora.ipynb, or the file's name without that of its lesson."""
    inside = path.relative_to(folder)
    if len(inside.parts) > 1:
        return inside.parts[0]
    for slug in lessons():
        if slug in path.stem:
            return path.stem.replace(slug, "").strip(" _-.") or path.stem
    return path.stem


def grade(
    folder: Path,
    known: Iterable[Row],
    seconds: float,
    megabytes: int,
    workers: int,
    report: Callable[[list[Row], int, int], None],
) -> list[Row]:
    """Judge what is not known yet; returns a row per student and exercise, in order.

    known: rows of an earlier run. report(rows, done, all): called after each verdict.
    """
    kept = {(row["file"], row["exercise"], row["key"]): row for row in known}
    version = _version(seconds, megabytes)
    rows: dict[tuple[str, int], Row] = {}
    waiting: list[tuple[tuple[str, int], Submitted]] = []
    for path in notebooks(folder):
        file = path.relative_to(folder).as_posix()
        first = {"student": student_of(path, folder), "file": file}
        try:
            exercises = read(path)
        except (ValueError, OSError) as error:
            rows[file, 0] = _row(first, result="unreadable", sentence=str(error))
            continue
        for index, exercise in enumerate(exercises):
            key = _key(exercise, version)
            row = first | {"exercise": exercise.number, "object": exercise.name, "key": key}
            row = _row(row, points="", of=str(exercise.points))
            rows[file, index] = kept.get((file, exercise.number, key), row)
            if not rows[file, index]["result"]:
                waiting.append(((file, index), exercise))
    every = len(waiting)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        running = {pool.submit(judge, e, seconds, megabytes): (k, e) for k, e in waiting}
        try:
            for done, future in enumerate(as_completed(running), start=1):
                place, exercise = running[future]
                verdict = future.result()
                passed = verdict.result == "passed"
                rows[place] |= {
                    "result": verdict.result,
                    "points": str(exercise.points if passed else 0),
                    "seconds": f"{verdict.seconds:.1f}",
                    "sentence": verdict.sentence,
                }
                report(_judged(rows), done, every)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _judged(rows)


def text_of(rows: Iterable[Row]) -> str:
    """The rows as CSV. What a spreadsheet would read as a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        safe = {k: f"'{v}" if re.match(r"[=+\-@\t]", v) else v for k, v in row.items()}
        writer.writerow({k: v.encode(errors="replace").decode() for k, v in safe.items()})
    return out.getvalue()


def rows_of(path: Path) -> list[Row]:
    """The rows of an earlier run; none when the file is not there yet.

    Raises ValueError when the file is something else: it would be written over.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) == FIELDS:
                rows = [{k: row[k] or "" for k in FIELDS} for row in reader]
                return [{k: re.sub(r"^'(?=[=+\-@\t])", "", v) for k, v in r.items()} for r in rows]
    except (UnicodeDecodeError, csv.Error, KeyError):
        pass
    raise ValueError(f"{path} holds something else than grades: give another name to --csv.")


class Writer:
    """Writes the table while it grows, at most every two seconds, each time whole."""

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, 0.0

    def write(self, rows: list[Row], now: bool = False) -> None:
        if not now and time.monotonic() - self.last < WRITES:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(text_of(rows), encoding="utf-8")
        os.replace(temporary, self.path)
        self.last = time.monotonic()


def _judged(rows: dict[tuple[str, int], Row]) -> list[Row]:
    return [row for _, row in sorted(rows.items()) if row["result"]]


def _row(row: Row, **fields: str) -> Row:
    return dict.fromkeys(FIELDS, "") | row | fields


def _key(exercise: Submitted, version: str) -> str:
    """A hash of what the verdict depends on: the statements that run, the package, the limits."""
    cells = tuple(
        Cell(source, python_of(source), mark)
        for source, mark in zip(exercise.cells, exercise.marks, strict=True)
    )
    digest = hashlib.sha256(f"{version}\n{exercise.reference}\n".encode())
    facts = set(exercise.blanked), exercise.reference, exercise.given
    chosen_cells = candidates(cells, exercise.name, *facts)
    for place, chosen in chosen_cells:
        digest.update(cells[place].source.encode(errors="replace"))
        if chosen is not None:
            for step in program(cells, chosen, exercise.name, set(exercise.uses)):
                digest.update(ast.unparse(step.node).encode(errors="replace") + b"\n")
    return digest.hexdigest()[:16]


def _version(seconds: float, megabytes: int) -> str:
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256(f"{seconds} {megabytes}".encode())
    for package in ("minipeft", "tiny_transformer"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
