"""Tables as .jsonl, .csv or .tsv files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tiny_transformer.files import write_text


def _jsonl(header, rows) -> str:
    lines = (json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) for row in rows)
    return "\n".join(lines)


def _csv(header, rows) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def _tsv(header, rows) -> str:
    lines = ([" ".join(cell.split()) for cell in row] for row in [header, *rows])
    return "\n".join("\t".join(line) for line in lines)


WRITERS = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _tsv}


def check_ending(path: str | None, flag: str) -> None:
    """ValueError, which names the flag, for a file that `write_rows` could not write."""
    if path and Path(path).suffix not in WRITERS:
        raise ValueError(f"{flag} must end in {', '.join(WRITERS)}.")


def write_rows(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """One line per row, in the form that the path's ending names."""
    write_text(Path(path), WRITERS[Path(path).suffix](header, list(rows)))
