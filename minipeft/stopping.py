"""Ctrl-C while the command is still being loaded, torch above all: one line, as `main` has later.

The package imports this first. A program that only imports minipeft is left as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path


def is_command() -> bool:
    """Does this process run `minipeft` or `python -m minipeft`?"""
    words = sys.orig_argv
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    return module == ["minipeft"] or Path(sys.argv[0]).stem == "minipeft"


def one_line(kind: type[BaseException], error: BaseException, trace) -> None:
    """What is said of an exception that ends the process."""
    if issubclass(kind, KeyboardInterrupt):
        print("minipeft: stopped.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if is_command():
    sys.excepthook = one_line
