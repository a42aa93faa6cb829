"""How threads wait, settled before torch is loaded. Both packages import this first.

After every parallel operation the threads of OpenMP wait for the next one in a busy loop:
quick where each has a core to itself, a disaster where it has not, for then a thread that waits
keeps one that works from working. They spin some tenths of a millisecond here, longer than the gap
between two operations of a step, and sleep after that. `make bench` has the figures
(benchmarks/threads.py). Whoever has set OMP_WAIT_POLICY or GOMP_SPINCOUNT keeps what was set.
"""

from __future__ import annotations

import os
import sys

SPIN = "10000"

if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = SPIN
