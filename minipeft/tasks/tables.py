"""Rows of a data file. What is wrong with a file is one sentence.

    tables.read("train.tsv")        # [{"sentence": "a fine film", "label": "1"}, ...]

| file           | what it holds                                                                  |
|----------------|--------------------------------------------------------------------------------|
| .jsonl, .ndjson| an object on every line                                                        |
| .json          | a list of objects, also as the only list in an object ({"data": [...]})        |
| .csv           | a header and rows, fields that hold a comma in quotes; where the header has no |
|                | comma, semicolons, tabs or bars part the columns                               |
| .tsv           | a header and rows; quotes are signs, unless every field that begins with one   |
|                | ends with one                                                                  |
| .conll, .conllu| a word and its tag on every line, an empty line between sentences              |
| .parquet       | columns, read by pyarrow                                                       |
| a folder       | what `Dataset.save_to_disk` of 🤗 datasets wrote, read by pyarrow              |

Each but .parquet may be packed (.gz, .bz2, .xz), upper-case endings are the same, and `names` names
the columns of a table without a header. A .conll file becomes the columns "input" (words with
spaces between them) and "target" (as many tags); which columns these are says `conll`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from minipeft.tasks import arrow, chat, conll, reading, separated
from minipeft.tasks.conll import are_sentences, spaced
from tiny_transformer.files import check_fetched

ENDINGS = (".jsonl", ".ndjson", ".json", ".tsv", ".csv", ".conll", ".conllu", ".parquet")
WITHOUT_NAMES = (".csv", ".tsv", ".conll", ".conllu")  # their columns can be named
BECOME = {  # kinds of files that cannot be read -> what to do with them
    "unpack it": (".zst", ".zip", ".7z", ".tar", ".tgz"),
    "save it as .csv": (".xlsx", ".xls", ".ods"),
    "save it as .parquet": (".feather", ".arrow", ".orc", ".pkl", ".h5", ".avro", ".db", ".sqlite"),
}


def read(
    path: str | Path,
    columns: tuple[str, ...] = (),
    names: tuple[str, ...] | None = None,
    sentences: bool = False,
    single: str | None = None,
    words: bool = False,
    unsaid: tuple[str, ...] = (),
) -> list[dict[str, str]]:
    """All rows as text; `columns` must be there, and filled, in every row.

    Args:
        names: of the columns of a .csv or .tsv file whose first line is no header.
        sentences: a list in `columns` whose texts have spaces in them is refused: they are no words
            to be joined.
        single: a column that holds one value in every row, and no list of several.
        words: a list holds words, or their tags: a space inside one is written as "␣".
        unsaid: columns that must be empty or not there, since no text could say what is in them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, another encoding than UTF-8, nothing in it, a line that is
            broken, empty or too long, a row with more or fewer fields than the header has, a column
            twice in the header, a package that is needed and not installed.
    """
    return list(_rows(Path(path), names, Wanted(columns, sentences, single, words, unsaid)))


def first(path: str | Path, names: tuple[str, ...] | None = None) -> dict[str, str]:
    """The first row of a file. Errors are those of `read`."""
    with closing(_rows(Path(path), names, Wanted(), only_first=True)) as rows:
        return next(rows)


def ending(path: Path) -> str:
    """The ending of a file's name, in lower case: ".csv" of Train.CSV.gz."""
    name = path.name.lower()
    if Path(name).suffix in reading.PACKED:
        name = name.removesuffix(Path(name).suffix)
    return Path(name).suffix


def is_table(path: str | Path) -> bool:
    """Does this name a data file, by its ending, or a folder of 🤗 datasets?"""
    return ending(Path(path)) in ENDINGS or arrow.is_dataset(Path(path).expanduser())


def check_place(path: Path, names: tuple[str, ...] | None) -> None:
    """Is there a file that can be read?

    Raises:
        FileNotFoundError, ValueError: there is none; what is there instead.
    """
    if re.match("[a-z0-9]+:/", str(path)):  # of :// a path keeps one stroke
        address = str(path).replace(":/", "://", 1)
        raise ValueError(f"{address} is an address, not a file: fetch it first, and name the file.")
    if not path.is_file() and not arrow.is_dataset(path):
        files = sorted(each for each in path.iterdir() if is_table(each)) if path.is_dir() else []
        if files:
            raise FileNotFoundError(
                f"{path} is a folder: name one of its files, such as {files[0]} (it has "
                f"{', '.join(each.name for each in files)[:200]})."
            )
        what = "is a pipe or a device, no file" if path.exists() else "does not exist"
        what = "is a folder without data" if path.is_dir() else what
        what = "is no file: write what a program prints into one" if str(path) == "-" else what
        what += ": put all rows into one file" * bool(set("*?") & set(path.name))
        raise FileNotFoundError(f"{path} {what}; give a {', '.join(ENDINGS)} file.")
    if path.is_file() and ending(path) not in ENDINGS:
        known = [how for how, kinds in BECOME.items() if path.suffix.lower() in kinds]
        how = known[0] if known else "rename it, or convert it to one of them"
        raise ValueError(f"{path} is not {', '.join(ENDINGS)}: {how}.")
    if names is not None and ending(path) not in WITHOUT_NAMES:
        raise ValueError(f"{path} names its columns by itself: leave --columns away.")


