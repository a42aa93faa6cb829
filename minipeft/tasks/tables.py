"""Rows of a data file: .jsonl, .csv, .tsv or .conll. What is wrong with a file is one sentence.

    tables.read("train.tsv")        # [{"sentence": "a fine film", "label": "1"}, ...]

A .conll file has a word and its tag on every line and an empty line between sentences; it becomes
the columns "input" (words with spaces between them) and "target" (as many tags). Of more columns,
as in CoNLL-2003, the first is the word and the last the tag; of the ten of CoNLL-U the second and
the fourth (the part of speech). Lines that begin a document (-DOCSTART-) are left out, and comments
(# name = value).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

CONLL_U = 10  # its columns
ENDINGS = (".jsonl", ".tsv", ".csv", ".conll")
LONGEST = 1_000_000  # characters of a line; what is longer is no text to train on


def read(path: str | Path, columns: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """All rows as text; `columns` must be there, and filled, in every row.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, another encoding than UTF-8, nothing in it, a line that is
            broken, empty or too long, a row with more or fewer fields than the header has.
    """
    return list(_rows(Path(path), columns))


def has_column(path: str | Path, column: str) -> bool:
    """Has the first row of a file this column? Errors are those of `read`."""
    with closing(_rows(Path(path), ())) as rows:
        return column in next(rows)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows one by one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a {', '.join(ENDINGS)} file.")
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path} is not {', '.join(ENDINGS)}; convert it to one of them.")
    reader = {".jsonl": _jsonl, ".conll": _conll}.get(path.suffix, _separated)
    empty = True
    try:
        for number, row in reader(path):
            for column in columns:
                if row.get(column) is not None and not row[column].strip():
                    raise ValueError(
                        f"{path}, line {number}, has nothing in {column!r}: fill it, or leave the "
                        "row out."
                    )
                if row.get(column) is None:
                    filled = ", ".join(key for key in row if row[key] is not None)[:200]
                    raise ValueError(
                        f"{path}, line {number}, has no {column!r}, only "
                        f"{filled or 'nothing'}: name its columns with input= and target= (--input "
                        "and --target)."
                    )
            empty = False
            yield row
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start} of a part of it): save it as UTF-8."
        ) from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a table that can be read: {error}.") from None
    if empty:
        raise ValueError(f"{path} has no rows: it needs at least one example.")


def _lines(path: Path) -> Iterator[str]:
    """Lines of sensible length, with their ends; a byte-order mark is skipped."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise ValueError(
                    f"{path}, line {number}, is longer than {LONGEST:,} characters: cut it."
                )
            yield line


def _jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error if isinstance(error, ValueError) else "it is nested too deeply"
            raise ValueError(f"{path}, line {number}, is not JSON: {reason}.") from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}, has no columns: write an object such as "
                '{"input": "...", "target": "..."}.'
            )
        yield number, {key: _text(value, path, number, key) for key, value in row.items()}


def _text(value, path: Path, number: int, key: str) -> str | None:
    """A JSON value as text; a list of words or tags is joined by spaces."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(word, str | int) for word in value):
        return " ".join("".join(str(word).split()) or "_" for word in value)
    raise ValueError(f"{path}, line {number}: {key!r} must be text, a number or a list of words.")


def _separated(path: Path) -> Iterator[tuple[int, dict]]:
    before = csv.field_size_limit(LONGEST)
    try:
        if path.suffix == ".tsv":  # quotes mean nothing in tab-separated text
            table = csv.DictReader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            table = csv.DictReader(_lines(path), strict=True)
        for row in table:
            width = len(table.fieldnames)
            if None in row or None in row.values():
                fields = width + len(row[None]) if None in row else sum(map(bool, row.values()))
                raise ValueError(
                    f"{path}, line {table.line_num}, has {fields} fields, but its header has "
                    f"{width}: {', '.join(table.fieldnames)[:200]}."
                )
            yield table.line_num, row
    finally:
        csv.field_size_limit(before)


def _conll(path: Path) -> Iterator[tuple[int, dict]]:
    words: list[str] = []
    tags: list[str] = []
    number = 0
    for number, line in enumerate(_lines(path), start=1):
        line = line.rstrip("\r\n")
        if line.startswith("-DOCSTART-") or (line.startswith("# ") and " = " in line):
            continue
        if line.strip():
            tabbed = "\t" in line
            fields = line.strip(" ").split("\t") if tabbed else line.split(" ")
            fields = [field.strip() for field in fields if field or tabbed]
            if len(fields) == CONLL_U and not fields[0].isdigit():  # "3-4", several words at once
                continue
            word, tag = fields[1:4:2] if len(fields) == CONLL_U else (fields[0], fields[-1])
            if len(fields) < 2 or not tag:
                raise ValueError(f"{path}, line {number}, must be a word and its tag.")
            words.append("".join(word.split()) or "_")  # no spaces inside a word
            tags.append(tag)
        elif words:
            yield number, {"input": " ".join(words), "target": " ".join(tags)}
            words, tags = [], []
    if words:
        yield number, {"input": " ".join(words), "target": " ".join(tags)}
