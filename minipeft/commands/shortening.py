"""Longer inputs made shorter: by words, and by signs where a text has no spaces.

A sign of a script that is written without spaces (Chinese, Japanese, Thai, ...) is a word of its
own. Where no text of a file has a space, and one is longer than any word, all are cut by signs;
both texts of a pair are cut, and tags with their words. Of a conversation the oldest messages go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from minipeft.tasks import chat
from minipeft.tasks.encoding import PAIR, Encoding, Example, join

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
    if any(chat.is_chat(example.input) for example in examples):
        raise ValueError("--cut is for plain texts: shorten conversations by --max-length TOKENS.")
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


def advice(encoding: Encoding, example: Example, limit: int, extra: int = 0) -> str:
    """What to do with an example that has more tokens than the model can read.

    limit: tokens that it can read.  extra: those of them that the method puts before every text.
    """
    is_chat, writes = chat.is_chat(example.input), encoding.task.kind == "generate"
    one_word = encoding.count(example._replace(input=chat.question("a") if is_chat else "a"))
    if one_word <= limit < one_word + extra:
        how = "shorten its answer, or " * writes
        return f"the {extra} tokens of the method leave too few, so {how}train a smaller --length"
    if writes and one_word + extra > limit:
        return "its answer alone is too long, so shorten that, or leave the row out"
    return "give --max-length TOKENS" if is_chat else "shorten it, or give --cut WORDS"


def until(fits: Callable[[str], bool], example: Example, tagged: bool) -> Example:
    """An example with as many words as fit; with as many signs, where not even one word fits.

    Raises:
        ValueError: of a conversation not even a sign fits.
    """
    if chat.is_chat(example.input):
        return Example(latest(fits, example.input), example.target)
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


def latest(fits: Callable[[str], bool], text: str) -> str:
    """A conversation without its oldest turns; of the last message the words that fit.

    The message of the system stays, and what follows it begins with what a user says.

    Raises:
        ValueError: not even a sign of the last message fits.
    """
    messages = chat.messages_of(text)
    system = messages[: messages[0]["role"] == "system"]
    starts = [n for n, message in enumerate(messages) if message["role"] == "user"]
    for start in starts:
        short = chat.written([*system, *messages[start:]])
        if fits(short):
            return short
    exchange = messages[starts[-1] :] if starts else messages[len(system) :]

    def with_last(words: str) -> str:
        return chat.written([*system, *exchange[:-1], exchange[-1] | {"content": words}])

    last = Example(exchange[-1]["content"], "")
    short = with_last(until(lambda words: fits(with_last(words)), last, False).input)
    if not fits(short):
        raise ValueError(
            "--max-length leaves no room for a word of a conversation: the chat template and the "
            "message of the system need more tokens."
        )
    return short
