"""Ctrl-C while the command is still being loaded, torch above all, ends it with one line.

The package imports this first. An exception would not do: C++ that is being loaded is brought down
by it, or swallows it. A program that only imports minipeft is left as it is.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path


def is_command() -> bool:
    """Does this process run `minipeft`, as pip writes it, or `python -m minipeft`?"""
    words, script = sys.orig_argv, Path(sys.argv[0]).name
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    return module == ["minipeft"] or script in ("minipeft", "minipeft.exe")


def stop(number: int, frame) -> None:
    """Say it, and end as if nobody had listened to the signal: no file is open yet."""
    print("minipeft: stopped.", file=sys.stderr)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def interrupt_as_usual() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if is_command() and threading.current_thread() is threading.main_thread():
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored
        signal.signal(signal.SIGINT, stop)