class Wanted(NamedTuple):
    """What rows must have: the arguments of `read` by these names."""

    columns: tuple[str, ...] = ()
    sentences: bool = False
    single: str | None = None
    words: bool = False
    unsaid: tuple[str, ...] = ()


def _rows(
    path: Path, names: tuple[str, ...] | None, wanted: Wanted, only_first: bool = False
) -> Iterator[dict[str, str]]:
    """The rows one by one; or the first, of which others need not be read."""
    path = path.expanduser()
    if ending(path) not in ENDINGS and path.is_symlink():
        path = path.resolve()  # then the file's name tells what it is
    check_place(path, names)
    if path.is_file():
        check_fetched(path)
    empty = True
    try:
        for number, values in _numbered(path, names, only_first):
            row = {key: _text(value, wanted.words) for key, value in values.items()}
            check_row(path, number, values, row, wanted)
            lack = next((column for column in wanted.columns if row.get(column) is None), None)
            if lack:
                raise ValueError(lacking(path, number, lack, values, names))
            empty = False
            yield row
    except UnicodeDecodeError:
        raise ValueError(reading.not_text(path)) from None
    if empty:
        raise ValueError(f"{path} has no rows: it needs at least one example.")


def check_row(path: Path, number: int, values: dict, row: dict, wanted: Wanted) -> None:
    """Refuse a row whose columns hold what cannot be used.

    values: as the file has them.  row: the same as text, None where they are none.

    Raises:
        ValueError: such a column; the number of its line is told.
    """
    where = f"{path}, line {number}"
    if half := next((key for key, text in row.items() if text and is_half(text)), None):
        raise ValueError(
            f"{where}, has half a character (\\ud800 to \\udfff alone) in {half!r}, as is left "
            "when a text is cut between two halves: mend it, or leave the row out."
        )
    several = values.get(wanted.single)
    if isinstance(several, list) and len(several) > 1 and not isinstance(several[0], dict):
        raise ValueError(
            f"{where}, has a list in {wanted.single!r} where one answer belongs: make one label of "
            "the list, or a row of each."
        )
    if lost := next((column for column in wanted.unsaid if values.get(column)), None):
        raise ValueError(f"{where}, has {lost!r}, which no message says: leave it or the row out.")
    for column in wanted.columns:
        filled = values.get(column) if row.get(column) is None else row[column].strip()
        if column in row and not filled:
            raise ValueError(f"{where}, has nothing in {column!r}: fill it, or leave the row out.")
        if wanted.sentences and are_sentences(values.get(column)):
            raise ValueError(
                f"{where}: {column!r} is a list of texts: write a row for each; answers of rows "
                "with the same input are references of one another."
            )


def lacking(
    path: Path, number: int, column: str, values: dict, names: tuple[str, ...] | None
) -> str:
    """Why a row cannot give a column, in one sentence."""
    where = f"{path}, line {number}"
    if values.get(column) is not None:
        return f"{where}: {column!r} must be text, a number or a list of words."
    if ending(path) in (".conll", ".conllu") and names is None and column == "target":
        return f"{where}, must be a word and its tag."
    filled = [key for key in values if key and values[key] is not None]
    said = ", ".join(key if key == key.strip() else repr(key) for key in filled)[:200]
    other = ""
    if ending(path) in (".csv", ".tsv") and names is None:
        other = "; a file without a header needs --columns"
        sign = next((s for s in ",;|" if len(values) == 1 and s in "".join(values)), None)
        if sign and ending(path) == ".tsv":
            return (
                f"{path} has one column only, {said}: a .tsv file has tabs between its columns, "
                f"not {sign!r}, so name it .csv."
            )
    return (
        f"{where}, has no {column!r}, only {said or 'nothing'}: name its columns with input= and "
        f"target= (--input and --target{other})."
    )


