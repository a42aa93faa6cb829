"""One process at a time in the folder of a run or of a grid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tiny_transformer.files import fcntl, sentences


class Taken(ValueError):
    """Another process is at work in the folder."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nobody else works in the folder meanwhile.

    It is made if need be, and taken away again where nothing was written into it. What is locked
    is the folder itself, so that nothing is left behind by a process that is killed.

    Raises:
        Taken: another process holds it.
        OSError: it cannot be made.
        ValueError: no adapter could be read from a folder of this name.
    """
    check_name(folder)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with sentences(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder)
    try:
        yield
    finally:
        for place in missing:
            with suppress(OSError):  # it holds something
                place.rmdir()
        if lock is not None:
            os.close(lock)


def check_name(folder: Path) -> None:
    """Refuse a folder whose name is no UTF-8: safetensors files in it could not be read again.

    Raises:
        ValueError: it is such a folder.
    """
    name = os.path.abspath(folder).encode(errors="backslashreplace").decode()
    if name != os.path.abspath(folder):
        raise ValueError(f"The name {name} is no UTF-8 text: choose another folder.")


def locked(folder: Path) -> int | None:
    """The handle of a folder, locked until it is closed; None where folders cannot be locked.

    Raises:
        Taken: another process holds it.
    """
    if fcntl is None:  # Windows
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Taken(
            f"Another process is at work in {folder}: wait until it ends, or give another folder."
        ) from None
    except OSError:  # some file systems know no locks
        os.close(handle)
        return None
    return handle
