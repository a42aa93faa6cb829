"""Writing files so that a reader never sees half of one: a temporary name, then one move.

What a killed process leaves behind, `.name.*.part`, is taken away by the next write of that file.
"""

from __future__ import annotations

import glob
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save as tensors_as_bytes

try:
    import fcntl
except ImportError:  # Windows, where a file that somebody holds open could not be moved either
    fcntl = None

DAY = 24 * 3600.0  # seconds


def write(path: str | Path, save: Callable[[str], None]) -> None:
    """Call `save(temporary name)`, flush it to disk, move it to `path`; nothing is left behind.

    Raises:
        OSError: the disk is full, the folder cannot be written, ...: one sentence, the old file is
            as it was.
    """
    write_all({path: save})


def write_all(saves: Mapping[str | Path, Callable[[str], None]]) -> None:
    """`write` for files that belong together: none is moved before all are on the disk."""
    with ExitStack() as stack:
        parts = {Path(path): stack.enter_context(_part(Path(path))) for path in saves}
        for (path, name), save in zip(parts.items(), saves.values(), strict=True):
            with sentences(path):
                save(name)
                with open(name, "r+b") as file:  # Windows flushes what may be written
                    os.fsync(file.fileno())
                os.chmod(name, 0o644)
        for path, name in parts.items():
            with sentences(path):
                os.replace(name, path)


def write_text(path: str | Path, text: str) -> None:
    """Write text (UTF-8, one newline at the end)."""
    write(path, saving_text(text))


def write_tensors(path: str | Path, tensors: dict, metadata: dict | None = None) -> None:
    """Write tensors as safetensors; the same tensors and metadata give the same bytes."""
    write(path, saving_tensors(tensors, metadata))


def check_fetched(path: str | Path) -> None:
    """A file that cannot be read may be what Git leaves in the place of a large one.

    Raises:
        ValueError: it is; the sentence says how to fetch the file itself.
    """
    with open(path, "rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a pointer of Git LFS, not the file itself: fetch it by `git lfs pull` in "
            "its repository, or download the file from its page."
        )


def saving_text(text: str) -> Callable[[str], None]:
    """What `write` calls to save a text. Half a character, as the name of a file that is no UTF-8
    has, is written as \\udce4, which is the same in JSON."""

    def save(name: str) -> None:
        whole = text.rstrip("\n") + "\n"
        Path(name).write_text(whole, encoding="utf-8", errors="backslashreplace")

    return save


def saving_tensors(tensors: dict, metadata: dict | None = None) -> Callable[[str], None]:
    """What `write` calls to save tensors."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}

    def save(name: str) -> None:
        # Not safetensors' save_file: it writes under a name of its own, which a kill leaves behind.
        Path(name).write_bytes(tensors_as_bytes(whole, metadata=metadata or {"format": "pt"}))
        _sort_metadata(name)

    return save


@contextmanager
def sentences(path: str | Path):
    """Turn what the operating system says about a failed write into one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
        reason = reason or str(error).rstrip(".")
        clear = OSError(
            f"{path} could not be written ({reason}): make room or choose another place; what was "
            "there before is as it was."
        )
        clear.errno, clear.reason = getattr(error, "errno", None), reason
        raise clear from error


@contextmanager
def _part(path: Path):
    """The name of an empty file beside `path`, gone at the end.

    It is locked as long as this process lives, so that a file without a lock is a dead one's.
    On Windows, which has no such locks, one that is older than a day is.
    """
    with sentences(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in glob.glob(f"{glob.escape(str(path.parent / f'.{path.name}.'))}*.part"):
            with suppress(OSError):
                _remove_if_left(old)
        handle, name = _locked_file(path)
    try:
        yield name
    finally:
        if handle is not None:
            os.close(handle)
        if os.path.exists(name):
            os.unlink(name)


def _remove_if_left(old: str) -> None:
    if fcntl is None:
        if time.time() - os.path.getmtime(old) > DAY:
            os.unlink(old)
        return
    with open(old, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: in use
        os.unlink(old)


def _locked_file(path: Path) -> tuple[int | None, str]:
    """A new empty file beside `path`: the handle with its lock (None on Windows), its name."""
    while True:
        handle, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
        if fcntl is None:
            os.close(handle)
            return None, name
        with suppress(OSError):  # some file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):
            return handle, name
        os.close(handle)  # another process took it for a dead one's before it had its lock


def _sort_metadata(name: str) -> None:
    """Order the metadata of a safetensors file, which come in a random order, by their keys.

    A file is the length of its header (8 bytes), the header as JSON, the numbers.
    """
    with open(name, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # as long as it was, since nothing else has changed
            file.seek(8)
            file.write(text.ljust(length))
