"""What a run, an adapter or a base is asked: a text of the command line, or the rows of --data.

What no flag says is as in the training of the run, or of the run that an adapter comes from.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from minipeft import tasks
from minipeft.commands import data, forms, runs
from minipeft.tasks import chat, tables
from minipeft.tasks.encoding import Example, join
from minipeft.tasks.tasks import tidied


class Reading(NamedTuple):
    """How --data is read.

    input, target: its columns, None where nobody names them.  columns: all of them, where the file
    has no header.  kind: as a Task spells it, None where nobody says it.
    """

    input: str | None
    target: str | None
    columns: str | None
    kind: str | None

    def where(self, path: str) -> tuple[forms.Columns, dict[str, str]]:
        """(where questions and answers stand in the file, its first row)."""
        row = tables.first(path, forms.names_of(self.columns))
        return forms.columns_of(path, row, self.input, self.target, self.kind), row


def reading(given: argparse.Namespace) -> Reading:
    """As the flags say, else as in training; of conversations in --input, the answers are there."""
    flags, before, run = vars(given), runs.options_of(given.what), runs.run_of(given.what)
    columns, target = columns_like(given.data, flags.get("columns"), before), flags.get("target")
    if target is None and before.get("target"):
        row = tables.first(given.data, forms.names_of(columns)) if given.input else {}
        whole = chat.is_chat(forms.listed(row.get(given.input) or ""))
        target = None if whole and before["target"] not in row else before["target"]
    kind = run[1]["task"]["kind"] if run else flags.get("kind")
    return Reading(given.input or before.get("input"), target, columns, kind)


def columns_like(path: str, given: str | None, before: dict) -> str | None:
    """--columns, or those of a run's training where a file of this kind has them named.

    A file may have the header that the training's had not.
    """
    names = forms.names_of(before.get("columns"))
    if given or names is None or tables.ending(Path(path)) not in tables.WITHOUT_NAMES:
        return given
    with suppress(ValueError):  # where its first line cannot be a header
        if tuple(tables.first(path)) == names:
            return None
    return before["columns"]


def kind_of(given: argparse.Namespace) -> str | None:
    """--kind as a Task spells it, or what --data shows where no run tells it; None for neither."""
    if given.kind or not given.data or data.is_shipped(given.data):
        return data.spelt(given.kind)
    return data.spelt(forms.implied_kind(given, given.what))


def examples(
    given: argparse.Namespace, split: str
) -> tuple[tuple[Example, ...], str | None, tuple[str, ...] | None]:
    """(examples of --data, kind, labels), of a task of the project those of a split.

    given.kind: as `kind_of` gives it. Kind and labels are for what no run tells.
    """
    wrapping = forms.wrapping(given, given.what)
    if data.is_shipped(given.data):
        task = tasks.load(given.data)
        return wrapping.examples(task.examples(split)), given.kind or task.kind, task.labels
    how = reading(given)
    cut = given.cut or runs.options_of(given.what).get("cut")
    rows = data.read(given.data, how.input, how.target, cut, how.columns, how.kind, wrapping)
    rows, labels = tidied(how.kind, rows), None
    if given.kind:
        labels = runs.labels_of(given.what) or data.labels_of(given.kind, rows, fewest=1)
    return rows, given.kind, labels


def lacking(given: argparse.Namespace) -> str | None:
    """The column of answers that the file --data has not; None where it has answers."""
    columns, row = reading(given).where(given.data)
    return None if columns.answer is None or columns.answer in row else columns.answer


def questions(given: argparse.Namespace) -> list[tuple[str, dict[str, str]]]:
    """(text, row) of every row of the file --data."""
    how = reading(given)
    columns, _ = how.where(given.data)
    names = forms.names_of(how.columns)
    rows = forms.read(given.data, columns, names, answered=False, kind=how.kind)
    return [(text, row) for text, _, row in rows]


def pair(text: str, given: argparse.Namespace) -> str:
    """A text of the command line; a run that was trained on pairs reads "premise | hypothesis".

    Of what is to be written, messages as JSON are a conversation, as in a file.

    Raises:
        ValueError: the run reads pairs, and this is one text; or a conversation asks nothing.
    """
    run = runs.run_of(given.what)
    kind = run[1]["task"]["kind"] if run else vars(given).get("kind")
    messages = forms.listed(text) if kind in (None, "generate") else text
    if chat.is_chat(messages):
        return chat.asked(chat.messages_of(messages), "The text")
    columns = given.input or runs.options_of(given.what).get("input") or "input"
    if columns.count(",") != 1:
        return text
    texts = text.split(" | ")
    if len(texts) != 2:
        raise ValueError(
            f"{given.what} reads pairs of texts ({columns}): write both with a bar between them, "
            '"one text | the other", or give --data.'
        )
    return join(*texts)
