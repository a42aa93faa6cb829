"""How long a test waits for another process before it says that this one hangs.

No test measures time. What a process needs on an idle machine is multiplied by how slow this one is
just now, and then taken four times, so that a busy machine is no failure.
"""

import functools
import time

import torch

USUAL = 0.015  # seconds for the loop on one idle core


@functools.cache
def slowness() -> float:
    x = torch.randn(256, 256)
    began = time.perf_counter()
    for _ in range(30):
        (x @ x).tanh_().sum().item()
    return max(1.0, (time.perf_counter() - began) / USUAL)


def patience(seconds: float) -> float:
    """At least 4 x `seconds`, more on a slow or busy machine."""
    return 4 * seconds * slowness()
