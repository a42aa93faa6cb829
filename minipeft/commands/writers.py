"""Tables as the text of a .jsonl, .csv or .tsv file."""

from __future__ import annotations

import csv
import io
import json


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
