"""Longer inputs made shorter: by words, and by signs where a text has no spaces.

A sign of a script that is written without spaces (Chinese, Japanese, Thai, ...) is a word of its
own. Where no text of a file has a space, and one is longer than any word, all are cut by signs;
both texts of a pair are cut, and tags with their words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from minipeft.tasks.encoding import PAIR, Example, join

WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
)
WORD = re.compile(rf"[{WITHOUT_SPACES}]|[^\s{WITHOUT_SPACES}]+")
LONGEST_WORD = 40  # signs; no word is longer


def to_words(examples: Sequence[Example], cut: int | None, tagged: bool) -> tuple[Example, ...]:
    """The examples, cut to so many words.

    Raises:
        ValueError: less than one word.
    """
    if cut is None:
        return tuple(examples)
    if cut < 1:
        raise ValueError(f"--cut must be at least 1 word, not {cut}.")
    texts = [text for example in examples for text in example.input.split(PAIR)]
    longest = max(map(len, texts), default=0)
    spaces = any(" " in text.strip() for text in texts)
    by_signs = not spaces and not tagged and longest > LONGEST_WORD
    return tuple(shorter(example, cut, tagged, by_signs) for example in examples)


def shorter(example: Example, cut: int, tagged: bool, by_signs: bool = False) -> Example:
    """An example with at most so many words, or signs, in each of its texts."""
    if tagged:
        words, tags = example.input.split(), example.target.split()
        if len(words) <= cut:
            return example
        target = " ".join(tags[:cut]) if len(tags) == len(words) else example.target
        return Example(" ".join(words[:cut]), target)
    texts = [beginning(text, cut, by_signs) for text in example.input.split(PAIR)]
    return Example(join(*texts), example.target)


def beginning(text: str, cut: int, by_signs: bool) -> str:
    """The first words of a text, or its first signs; a text that is short enough as it is."""
    if by_signs:
        return text[:cut]
    ends = [match.end() for match in WORD.finditer(text)]
    return text if len(ends) <= cut else " ".join(text[: ends[cut - 1]].split())


def until(fits: Callable[[str], bool], example: Example, tagged: bool) -> Example:
    """An example with as many words as fit; with as many signs, where not even one word fits."""
    for by_signs in (False,) if tagged else (False, True):
        low, high = 1, len(example.input)  # words, or signs, that are kept
        while low < high:
            middle = (low + high + 1) // 2
            if fits(shorter(example, middle, tagged, by_signs).input):
                low = middle
            else:
                high = middle - 1
        short = shorter(example, low, tagged, by_signs)
        if fits(short.input):
            break
    return short
