"""Scores of predictions against targets. Plain functions of two lists of equal length.

| name       | of              | value                                                           |
|------------|-----------------|-----------------------------------------------------------------|
| accuracy   | any labels      | share of equal pairs                                            |
| exact      | texts           | share of equal texts, after lower case and single spaces        |
| overlap    | texts           | mean ROUGE-L F1: longest common subsequence of words (Lin 2004) |
| entity_f1  | rows of tags    | F1 over words whose tag is not "other"                          |
| span_f1    | rows of tags    | F1 over whole entities, tagged B-x I-x (as CoNLL counts)        |
| macro_f1   | labels          | mean over the labels of the F1 of each                          |
| error_rate | rows of symbols | edit distance / target length (word or phoneme error rate)      |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


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


def span_f1(predictions: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> float:
    """F1 of whole entities: one is right when its first word, last word and kind are."""
    _same_length(predictions, targets)
    predicted = {(i, *span) for i, row in enumerate(predictions) for span in spans(row)}
    wanted = {(i, *span) for i, row in enumerate(targets) for span in spans(row)}
    total = len(predicted) + len(wanted)
    return 2 * len(predicted & wanted) / total if total else 1.0


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(kind, first, last) of every entity; an I- that continues nothing begins one."""
    entities: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark not in ("B", "I"):
            continue
        last = entities[-1] if entities else None
        if mark == "I" and last and last[0] == kind and last[2] == i - 1:
            entities[-1] = (kind, last[1], i)
        else:
            entities.append((kind, i, i))
    return entities


class LabelScore(NamedTuple):
    """How well one label is predicted. count: how often it is the right answer."""

    label: str
    precision: float
    recall: float
    f1: float
    count: int


def by_label(
    predictions: Sequence[str], targets: Sequence[str], labels: Sequence[str]
) -> list[LabelScore]:
    """Precision, recall and F1 of every label; a ratio with nothing in it is 0."""
    _same_length(predictions, targets)
    rows = []
    for label in labels:
        right = sum(p == t == label for p, t in zip(predictions, targets, strict=True))
        said, wanted = sum(p == label for p in predictions), sum(t == label for t in targets)
        f1 = 2 * right / (said + wanted) if said + wanted else 0.0
        rows.append(LabelScore(label, right / max(1, said), right / max(1, wanted), f1, wanted))
    return rows


def macro_f1(predictions: Sequence[str], targets: Sequence[str], labels: Sequence[str]) -> float:
    """Mean F1 of the labels that are the right answer at least once."""
    f1 = [row.f1 for row in by_label(predictions, targets, labels) if row.count]
    return sum(f1) / len(f1)


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
