"""Sentences of .conll and .conllu files: a word on every line, an empty line between sentences.

Of the columns the first is the word and the last its tag. Where the first one counts the words of
every sentence from 1, as in CoNLL-U and GermEval, the second is the word; of the ten columns of
CoNLL-U the fourth (the part of speech) is the tag. Words alone have no tags.

Left out are lines between documents (-DOCSTART-, "#begin document"), comments ("# name = value", or
a line with "#" that has other columns than the words of its sentence), and in CoNLL-U several words
at once ("3-4") and words that are not there ("8.1"). A space inside a word is written as "␣".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

INSIDE = "␣"  # for a space inside a word, so that it stays one; see Encoding.tagged
CONLL_U = 10  # its columns
NUMBER = re.compile(r"\d+([-.]\d+)?")
BETWEEN = re.compile(r"-DOCSTART-|#(begin|end) document\b")  # documents: the end of a sentence, too

WORDS = {"word", "words", "token", "tokens", "form", "text", "input"}  # columns, in a header
TAGS = {"tag", "tags", "label", "labels", "target", "ner", "ner_tag", "ner_tags", "pos", "upos"}


class Line(NamedTuple):
    """A line of a file: its number from 1, its text, its columns."""

    number: int
    text: str
    fields: list[str]


def rows(
    lines: Iterable[str], path: Path, names: tuple[str, ...] | None
) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the last line, {"input": words, "target": tags}) of every sentence.

    Args:
        names: of all columns, which are then the columns of the table.

    Raises:
        ValueError: a line has other columns than its sentence, or no tag; its number is told.
    """
    sentences = [sentence for sentence in map(words, groups(lines)) if sentence]
    check_no_header(path, sentences)
    counted = all(is_counted(sentence) for sentence in sentences)
    for sentence in sentences:
        if counted:
            sentence = [line for line in sentence if line.fields[0].isdigit()]
        width = len(sentence[0].fields)
        for line in sentence:
            if len(line.fields) != width:
                raise ValueError(
                    f"{path}, line {line.number}, has {len(line.fields)} columns, but line "
                    f"{sentence[0].number} of the same sentence has {width}: give every word as "
                    "many."
                )
            if not line.fields[-1]:
                raise ValueError(f"{path}, line {line.number}, must be a word and its tag.")
        if names is not None and len(names) != width:
            raise ValueError(
                f"{path}, line {sentence[0].number}, has {width} columns, but --columns names "
                f"{len(names)}: {', '.join(names)[:200]}."
            )
        columns = dict(enumerate(names)) if names else chosen(width, counted)
        yield (
            sentence[-1].number,
            {
                name: spaced(line.fields[place] for line in sentence)
                for place, name in columns.items()
            },
        )


def check_no_header(path: Path, sentences: list[list[Line]]) -> None:
    """Refuse a first line that names the columns, which would be a word with a tag of its own.

    Raises:
        ValueError: there is one.
    """
    first = sentences[0][0] if sentences else Line(0, "", [""])
    fields = [field.lower() for field in first.fields]
    if fields[-1] in TAGS and set(fields[:-1]) & WORDS:
        raise ValueError(f"{path}, line {first.number}, names the columns itself: leave it out.")


def groups(lines: Iterable[str]) -> Iterator[list[Line]]:
    """Lines that follow one another without an empty one."""
    group: list[Line] = []
    for number, text in enumerate(lines, start=1):
        text = text.rstrip("\r\n")
        if text.strip() and not BETWEEN.match(text):
            group.append(Line(number, text, columns_of(text)))
        elif group:
            yield group
            group = []
    if group:
        yield group


def columns_of(text: str) -> list[str]:
    """The columns of a line, parted by tabs or else by spaces."""
    tabbed = "\t" in text
    fields = text.strip(" ").split("\t") if tabbed else text.split(" ")
    return [field.strip() for field in fields if field or tabbed]


def words(group: list[Line]) -> list[Line]:
    """The lines of a sentence without its comments."""
    signs = [line for line in group if line.text.startswith("#")]
    others = [line for line in group if not line.text.startswith("#")]
    if not others:
        return [line for line in signs if not is_comment(line, len(line.fields))]
    if len(others[0].fields) == CONLL_U and NUMBER.fullmatch(others[0].fields[0]):
        return others
    width = len(others[-1].fields)
    return [line for line in group if not line.text.startswith("#") or not is_comment(line, width)]


def is_comment(line: Line, width: int) -> bool:
    """Is a line with "#" a comment, in a sentence of so many columns?"""
    named = line.text.startswith("# ") and " = " in line.text
    return named or line.fields[0].startswith("# ") or len(line.fields) != width


def is_counted(sentence: list[Line]) -> bool:
    """Does the first of three columns or more count the words from 1?"""
    firsts = [line.fields[0] for line in sentence if len(line.fields) > 2]
    if not all(NUMBER.fullmatch(first) for first in firsts) or len(firsts) < len(sentence):
        return False
    numbers = [int(first) for first in firsts if first.isdigit()]
    return numbers == list(range(1, len(numbers) + 1)) and bool(numbers)


def chosen(width: int, counted: bool) -> dict[int, str]:
    """Place of a column -> its name, for the word and its tag."""
    if counted:
        return {1: "input", 3 if width == CONLL_U else width - 1: "target"}
    return {0: "input"} | ({width - 1: "target"} if width > 1 else {})


def spaced(words: Iterable[object], inside: str = INSIDE) -> str:
    """Words, or tags, with a space between them; "_" for an empty one.

    inside: what stands for a space in a word.
    """
    return " ".join(inside.join(str(word).split()) or "_" for word in words)


def are_sentences(value: object) -> bool:
    """Is it a list in which a text has several words?"""
    return isinstance(value, list) and any(
        isinstance(text, str) and len(text.split()) > 1 for text in value
    )
