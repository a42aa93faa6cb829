"""How long a lesson may be silent: a limit on silence, not on time, and longer on a busy machine.

A lesson that works says something: a cell begins, a progress bar moves, a line is printed. One
that says nothing for `patience()` seconds hangs, however long it has run. What that means depends
on the machine and on what else it does, so a small training loop is timed once, in the setting in
which the lessons run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SILENCE = 300.0  # seconds, on a machine that takes USUAL for the loop
USUAL = 0.15  # seconds for the loop, on one idle core
LOOP = """
import time
import torch

x = torch.randn(256, 256)
began = time.perf_counter()
for _ in range(300):
    (x @ x).tanh_().sum().item()
print(time.perf_counter() - began)
"""
_known: dict[str, float] = {}
_lock = threading.Lock()


def patience(environment: dict[str, str]) -> float:
    """Seconds of silence that a lesson is allowed in this environment; measured once."""
    threads = environment.get("OMP_NUM_THREADS", "")
    with _lock:
        if threads not in _known:
            command = [sys.executable, "-c", LOOP]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            took = float(done.stdout) if done.returncode == 0 else USUAL
            _known[threads] = SILENCE * max(1.0, took / USUAL)
        return _known[threads]


class Watch:
    """Ends a kernel that has been silent for `limit` seconds, or when `stop` is set."""

    def __init__(self, limit: float, stop: threading.Event) -> None:
        self.limit, self.stop = limit, stop
        self.silent = False  # whether that is why the kernel ended
        self.last = time.monotonic()

    def note_sign(self) -> None:
        """The kernel has given a sign of life: the time begins anew."""
        self.last = time.monotonic()

    @contextmanager
    def over(self, process: Callable[[], int | None]) -> Iterator[None]:
        """Watch while the block runs; process() is the kernel's, None before it has one."""
        finished = threading.Event()

        def wait() -> None:
            while not finished.wait(0.2):
                self.silent = time.monotonic() - self.last > self.limit
                if self.silent or self.stop.is_set():
                    number = process()
                    if number is not None:
                        with suppress(ProcessLookupError):
                            os.kill(number, getattr(signal, "SIGKILL", signal.SIGTERM))
                        return

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()
