"""Rows of .csv and .tsv files, by the csv module.

A .csv file may have semicolons, tabs or bars between its columns, as Excel writes it in many
countries, where its first line has none of the commas. That line may be "sep=;", as Excel knows it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from minipeft.tasks import reading

SIGNS = ",;\t|"  # between the columns of a .csv file
SEP = re.compile(r'"?sep=(.)"?\s*', re.I)


def rows(path: Path, names: tuple[str, ...] | None, tabs: bool) -> Iterator[tuple[int, dict]]:
    """(number of its last line, row) of every row.

    Args:
        names: of the columns, where the first line is no header.
        tabs: is it a .tsv file?

    Raises:
        ValueError: no table, another number of fields in a row, a column twice.
    """
    before, table, left_out = csv.field_size_limit(reading.LONGEST), None, 0
    try:
        table, left_out = _tabbed(path, names) if tabs else _parted(path, names)
        heads = list(table.fieldnames or ())
        reading.check_names(path, heads)
        for row in table:
            width, number = len(heads), table.line_num + left_out
            if [*row.values()] == heads:
                how = "leave --columns away" if names else "leave the line out"
                raise ValueError(f"{path}, line {number}, names the columns itself: {how}.")
            if None in row or None in row.values():
                given = sum(value is not None for value in row.values())
                fields = width + len(row[None]) if None in row else given
                what = "--columns names" if names else "its header has"
                sign = "a tab" if tabs else repr(table.reader.dialect.delimiter)
                how = f"put quotes around a field with {sign} in it" if None in row else ""
                raise ValueError(
                    f"{path}, line {number}, has {fields} fields, but {what} "
                    f"{width} ({', '.join(heads)[:200]}): {how or 'give every row as many'}."
                )
            yield number, row
    except csv.Error as error:
        place = f", line {table.line_num + left_out + 1}," if table else ""  # where the row begins
        what = "a field in quotes does not end" if "end of data" in str(error) else error
        raise ValueError(f"{path}{place} is not a table that can be read: {what}.") from None
    finally:
        csv.field_size_limit(before)


def _parted(path: Path, names: tuple[str, ...] | None) -> tuple[csv.DictReader, int]:
    """(the table of a .csv file, how many lines before it were left out)."""
    lines, sign, left_out = reading.lines(path), None, 0
    for first in lines:
        said = SEP.fullmatch(first)
        if first.strip() and not said:
            sign = sign or sign_of(first, names)
            return csv.DictReader(
                chain([first], lines), names, delimiter=sign, strict=True
            ), left_out
        sign, left_out = said[1] if said else sign, left_out + 1
    return csv.DictReader([], names), left_out


def sign_of(first: str, names: tuple[str, ...] | None) -> str:
    """What stands between the columns of a .csv file, by its first line: commas where it may be."""
    widths = {sign: len(next(csv.reader([first], delimiter=sign))) for sign in SIGNS}
    fits = [sign for sign, n in widths.items() if (n == len(names) if names else n > 1)]
    return (fits or [","])[0]


def _tabbed(path: Path, names: tuple[str, ...] | None) -> tuple[csv.DictReader, int]:
    """(the table of a .tsv file, 0)."""
    lines = list(reading.lines(path))
    quoted = _is_quoted(lines)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return csv.DictReader(lines, names, delimiter="\t", quoting=quoting, strict=quoted), 0


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
