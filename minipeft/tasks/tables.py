"""Rows of a data file. What is wrong with a file is one sentence.

    tables.read("train.tsv")        # [{"sentence": "a fine film", "label": "1"}, ...]

| file           | what it holds                                                                  |
|----------------|--------------------------------------------------------------------------------|
| .jsonl         | an object on every line                                                        |
| .json          | a list of objects, also as the only list in an object ({"data": [...]})        |
| .csv           | a header and rows, fields that hold a comma in quotes                          |
| .tsv           | a header and rows; quotes are signs, unless every field that begins with one   |
|                | ends with one                                                                  |
| .conll, .conllu| a word and its tag on every line, an empty line between sentences              |
| .parquet       | columns, read by pyarrow                                                       |
| a folder       | what `Dataset.save_to_disk` of 🤗 datasets wrote, read by pyarrow              |

Each may end in .gz as well, upper-case endings are the same, and `names` names the columns of a
table without a header.

A .conll file becomes the columns "input" (words with spaces between them) and "target" (as many
tags). Of more columns, as in CoNLL-2003, the first is the word and the last the tag; of the ten of
CoNLL-U the second and the fourth (the part of speech). Lines that begin a document (-DOCSTART-) are
left out, and comments (# name = value).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from minipeft.tasks import arrow

CONLL_U = 10  # its columns
ENDINGS = (".jsonl", ".json", ".tsv", ".csv", ".conll", ".conllu", ".parquet")
LONGEST = 1_000_000  # characters of a line; what is longer is no text to train on


def read(
    path: str | Path, columns: tuple[str, ...] = (), names: tuple[str, ...] | None = None
) -> list[dict[str, str]]:
    """All rows as text; `columns` must be there, and filled, in every row.

    Args:
        names: of the columns of a .csv or .tsv file whose first line is no header.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, another encoding than UTF-8, nothing in it, a line that is
            broken, empty or too long, a row with more or fewer fields than the header has, a column
            twice in the header, a package that is needed and not installed.
    """
    return list(_rows(Path(path), columns, names))


def has_column(path: str | Path, column: str, names: tuple[str, ...] | None = None) -> bool:
    """Has the first row of a file this column? Errors are those of `read`."""
    with closing(_rows(Path(path), (), names)) as rows:
        return column in next(rows)


def ending(path: Path) -> str:
    """What kind of file a name says: in lower case, without .gz."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def is_table(path: str | Path) -> bool:
    """Does this name a data file, by its ending, or a folder of 🤗 datasets?"""
    return ending(Path(path)) in ENDINGS or arrow.is_dataset(Path(path))


def _rows(
    path: Path, columns: tuple[str, ...], names: tuple[str, ...] | None
) -> Iterator[dict[str, str]]:
    """The rows one by one."""
    if not path.is_file() and not arrow.is_dataset(path):
        raise FileNotFoundError(f"{path} does not exist; give a {', '.join(ENDINGS)} file.")
    if path.is_file() and ending(path) not in ENDINGS:
        raise ValueError(f"{path} is not {', '.join(ENDINGS)}; convert it to one of them.")
    if names is not None and ending(path) not in (".csv", ".tsv"):
        raise ValueError(f"{path} names its columns by itself: leave --columns away.")
    empty = True
    try:
        for number, row in _numbered(path, names):
            for column in columns:
                if row.get(column) is not None and not row[column].strip():
                    raise ValueError(
                        f"{path}, line {number}, has nothing in {column!r}: fill it, or leave the "
                        "row out."
                    )
                if row.get(column) is None:
                    filled = ", ".join(key for key in row if row[key] is not None)[:200]
                    table = ending(path) in (".csv", ".tsv") and names is None
                    other = "; a file without a header needs --columns" if table else ""
                    raise ValueError(
                        f"{path}, line {number}, has no {column!r}, only "
                        f"{filled or 'nothing'}: name its columns with input= and target= (--input "
                        f"and --target{other})."
                    )
            empty = False
            yield row
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start} of a part of it): save it as UTF-8."
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ValueError(f"{path} is not a whole gzip file: fetch it again.") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a table that can be read: {error}.") from None
    if empty:
        raise ValueError(f"{path} has no rows: it needs at least one example.")


