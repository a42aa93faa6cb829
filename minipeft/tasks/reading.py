"""What all readers of data files share: text line by line, packed or not, and names of columns."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import IO

PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # modules; some Pythons lack the last two
LONGEST = 1_000_000  # characters of a line; what is longer is no text to train on
BEGINNINGS = {  # of files that are no UTF-8 text -> what they are, and what to do
    b"PK\x03\x04": "is a packed archive, as an Excel workbook is: save it as .csv",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook: save it as .csv",
    b"PAR1": "is a table of parquet: add .parquet to its name",
    b"\x1f\x8b": "is packed by gzip: add .gz to its name",
    b"BZh": "is packed by bzip2: add .bz2 to its name",
    b"\xfd7zXZ": "is packed by xz: add .xz to its name",
    b"\x28\xb5\x2f\xfd": "is packed by zstd: unpack it",
    b"\xff\xfe\0\0": "is not UTF-8 text but UTF-32: save it as UTF-8",
    b"\xff\xfe": "is not UTF-8 text but UTF-16: save it as UTF-8",
    b"\xfe\xff": "is not UTF-8 text but UTF-16: save it as UTF-8",
}


@contextmanager
def opened(path: Path, mode: str = "rt") -> Iterator[IO]:
    """A file, unpacked where it is packed; as UTF-8 text without a byte-order mark, or as bytes.

    Raises:
        ValueError: the packed file is damaged, or this Python cannot unpack it.
    """
    name = PACKED.get(path.suffix.lower())
    try:
        module = import_module(name) if name else io
    except ImportError:
        raise ValueError(
            f"This Python was built without {name}, which {path} needs: unpack it."
        ) from None
    text = {"encoding": "utf-8-sig", "newline": ""} if mode == "rt" else {}
    try:
        with module.open(path, mode, **text) as file:
            yield file
    except (EOFError, zlib.error, OSError, getattr(module, "LZMAError", EOFError)) as error:
        if name is None or getattr(error, "errno", None) is not None:  # none where bytes are wrong
            raise
        kind = {".gz": "gzip"}.get(path.suffix.lower(), path.suffix.lower())
        raise ValueError(f"{path} is not a whole {kind} file: fetch it again.") from None


def lines(path: Path) -> Iterator[str]:
    """Lines of sensible length, with their ends.

    Raises:
        ValueError: a line is too long or nothing but zero bytes, or the file is no UTF-8 text.
    """
    with opened(path) as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise ValueError(
                    f"{path}, line {number}, is longer than {LONGEST:,} characters: cut it."
                )
            check_zeros(path, line, number)
            yield line


def check_zeros(path: Path, text: str, number: int) -> None:
    """Refuse a line, or a text that begins there, in which zero bytes are no signs.

    Raises:
        ValueError: every other byte is one, as in UTF-16, or all of the last line.
    """
    if "\0" not in text:
        return
    halves = text[::2], text[1::2]
    if text.strip("\0\r\n") and any(len(half) > 1 and not half.strip("\0") for half in halves):
        raise ValueError(f"{path} is not UTF-8 text but UTF-16: save it as UTF-8.")
    if not text.splitlines()[-1].strip("\0"):
        raise ValueError(
            f"{path}, line {number + len(text.splitlines()) - 1}, is nothing but zero bytes, as "
            "where writing was broken off: fetch it again, or take them away."
        )


def not_text(path: Path) -> str:
    """Why a file that cannot be decoded is no UTF-8 text, in one sentence."""
    with opened(path, "rb") as file:
        begin = file.read(8)
        known = next((what for sign, what in BEGINNINGS.items() if begin.startswith(sign)), None)
        if known and path.suffix.lower() in PACKED and "to its name" in known:
            known = f"is packed twice: what is in it {known.partition(':')[0]}, so unpack it once"
        if known:
            return f"{path} {known}."
        file.seek(0)
        good = sum(1 for _ in takewhile(is_utf8, file))
    return f'{path}, line {good + 1}, is not UTF-8 text: save it as UTF-8 (Excel: "CSV UTF-8").'


def is_utf8(line: bytes) -> bool:
    """Can a line be decoded?"""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse a table with two columns of one name.

    Raises:
        ValueError: there are; only one of them could be read.
    """
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{path} has the column {twice!r} twice in its header: rename one of the two, "
            "since only one of them could be read."
        )
