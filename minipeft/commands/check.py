"""`python -m minipeft check`: judge the exercises of a notebook."""

from __future__ import annotations

import argparse
import io
import sys


def add(commands, arguments: list[str]) -> None:
    from minipeft.checks import submission

    parser = commands.add_parser(
        "check",
        help="check the exercises of a notebook",
        description="Check every exercise of a notebook and print a table.\n\n"
        + submission.__doc__.partition("\n\n")[2],
        epilog="Exit code: 0 all passed, 1 some did not, 2 there was nothing to check.\n\n"
        "example:\n  python -m minipeft check work/10_lora.ipynb",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("notebook", help="a notebook made from notebooks/exercises/")
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

    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a letter shows "?"
        sys.stdout.reconfigure(errors="replace")
    exercises = submission.read(options.notebook)
    if note := submission.limits_missing():
        print(f"note: {note}", file=sys.stderr)
    verdicts = []
    for exercise in exercises:
        if sys.stderr.isatty():
            print(f"\r\x1b[Kchecking {exercise.number}", end="", file=sys.stderr, flush=True)
        verdicts.append(submission.judge(exercise, options.seconds, options.megabytes))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    print(submission.table(exercises, verdicts, colour=sys.stdout.isatty()))
    return 0 if all(v.result == "passed" for v in verdicts) else 1
