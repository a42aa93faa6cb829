"""`python -m minipeft check`: judge the exercises of a notebook, or of a class."""

from __future__ import annotations

import argparse
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def add(commands, arguments: list[str]) -> None:
    from minipeft.checks import submission

    parser = commands.add_parser(
        "check",
        help="check the exercises of a notebook, or of a class",
        description="Check every exercise of a notebook and print a table; of a folder, those of "
        "every notebook\nin it, a row per student and exercise.\n\n"
        + submission.__doc__.partition("\n\n")[2],
        epilog="Exit code: 0 all passed, 1 some did not, 2 there was nothing to check.\n\n"
        "examples:\n  python -m minipeft check work/10_lora.ipynb\n"
        "  python -m minipeft check submissions --csv grades.csv\n\n"
        "A student is the folder that a notebook lies in (submissions/smith/10_lora.ipynb), or\n"
        "what its name has beside the lesson's (submissions/smith_10_lora.ipynb). Run it again:\n"
        "what is in grades.csv and has not changed is not judged again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("notebook", help="a notebook made from notebooks/exercises/, or a folder")
    parser.add_argument(
        "--csv", metavar="FILE", help="for a folder: where the grades go (default: only a summary)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, os.cpu_count() or 1),
        help="how many exercises are judged at the same time (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=submission.SECONDS,
        help="time limit for each exercise (default %(default)s)",
    )
    parser.add_argument(
        "--megabytes",
        type=int,
        default=submission.MEGABYTES,
        help="memory limit for each exercise, beyond what the libraries take (default %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from minipeft.checks import submission

    for name in ("workers", "seconds", "megabytes"):
        if not getattr(options, name) > 0:
            raise ValueError(f"--{name} {getattr(options, name)} must be greater than zero.")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a letter shows "?"
        sys.stdout.reconfigure(errors="replace")
    folder = Path(options.notebook).is_dir()
    if options.csv and not folder:
        raise ValueError(f"--csv is for a folder of notebooks; {options.notebook} is none.")
    exercises = [] if folder else submission.read(options.notebook)
    if note := submission.limits_missing():
        print(f"note: {note}", file=sys.stderr)
    if folder:
        return _class(options)

    def judge(exercise: submission.Submitted) -> submission.Verdict:
        verdict = submission.judge(exercise, options.seconds, options.megabytes)
        _progress(f"checked {exercise.number}")
        return verdict

    with ThreadPoolExecutor(options.workers) as pool:
        verdicts = list(pool.map(judge, exercises))
    _progress("")
    print(submission.table(exercises, verdicts, colour=sys.stdout.isatty()))
    return 0 if all(v.result == "passed" for v in verdicts) else 1


def _class(options: argparse.Namespace) -> int:
    from minipeft.checks import gradebook

    path = Path(options.csv) if options.csv not in (None, "-") else None
    known = gradebook.rows_of(path) if path else []
    writer = gradebook.Writer(path) if path else None
    rows, judged = known, 0

    def keep(now: list[gradebook.Row], done: int, every: int) -> None:
        nonlocal rows, judged
        rows, judged = now, done
        _progress(f"judged {done} of {every}")
        if writer:
            writer.write(rows)

    limits = options.seconds, options.megabytes, options.workers
    try:
        rows = gradebook.grade(Path(options.notebook), known, *limits, keep)
    finally:
        if writer and rows:
            writer.write(rows, now=True)
    _progress("")
    if options.csv == "-":
        print(gradebook.text_of(rows), end="")
    else:
        print(_summary(rows))
        print(f"{judged} judged, {len(rows) - judged} known from before" if path else "")
    return 0 if all(row["result"] == "passed" for row in rows) else 1


def _summary(rows: list[dict[str, str]]) -> str:
    """One line per student."""
    students = sorted({row["student"] for row in rows})
    width = max(len(student) for student in [*students, "student"])
    lines = [f"{'student':<{width + 2}}{'passed':>9}{'points':>10}"]
    for student in students:
        exercises = [row for row in rows if row["student"] == student]
        passed = f"{sum(row['result'] == 'passed' for row in exercises)}/{len(exercises)}"
        reached = sum(int(row["points"] or 0) for row in exercises)
        points = f"{reached}/{sum(int(row['of'] or 0) for row in exercises)}"
        lines.append(f"{student:<{width + 2}}{passed:>9}{points:>10}")
    return "\n".join(lines)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