def _numbered(path: Path, names: tuple[str, ...] | None) -> Iterator[tuple[int, dict]]:
    """(number of the line or row, row) by the kind of file."""
    if path.is_dir() or ending(path) == ".parquet":
        for number, row in arrow.rows(path):
            yield number, {key: _text(value, path, number, key) for key, value in row.items()}
    elif ending(path) in (".csv", ".tsv"):
        yield from _separated(path, names)
    else:
        reader = {".jsonl": _jsonl, ".json": _json}.get(ending(path), _conll)
        yield from reader(path)


def _open(path: Path) -> io.TextIOBase:
    """UTF-8 text, unpacked where it is packed; a byte-order mark is skipped."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _lines(path: Path) -> Iterator[str]:
    """Lines of sensible length, with their ends."""
    with _open(path) as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise ValueError(
                    f"{path}, line {number}, is longer than {LONGEST:,} characters: cut it."
                )
            yield line


def _json(path: Path) -> Iterator[tuple[int, dict]]:
    """A list of objects, alone or as the only list of an object; else an object on every line."""
    with _open(path) as file:
        text = file.read()
    try:
        whole = json.loads(text)
    except RecursionError:
        raise ValueError(f"{path} is not JSON: it is nested too deeply.") from None
    except ValueError:
        yield from _jsonl(path)
        return
    lists = [v for v in whole.values() if isinstance(v, list)] if isinstance(whole, dict) else []
    rows = lists[0] if len(lists) == 1 else [whole] if isinstance(whole, dict) else whole
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{path} is not a list of rows: write "
            '[{"input": "...", "target": "..."}, ...], or one such object a line.'
        )
    for number, row in enumerate(rows, start=1):
        yield number, {key: _text(value, path, number, key) for key, value in row.items()}


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


def _separated(path: Path, names: tuple[str, ...] | None) -> Iterator[tuple[int, dict]]:
    before = csv.field_size_limit(LONGEST)
    try:
        table = _table(path, names)
        heads = list(table.fieldnames or ())
        twice = next((name for name in heads if heads.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"{path} has the column {twice!r} twice in its header: rename one of the two, "
                "since only one of them could be read."
            )
        for row in table:
            width = len(heads)
            if None in row or None in row.values():
                fields = width + len(row[None]) if None in row else sum(map(bool, row.values()))
                what = "--columns names" if names else "its header has"
                raise ValueError(
                    f"{path}, line {table.line_num}, has {fields} fields, but {what} "
                    f"{width}: {', '.join(heads)[:200]}."
                )
            yield table.line_num, row
    finally:
        csv.field_size_limit(before)


def _table(path: Path, names: tuple[str, ...] | None) -> csv.DictReader:
    if ending(path) == ".csv":
        return csv.DictReader(_lines(path), names, strict=True)
    lines = list(_lines(path))
    quoted = _is_quoted(lines)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return csv.DictReader(lines, names, delimiter="\t", quoting=quoting, strict=quoted)


def _is_quoted(lines: list[str]) -> bool:
    """Do quotes wrap the fields of a .tsv file, or are they signs of its texts?

    They are signs where the table fits without them, unless every field that begins with one ends
    with one; where it does not fit, some field in quotes holds a tab or the end of a line.
    """
    widths, fields = set(), []
    for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        widths |= {len(row)} - {0}
        fields += [field for field in row if field.startswith('"')]
    if not fields:
        return False
    try:
        quoted = {len(row) for row in csv.reader(lines, delimiter="\t", strict=True)} - {0}
    except csv.Error:
        return False
    whole = all(len(field) > 1 and field.endswith('"') for field in fields)
    return whole if len(widths) == 1 else len(quoted) == 1


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
