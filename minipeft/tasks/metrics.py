"""Scores of predictions against targets. Plain functions of two lists of equal length.

| name       | of              | value                                                           |
|------------|-----------------|-----------------------------------------------------------------|
| accuracy   | any labels      | share of equal pairs                                            |
| exact      | texts           | share of equal texts, after lower case and single spaces        |
| overlap    | texts           | mean ROUGE-L F1: longest common subsequence of words (Lin 2004) |
| entity_f1  | rows of tags    | F1 over words whose tag is not "other"                          |
| error_rate | rows of symbols | edit distance / target length (word or phoneme error rate)      |
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def _same_length(predictions: Sequence, targets: Sequence) -> None:
    if len(predictions) != len(targets):
        raise ValueError(
            f"There are {len(predictions)} predictions for {len(targets)} targets; "
            "give one prediction for each target."
        )
    if not len(targets):
        raise ValueError("There is nothing to score: give at least one example.")


def normal(text: str) -> str:
    """Lower case, punctuation as words of its own, single spaces, no full stop at the end."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text.lower())).removesuffix(" .").strip()


def accuracy(predictions: Sequence, targets: Sequence) -> float:
    """Share of predictions equal to their target, 0 to 1."""
    _same_length(predictions, targets)
    return sum(p == t for p, t in zip(predictions, targets, strict=True)) / len(targets)


def exact(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of texts equal to their target after `normal`."""
    return accuracy([normal(p) for p in predictions], [normal(t) for t in targets])


def common(a: Sequence, b: Sequence) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        left_above = 0
        for j, y in enumerate(b, start=1):
            above = row[j]
            row[j] = left_above + 1 if x == y else max(above, row[j - 1])
            left_above = above
    return row[-1]


def overlap(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Mean ROUGE-L F1 over words, 0 to 1; two empty texts agree."""
    _same_length(predictions, targets)
    total = 0.0
    for prediction, target in zip(predictions, targets, strict=True):
        p, t = normal(prediction).split(), normal(target).split()
        total += 2 * common(p, t) / (len(p) + len(t)) if p or t else 1.0
    return total / len(targets)


def entity_f1(
    predictions: Sequence[Sequence[str]], targets: Sequence[Sequence[str]], other: str = "other"
) -> float:
    """F1 of the words that are not `other`; a word is right when its tag is."""
    _same_length(predictions, targets)
    right = said = wanted = 0
    for prediction, target in zip(predictions, targets, strict=True):
        _same_length(prediction, target)
        said += sum(tag != other for tag in prediction)
        wanted += sum(tag != other for tag in target)
        right += sum(p == t != other for p, t in zip(prediction, target, strict=True))
    return 2 * right / (said + wanted) if said + wanted else 1.0


def distance(a: Sequence, b: Sequence) -> int:
    """Levenshtein distance: fewest insertions, deletions and replacements from a to b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        left_above, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            above = row[j]
            row[j] = min(left_above + (x != y), above + 1, row[j - 1] + 1)
            left_above = above
    return row[-1]


def error_rate(predictions: Sequence[Sequence], targets: Sequence[Sequence]) -> float:
    """Sum of edit distances / sum of target lengths; may exceed 1.

    With lists of phonemes this is the phoneme error rate, with lists of words the word error rate.
    """
    _same_length(predictions, targets)
    length = sum(len(target) for target in targets)
    if not length:
        raise ValueError("Every target is empty: an error rate needs at least one symbol.")
    return sum(distance(p, t) for p, t in zip(predictions, targets, strict=True)) / length