def _numbered(
    path: Path, names: tuple[str, ...] | None, only_first: bool
) -> Iterator[tuple[int, dict]]:
    """(number of the line or row, row) by the kind of file."""
    kind = ending(path)
    if path.is_dir() or kind == ".parquet":
        yield from arrow.rows(path)
    elif kind in (".csv", ".tsv"):
        yield from separated.rows(path, names, tabs=kind == ".tsv")
    elif kind in (".conll", ".conllu"):
        yield from conll.rows(reading.lines(path), path, names)
    elif only_first and kind == ".json" and (row := _first_of_list(path)):
        yield 1, row
    else:
        yield from (_json if kind == ".json" else _jsonl)(path)


def _first_of_list(path: Path) -> dict | None:
    """The first object of a list in JSON; None where the file begins with something else."""
    with reading.opened(path) as file:
        text = file.read(reading.LONGEST)
    start = re.match(r"\s*\[\s*(?={)", text)
    if start is None:
        return None
    try:
        return json.JSONDecoder(object_pairs_hook=_object).raw_decode(text, start.end())[0]
    except (ValueError, RecursionError):  # longer than what was read, or with a mistake in it
        return None


def _json(path: Path) -> Iterator[tuple[int, dict]]:
    """A list of objects, alone or as the only list of an object; else an object on every line."""
    with reading.opened(path) as file:
        text = file.read()
    reading.check_zeros(path, text, 1)
    try:
        whole = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"{path} is not JSON: it is nested too deeply.") from None
    except Twice as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    except ValueError as error:
        if text.lstrip().startswith("["):  # a list with a mistake in it
            raise ValueError(f"{path} is not JSON: {error}.") from None
        yield from _jsonl(path)
        return
    rows, other = whole, ""
    if isinstance(whole, dict):  # a list in it may be the table, or the words of the only row
        lists = [value for value in whole.values() if _are_rows(value)]
        rows = lists[0] if len(lists) == 1 else [whole]
        other = not_a_row(whole) if len(lists) != 1 else ""
    if other or not _are_rows(rows):
        raise ValueError(
            f"{path} is not a list of rows{other}: write "
            '[{"input": "...", "target": "..."}, ...], or one such object a line.'
        )
    yield from enumerate(rows, start=1)


def not_a_row(whole: dict) -> str:
    """What an object is that is the whole of a file, and no row; nothing where it may be one."""
    values = list(whole.values())
    by_columns = ', but a table by columns (pandas writes rows with orient="records")'
    if len(values) > 1 and all(isinstance(value, dict) for value in values):
        return by_columns
    if len(values) > 1 and all(isinstance(value, list) for value in values):
        if any(isinstance(each, dict) for value in values for each in value):
            return f", but several ({', '.join(whole)[:100]}; a file holds one)"
        if len(values[0]) != 1 and len(set(map(len, values))) == 1:
            return by_columns
    if whole.keys() >= {"columns", "data"}:
        return by_columns
    return f", but one object with {len(whole):,} names" if len(whole) > 1000 else ""


def _are_rows(value: object) -> bool:
    """Is it a list of rows?"""
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


class Twice(ValueError):
    """A name is twice in one object."""


def _object(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object.

    Raises:
        Twice: a name is in it twice, so that one of its values would be lost.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Twice(f"an object has {twice!r} twice")
    return row


def _jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(reading.lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            reason = error if isinstance(error, ValueError) else "it is nested too deeply"
            if isinstance(error, json.JSONDecodeError):  # its own place tells of a line 1
                place = min(error.pos, len(line.rstrip())) + 1
                reason = f"{error.msg}, at sign {place}; mend the line, or leave it out"
            raise ValueError(f"{path}, line {number}, is not JSON: {reason}.") from None
        if not isinstance(row, dict):
            whole = " (if this is a list of all rows, name the file .json)"
            raise ValueError(
                f"{path}, line {number}, has no columns{whole * isinstance(row, list)}: write an "
                'object such as {"input": "...", "target": "..."}.'
            )
        yield number, row


def is_half(text: str) -> bool:
    """Is there a half of a character in a text, which no file and no tokenizer could take?"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _text(value, words: bool) -> str | None:
    """A JSON value as text, None where it is none; a list of words or tags is joined by spaces.

    A number that is none (NaN) is a field with nothing in it; messages are a conversation.
    """
    if isinstance(value, list) and value and _are_rows(value):
        return chat.written(value)
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(word, str | int) for word in value):
        return spaced(value) if words else spaced(value, " ")
    return value if isinstance(value, str) else None
