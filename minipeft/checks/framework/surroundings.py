"""The same surroundings for every check, whatever the notebook had set, and put back afterwards."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import warnings
from collections.abc import Iterator

import numpy
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

LINES = 20  # of what the learner's code prints, so many are shown
DEPTH = 1000  # of calls within calls, at least


@contextlib.contextmanager
def surroundings(seed: int = 0) -> Iterator[None]:
    """Gradients on, float32, the processor, autocast off, every generator seeded, no warnings.

    What the learner's code prints is collected: a check calls it some hundred times. The first
    lines are printed at the end.
    """
    depth = sys.getrecursionlimit()
    sys.setrecursionlimit(max(depth, DEPTH))
    printed = _FirstLines()
    states = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
    dtype, enabled = torch.get_default_dtype(), torch.is_grad_enabled()
    anomaly, threads = torch.is_anomaly_enabled(), torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(warnings.catch_warnings())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(_FirstLines()))
        warnings.simplefilter("ignore")
        torch.autograd.set_detect_anomaly(False)
        seed_everything(seed)
        _set(True, torch.float32)
        try:
            yield
        finally:
            _set(enabled, dtype)
            torch.autograd.set_detect_anomaly(anomaly)
            sys.setrecursionlimit(depth)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            torch.set_rng_state(states[0])
            numpy.random.set_state(states[1])
            random.setstate(states[2])
    if printed.lines:
        sys.stdout.write(printed.text())


@contextlib.contextmanager
def careful_kernels() -> Iterator[None]:
    """torch's fast attention does not look at all shapes: wrong ones would end the process."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def seed_everything(seed: int) -> None:
    """torch's, numpy's and Python's global generators."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for other devices: slow
    numpy.random.seed(seed)
    random.seed(seed)


def moved_generators(seed: int) -> list[str]:
    """The global generators that do not go on as `seed_everything(seed)` has left them.

    Each is asked for its next number, and for its first one after the seed: to copy and compare
    their states takes ten times as long.
    """
    now = _next_numbers()
    seed_everything(seed)
    return [name for name, number in _next_numbers().items() if number != now[name]]


def _next_numbers() -> dict[str, float]:
    return {
        "torch": torch.rand((), dtype=torch.float64).item(),
        "numpy": numpy.random.random_sample(),
        "Python": random.random(),
    }


def settings() -> dict[str, object]:
    """What a call must leave as it is."""
    return {
        "gradients are switched on or off": torch.is_grad_enabled(),
        "torch's default dtype is changed": torch.get_default_dtype(),
    }


def restore_settings() -> None:
    """Undo what a call has changed of them."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), DEPTH))
    _set(True, torch.float32)


def _set(gradients: bool, dtype: torch.dtype) -> None:
    torch.set_grad_enabled(gradients)
    torch.set_default_dtype(dtype)


class _FirstLines(io.TextIOBase):
    """Takes any amount of text and keeps the first lines of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.dropped = 0
        self.rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        parts = (self.rest + text[:10_000]).split("\n")
        self.rest = parts.pop()[:1_000]
        room = LINES - len(self.lines)
        self.lines += [part[:1_000] for part in parts[:room]]
        self.dropped += max(0, len(parts) - room)
        return len(text)

    def text(self) -> str:
        end = f"... and {self.dropped} lines more\n" if self.dropped else ""
        return "\n".join(self.lines) + "\n" + end
