"""All methods in one contest: `python -m benchmarks.contest --minutes 5`, again until it is done.

Writes benchmarks/results/contest.csv, one line for each run; what is there already is not run
again. Lesson 15 reads it. The settings are those of minipeft/course/which_method.py: every arm
tries the same rates with seed 0, dev chooses (one rate more where the best is at the edge), and the
best one runs with every seed. On a new task all arms, and some in another setting, run with every
rate and every seed, so that settings can be compared with methods.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from minipeft.course import which_method as lesson

PATH = Path(__file__).parent / "results" / "contest.csv"
SEEDS = (0, 1, 2)
HEAD = (
    f"# {lesson.BASE}, {lesson.STEPS} steps of {lesson.BATCH} examples, measured on "
    f"{lesson.ROWS} rows; dev in nats, test, ood and forgotten as shares; "
    "trained and stored count numbers\n"
)


class Late(Exception):
    """The time is over; the rest is done by the next call."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--only", type=int, nargs="+", help="numbers of situations")
    options = parser.parse_args()
    end, seeds = time.monotonic() + 60 * options.minutes, range(options.seeds)
    PATH.parent.mkdir(exist_ok=True)
    if not PATH.exists():
        names = ",".join(field.name for field in lesson.FIELDS)
        PATH.write_text(HEAD + names + "\n", encoding="utf-8", newline="")

    def in_time(*key) -> lesson.One:
        if time.monotonic() > end:
            raise Late
        return lesson.measure(*key)

    every = lesson.Runs.read(PATH, in_time)
    try:
        for number, situation in enumerate(lesson.SITUATIONS):
            if options.only is None or number in options.only:
                every.contest(situation, seeds=seeds)
                print(situation, "done", flush=True)
        if options.only is None or 9 in options.only:
            for arm in (*lesson.ARMS, *lesson.VARIANTS):
                for rate in lesson.RATES:
                    for seed in seeds:
                        every.one(lesson.NOVEL, arm, rate, seed)
            print("settings done", flush=True)
    except Late:
        print(f"{len(every.every)} runs; call again for the rest.")


if __name__ == "__main__":
    main()
