"""Keep processors busy for a while, to see what else runs beside it.

python benchmarks/load.py 60              two processes for 60 seconds
python benchmarks/load.py 60 --processes 1
python benchmarks/load.py -- make course  as long as the command runs; its seconds at the end
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def _busy(parent: int) -> None:
    """Compute until killed, or until the process that asked for it is gone."""
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass


@contextmanager
def load(processes: int = 2) -> Iterator[None]:
    """So many processes that compute without pause, while the block runs."""
    context = multiprocessing.get_context("spawn")  # the caller may have threads
    crowd = [
        context.Process(target=_busy, args=(os.getpid(),), daemon=True) for _ in range(processes)
    ]
    for process in crowd:
        process.start()
    try:
        yield
    finally:
        for process in crowd:
            process.kill()
        for process in crowd:
            process.join()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, help="how many (default 2)")
    parser.add_argument("what", nargs="+", metavar="SECONDS | COMMAND")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    with load(options.processes):
        if len(options.what) == 1 and options.what[0].replace(".", "", 1).isdigit():
            time.sleep(float(options.what[0]))
            return 0
        code = subprocess.run(options.what).returncode
    print(f"{time.perf_counter() - began:.0f} s beside {options.processes} busy processes")
    return code


if __name__ == "__main__":
    sys.exit(main())
