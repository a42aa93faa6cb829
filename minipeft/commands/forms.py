"""Files as people bring them for fine-tuning: which columns hold what, and conversations in them.

| columns of the file       | what is read, where neither --input nor --target is given            |
|---------------------------|----------------------------------------------------------------------|
| input, target             | a text and its answer                                                |
| messages, conversations   | a conversation, in OpenAI's form or in ShareGPT's                    |
| prompt, completion        | a text and its answer, or messages                                   |
| instruction, input, output| Alpaca's: the input, which may be empty, stands behind instruction   |

The last three are for text-to-text; a column `system` in them is the message of the system. With
--chat a plain text is what a user says, and its answer what the assistant says. A column of text,
as a .csv file has it, may hold messages as JSON, or as Python prints them; for tagging, lists of
words and tags.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from minipeft.commands import runs
from minipeft.tasks import chat, tables
from minipeft.tasks.conll import spaced
from minipeft.tasks.encoding import PAIR, Example, join

ANSWERS = {  # column of the questions -> column of the answers
    "messages": None,
    "conversations": None,
    "conversation": None,
    "prompt": "completion",
    "instruction": "output",
}
QUESTIONS = ("prompt", "question", "instruction", "input")  # columns of them beside `chosen`
UNSAID = ("tools", "functions", "history")  # columns of conversations that no message says


class Columns(NamedTuple):
    """texts: of the question.  answer: None where the conversation holds it.  known: by the file,
    and not by --input or --target."""

    texts: tuple[str, ...]
    answer: str | None = "target"
    known: bool = False


def add_flags(group) -> None:
    """--chat and --system."""
    group.add_argument(
        "--chat",
        action="store_true",
        default=None,
        help="a plain text is what a user says: write it with the base's chat template (data of "
        "conversations, and a run that was trained on them, need no --chat)",
    )
    group.add_argument(
        "--system",
        metavar="TEXT",
        help="message of the system, for conversations that have none (default for texts: the one "
        "that all conversations of the training had)",
    )


def names_of(columns: str | None) -> tuple[str, ...] | None:
    """--columns as names."""
    return None if columns is None else tuple(name.strip() for name in columns.split(","))


def columns_of(
    path: str, row: dict[str, str], input: str | None, target: str | None, kind: str | None
) -> Columns:
    """Where the questions and answers of a file stand, by its first row.

    Raises:
        ValueError: it holds preferences.
    """
    texts, writes = (input or "input",), kind in (None, "generate")
    cell = row.get(texts[0]) or ""
    if input and not target and chat.is_chat(listed(cell) if writes else cell):
        return Columns(texts, None)
    if input or target or not writes or {"input", "target"} <= row.keys():
        if texts[0].count(",") == 1 and texts[0] not in row:
            texts = tuple(name.strip() for name in texts[0].split(","))
        return Columns(texts, target or "target")
    check_preferences(path, row)
    for question, answer in ANSWERS.items():
        beside = question == "prompt" and "input" in row and answer not in row  # of an input
        if row.get(question) is not None and not beside:
            return Columns((question,), answer, known=True)
    return Columns(texts)


def check_preferences(path: str, row: dict[str, str]) -> None:
    """Refuse answers of which some are not to be learnt; row: the first one.

    Raises:
        ValueError: they are; the sentence has the flags that read them nevertheless.
    """
    if {"chosen", "rejected"} <= row.keys():
        asks = next((name for name in QUESTIONS if row.get(name)), "")
        chosen = listed(row["chosen"] or "")
        messages = chat.messages_of(chosen, f"{path}, row 1") if chat.is_chat(chosen) else ()
        flags = f"give --input {asks} --target chosen --kind text-to-text"
        if messages and messages[0]["role"] != "assistant":  # the question is in it
            flags = "give --input chosen --kind text-to-text"
        elif not asks:
            flags = "give the question a column of its own, and --input COLUMN --target chosen"
        raise ValueError(
            f"{path} holds pairs of a chosen and a rejected answer, which `prefer` of "
            f"minipeft.training.preferences learns from in Python: to learn what was chosen, "
            f"{flags}."
        )
    liked = (row.get("label") or "").lower() in ("true", "false")
    if liked and {"prompt", "completion"} <= row.keys():
        raise ValueError(
            f"{path} says by 'label' whether an answer was liked, and those that were not would be "
            "learnt as well: leave these rows and the column out, or give --input prompt --target "
            "completion --kind text-to-text to learn all of them."
        )


def implied_kind(given: argparse.Namespace, what: str | None = None) -> str | None:
    """Text-to-text, where --data holds conversations and no run says the kind; for no --kind."""
    if what and runs.run_of(what):
        return None
    row = tables.first(given.data, names_of(given.columns))
    columns = columns_of(given.data, row, given.input, vars(given).get("target"), None)
    text = listed(row.get(columns.texts[0]) or "")
    return "text-to-text" if given.chat or chat.is_chat(text) else None


def read(
    path: str, columns: Columns, names, answered: bool, kind: str | None
) -> list[tuple[str, str, dict[str, str]]]:
    """(question, answer or "", row) of every row; the two columns of a pair are one text.

    answered: rows must have answers. Else the last answer of a conversation is left out.

    Raises:
        ValueError: a row that cannot be used, by its number.
    """
    if len({*columns.texts, columns.answer if answered else None}) <= len(columns.texts):
        names = ", ".join((*columns.texts, columns.answer or ""))
        raise ValueError(
            f"{path}: --input and --target name a column twice ({names}): an answer that stands in "
            "its question would only be copied."
        )
    writes = kind in (None, "generate")
    needed = (*columns.texts, *([columns.answer] if answered and columns.answer else []))
    examples = []
    single = columns.answer if answered and kind in ("classify", "regress") else None
    words, unsaid = kind in (None, "tag"), UNSAID if columns.known else ()
    rows = tables.read(path, needed, names, kind == "generate", single, words, unsaid)
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        text = join(*(row[name] for name in columns.texts))
        if columns.known:
            text = question(row, columns, where)
        answer = row[columns.answer] if answered and columns.answer else ""
        if kind == "tag" and tables.ending(Path(path)) in (".csv", ".tsv"):
            text, answer = words_of(text, answer, where)
        if writes:
            text, answer = listed(text), listed(answer)
        if columns.answer is None and not chat.is_chat(text):
            raise ValueError(f"{where}: {columns.texts[0]!r} {chat.NO_MESSAGES}")
        if writes and (chat.is_chat(text) or chat.is_chat(answer)):
            text, answer = conversation(text, answer, columns.answer is None, answered, where)
        examples.append((text, answer, row))
    return examples


def listed(text: str) -> str:
    """Messages as JSON, or as Python prints them, are a conversation; another text is as it is."""
    messages = parsed(text) if text.lstrip().startswith("[{") else ()
    if messages and isinstance(messages[0], dict) and {"role", "from"} & messages[0].keys():
        return chat.written(messages)
    return text


def parsed(text: str) -> list | None:
    """The list that a text is, as JSON or as Python prints it; None of another text."""
    text = text.strip()
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        value = ast.literal_eval(text)
        return value if isinstance(value, list) and str(value) == text else None
    return None


def words_of(text: str, tags: str, where: str) -> tuple[str, str]:
    """Words and their tags, with spaces between them, of cells that hold lists of them.

    Raises:
        ValueError: a list that is neither JSON nor Python's, as numpy prints one without commas.
    """
    if not re.fullmatch(r"""\s*\[["'].*["']\]\s*""", text, re.DOTALL):
        return text, tags
    lists = [parsed(each) if each else [] for each in (text, tags)]
    if not all(isinstance(each, list) for each in lists):
        raise ValueError(
            f"{where}, has a list of words that is no JSON: write words and tags with a space "
            "between them, or save the table as .jsonl."
        )
    words, kinds = map(spaced, lists)
    return words, kinds


def question(row: dict[str, str], columns: Columns, where: str) -> str:
    """The question of a row whose columns are known, with the system's message before it."""
    name = columns.texts[0]
    text = listed(row[name])
    if name == "instruction" and (row.get("input") or "").strip():
        text = f"{text}\n\n{row['input']}"
    if system := (row.get("system") or "").strip():
        return chat.written(chat.with_system(chat.messages_of(text, where), system))
    return text


def conversation(
    text: str, answer: str, whole: bool, answered: bool, where: str
) -> tuple[str, str]:
    """(conversation that asks, its answer); whole: the text holds the answer, too.

    Where the answers stand in a column, what the assistant says in the other is not learnt.

    Raises:
        ValueError: a message that cannot be read, or no question or answer.
    """
    messages = chat.messages_of(text, where)
    if not answered:
        return chat.asked(messages, where), ""
    if whole:
        return chat.example(messages, where)
    messages = [m | {"weight": 0} if m["role"] == "assistant" else m for m in messages]
    return chat.answered(messages, answer, where)


class Wrapping(NamedTuple):
    """What comes around texts before a model reads them.

    chat: plain texts are what a user says.  system: of every conversation that has none.
    default: instead of it, of plain texts.  plain: the run, or the file, of no conversations.
    """

    chat: bool = False
    system: str | None = None
    default: str | None = None
    plain: str | None = None

    def around(self, texts: Sequence[str]) -> list[str]:
        """The texts as inputs; where one is a conversation, all are.

        Raises:
            ValueError: conversations for a run that has learnt plain texts, or --system without.
        """
        is_any = self.chat or any(map(chat.is_chat, texts))
        if is_any and self.plain:
            raise ValueError(
                f"{self.plain} is of plain texts, without a chat template, which conversations do "
                "not fit: give texts such as those, without --chat."
            )
        if not is_any and self.system is not None:
            raise ValueError("--system is for conversations: give --chat as well.")
        return [self.one(text) for text in texts] if is_any else list(texts)

    def one(self, text: str) -> str:
        """A text, or a conversation, as the input of a conversation."""
        if chat.is_chat(text):
            return chat.written(chat.with_system(chat.messages_of(text), self.system))
        system = self.default if self.system is None else self.system
        return chat.question("\n".join(text.split(PAIR)), system)

    def examples(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        """Examples with their inputs so wrapped. Errors are those of `around`."""
        texts = self.around([example.input for example in examples])
        return tuple(
            Example(text, example.target) for text, example in zip(texts, examples, strict=True)
        )


AS_THEY_ARE = Wrapping()


def wrapping(given: argparse.Namespace, what: str | None = None) -> Wrapping:
    """As the flags say, and the run, or the adapter of a run, that is named."""
    run = runs.run_of(what) if what else None
    if run is None or run[1]["task"]["kind"] != "generate":
        return Wrapping(bool(given.chat), given.system)
    return wrapped_as(run[1]["task"].get("chat"), given, what)


def wrapped_as(kept: dict | None, given: argparse.Namespace, name: str) -> Wrapping:
    """As a training has read its texts; kept: what `chat_of` says of them, or None."""
    if kept is None:
        return Wrapping(bool(given.chat), given.system, plain=name)
    return Wrapping(True, given.system, kept["system"])


def chat_of(texts: Sequence[str]) -> dict | None:
    """What a run keeps of its conversations: what the system says in all alike. None of texts."""
    if not chat.is_chat(texts[0]):
        return None
    first = {json.dumps(chat.messages_of(text)[0]) for text in texts}
    only = json.loads(first.pop()) if len(first) == 1 else {"role": None}
    return {"system": only["content"] if only["role"] == "system" else None}
