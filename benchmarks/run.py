"""Measure: `make bench` for everything, `python benchmarks/run.py --only memory` for one table.

Each section prints its tables and writes build/bench/<table>.md, .csv and .png. A section is a
function that takes the command line's options and returns sheets; add it to SECTIONS. Everything
takes some 20 minutes on two cores that have nothing else to do.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # the packages of this repository, installed or not

SECTIONS = (  # each a module of this folder
    "pretraining_step",
    "training_step",
    "real_step",
    "savings",
    "shared_prompt",
    "inference",
    "side_by_side",
    "memory",
    "growth",
    "startup",
    "threads",
)
ON_A_DEVICE = (
    "training_step",
    "real_step",
    "shared_prompt",
    "inference",
)  # sections that can be measured on an accelerator


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        metavar="NAME",
        default=SECTIONS,
        help=", ".join(SECTIONS),
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    parser.add_argument(
        "--device",
        default="cpu",
        help=f"cuda, mps, ...: for {', '.join(ON_A_DEVICE)} only (default cpu)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help="of training_step and real_step: how often each step is timed (default 8 and 5). The "
        "quartiles say how far apart the rounds lie; the median settles with their number",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not {*options.only} <= {*ON_A_DEVICE}:
        parser.error(f"--device is for --only {' '.join(ON_A_DEVICE)}; the rest runs on the CPU.")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)

    import torch

    torch.set_num_threads(options.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="peft|transformers")
    for name in options.only:
        started = time.perf_counter()
        for sheet in importlib.import_module(f"benchmarks.{name}").run(options):
            paths = sheet.write(options.out)
            print(f"\n{sheet.markdown()}\nwrote {', '.join(map(str, paths))}", flush=True)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
