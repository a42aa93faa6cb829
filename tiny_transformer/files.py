"""Writing files so that a reader never sees half of one: a temporary name, then one move."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file


def write(path: str | Path, save: Callable[[str], None]) -> None:
    """Call `save(temporary name)`, flush it to disk, move it to `path`; nothing is left behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        save(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        if os.path.exists(name):
            os.unlink(name)


def write_text(path: str | Path, text: str) -> None:
    """Write text (UTF-8, one newline at the end)."""
    write(path, lambda name: Path(name).write_text(text.rstrip("\n") + "\n", encoding="utf-8"))


def write_tensors(path: str | Path, tensors: dict, metadata: dict | None = None) -> None:
    """Write tensors as safetensors."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write(path, lambda name: save_file(whole, name, metadata=metadata or {"format": "pt"}))
