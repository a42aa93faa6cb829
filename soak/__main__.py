"""python -m soak [--only kills ...] [--count N] [--seconds S]"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

PARTS = (
    *("kills", "bad_settings", "bad_adapters", "bad_tables", "cycles", "orders"),
    "determinism",
)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when nothing failed."""
    import torch

    from soak.ledger import Clock, table

    parser = argparse.ArgumentParser(
        prog="python -m soak",
        description="Faults, bad inputs and long use, with counts at the end.",
    )
    which = f"any of {', '.join(PARTS)} (default: all)"
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=which
    )
    parser.add_argument("--count", type=int, help="trials of each part (default: thousands)")
    parser.add_argument("--seconds", type=float, help="longest time for each part")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = []
    for part in given.only:
        begun = time.monotonic()
        print(f"{part} ...", file=sys.stderr, flush=True)
        new = importlib.import_module(f"soak.{part}").soak(given.count, Clock(given.seconds))
        lines += new
        print(f"{part}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    print(table(lines))
    failures = [f"{line.what}: {failure}" for line in lines for failure in line.failures]
    different = {failure.rpartition("raised in")[2]: failure for failure in reversed(failures)}
    for failure in list(different.values())[:50]:  # one of each kind
        print(f"FAILED  {failure}")
    print(f"{sum(line.tried for line in lines):,} trials, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
