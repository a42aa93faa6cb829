"""How much attention falls on rows of a prompt whose scores are 0."""

from __future__ import annotations

import math

from minipeft.checks.framework import NumberCheck

P, T = 8, 6
SCORES = {"flat": 0.0, "low": -2.0, "high": 3.0}  # of the words; the rows of the prompt have 0


def share(score: float, rows: int = P, words: int = T) -> float:
    """The softmax of `rows` scores of 0 and `words` others, summed over the rows."""
    return rows / (rows + words * math.exp(score))


def wrong(name: str, score: float) -> list[tuple[dict[str, float], str]]:
    """What else comes out for one part, and why."""
    weight = math.exp(score)
    answers = [
        (1 - share(score), "that is the share of the words, asked is that of the prompt's rows"),
        (share(score, 1), "that is for one row of the prompt, and there are 8"),
        (share(score, P, 1), "that is beside one word, and there are 6"),
        (share(score, P, P + T), "the words are 6, the 8 rows are not among them"),
        (share(score, 1, 1), "that is one row beside one word: there are 8 rows and 6 words"),
        (1 / (P + T * weight), "that is the share of one of the 8 rows: add them up"),
        (P / (T * weight), "the softmax divides by the weights of rows and words together"),
        (0.0, "a score of 0 is not a weight of 0: e to the power of 0 is 1"),
        (1.0, "the words have weights too, e to the power of their score"),
    ]
    if score:
        answers[:0] = [
            (share(-score), "the sign of the score is turned round"),
            (share(0.0), "the words' score is not 0 here"),
            (share(score, T, P), "the rows are 8 and the words 6, not the other way round"),
            (share(score * math.log(2)), "a weight is e to the power of the score, not 2"),
            (share(math.log(abs(score))), "a weight is e to the power of the score"),
        ]
    if score < 0:
        answers += [(P / (P + T * score), "a weight is e to the power of the score, never below 0")]
    return [({name: value}, f"{name}: {sentence}") for value, sentence in answers]


prompt_share = NumberCheck(
    "prompt_share",
    "P / (P + T e^score): rows that say nothing are loud where the words' scores are low",
    {name: share(score) for name, score in SCORES.items()},
    [pair for name, score in SCORES.items() for pair in wrong(name, score)],
    tolerance=0.01,
)
