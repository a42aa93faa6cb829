"""Measure: `make bench` for everything, `python benchmarks/run.py step` for one section.

Each section prints a table and writes build/bench/<section>.json and .png. A section is a function
that takes the command line's options and returns a `Report`; add it to SECTIONS.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # the packages of this repository, installed or not

from benchmarks import step_time  # noqa: E402

SECTIONS = {"step": step_time.run}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    parser.add_argument("--rounds", type=int, default=60, help="measured steps per model")
    parser.add_argument("--only", help="one row of a section's table")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    for name in options.sections or SECTIONS:
        report = SECTIONS[name](options)
        print(report.table(), flush=True)
        for path in report.write(options.out):
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
