"""Linux: run a command, at most so long and with so much memory, and end all that it started.

    warden.py REPORT SECONDS MEGABYTES COMMAND..

A process that leaves its session or its parent falls to the warden, which ends it with the rest.
How the command ended is written to the file descriptor REPORT: "time", "memory", "code 1" or
"signal 11". It imports little and nothing of the package, so that it starts in a blink.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBRARIES = 1024  # megabytes that torch and the package may take in all


def descendants() -> list[int]:
    """The processes below this one."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path("/proc", name, "stat").read_text()
            except OSError:  # it has ended
                continue
            parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while children := {p for p, parent in parents.items() if parent in family} - family:
        family |= children
    return sorted(family - {os.getpid()})


def megabytes_of(processes: list[int]) -> float:
    """Memory of these processes, shared pages in proportion."""
    kilobytes = 0
    for process in processes:
        try:
            for line in Path("/proc", str(process), "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kilobytes += int(line.split()[1])
        except OSError:
            continue
    return kilobytes / 1024


def end_all() -> None:
    """End every process below this one; those that they start meanwhile, too."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for process in descendants():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def main() -> None:
    report, seconds, megabytes = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: (end_all(), os._exit(1)))
    process = subprocess.Popen(sys.argv[4:])
    deadline = time.monotonic() + seconds
    looks = 0
    while (code := process.poll()) is None:
        if time.monotonic() > deadline:
            ended = "time"
            break
        looks += 1
        if looks % 10 == 0 and megabytes_of(descendants()) > megabytes + LIBRARIES:
            ended = "memory"
            break
        time.sleep(0.02)
    else:
        ended = f"code {code}" if code >= 0 else f"signal {-code}"
    end_all()
    os.write(report, ended.encode())


if __name__ == "__main__":
    main()
