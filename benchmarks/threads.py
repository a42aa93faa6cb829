"""Section `threads`: short trainings on an idle machine and beside other work, by how threads wait.

Every run is a process of its own, because OpenMP reads its settings when torch is loaded. The
settings take turns. The other work is made here: processes that compute without pause.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from tiny_transformer.process import SPIN

from .load import load
from .measuring import Sheet, bars, quartiles

ROOT = Path(__file__).resolve().parents[1]
WAYS = {
    "two threads, as OpenMP has it": {"OMP_NUM_THREADS": "2"},
    "two threads, OMP_WAIT_POLICY=PASSIVE": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    f"two threads, GOMP_SPINCOUNT={SPIN}": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": SPIN},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LOADS = {"idle": 0, "1 busy process": 1, "2 busy processes": 2, "4 busy processes": 4}
WORK = (  # (model, rows, steps)
    ("tiny-decoder-0.4m", 8, 60),
    ("tiny-decoder-3m", 32, 20),
)
# torch first: importing minipeft before it would settle how threads wait.
CODE = """
import sys, time
import torch
import minipeft as mp, tiny_transformer as tt

name, rows, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model, _ = tt.load(name)
ids = torch.randint(14, model.config.vocab_size, (rows, 32))
batch = {"input_ids": ids, "labels": ids}
mp.attach(model, mp.LoRA(rank=8), seed=0)
mp.train(model, [batch], 2, progress=False)
began = time.perf_counter()
mp.train(model, [batch], steps, progress=False)
print(time.perf_counter() - began)
"""


def seconds(way: dict[str, str], work: tuple[str, int, int]) -> float:
    """Wall seconds of one training in a process with these settings."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", CODE, *map(str, work)]
    environment = {**known, **way, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def run(options) -> list[Sheet]:
    """One table: settings by loads, both trainings in each cell."""
    loads = dict(list(LOADS.items())[: 2 if options.quick else None])
    works, ways, rounds = WORK, WAYS, 3
    if options.quick:
        works, ways, rounds = [(*WORK[0][:2], 1)], dict(list(WAYS.items())[-1:]), 1
    seconds_of = {(way, at): [[] for _ in works] for way in ways for at in loads}
    for at, processes in loads.items():
        with load(processes) if processes else nullcontext():
            for _ in range(rounds):
                for way, settings in ways.items():
                    for times, work in zip(seconds_of[way, at], works, strict=True):
                        times.append(seconds(settings, work))
    spreads = {key: [quartiles(values) for values in times] for key, times in seconds_of.items()}
    sheet = Sheet(
        "threads",
        "LoRA, wall seconds beside other work: "
        + " / ".join(f"{steps} steps of {name} with {rows} rows" for name, rows, steps in works),
        ["setting", *loads],
        2,
        lambda axes: bars(
            axes,
            {at: {way: spreads[way, at][-1] for way in ways} for at in loads},
            f"seconds for {works[-1][2]} steps of {works[-1][0]}",
        ),
    )
    for way in ways:
        cells = [" / ".join(f"{middle:.1f}" for _, middle, _ in spreads[way, at]) for at in loads]
        sheet.rows.append([way, *cells])
    sheet.notes.append(
        f"Medians of {rounds} processes each. A thread that waits in a busy loop keeps one that "
        "works from working where there are fewer cores than both need. "
        "tiny_transformer/process.py sets GOMP_SPINCOUNT unless the user has set how threads wait; "
        "a lesson of the course has one thread."
    )
    return [sheet]
