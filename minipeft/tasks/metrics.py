"""Scores of predictions against targets. Plain functions of two lists of equal length.

| name       | of              | value                                                           |
|------------|-----------------|-----------------------------------------------------------------|
| accuracy   | any labels      | share of equal pairs                                            |
| exact      | texts           | share of equal texts, after lower case and single spaces        |
| overlap    | texts           | mean ROUGE-L F1: longest common subsequence of words (Lin 2004) |
| entity_f1  | rows of tags    | F1 over words whose tag is not "other"                          |
| span_f1    | rows of tags    | F1 over whole entities, tagged B-x I-x (as CoNLL counts)        |
| macro_f1   | labels          | mean over the labels of the F1 of each                          |
| correlation| numbers         | Pearson's, -1 to 1; 0 where one number is always said           |
| squared    | numbers         | mean squared error                                              |
| error_rate | rows of symbols | edit distance / target length (word or phoneme error rate)      |
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OTHER = ("O", "other")  # the tag of words that are nothing special


def check_lengths(predictions: Sequence, targets: Sequence) -> None:
    """Refuse lists of two lengths, and nothing."""
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
    check_lengths(predictions, targets)
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
    check_lengths(predictions, targets)
    total = 0.0
    for prediction, target in zip(predictions, targets, strict=True):
        p, t = normal(prediction).split(), normal(target).split()
        total += 2 * common(p, t) / (len(p) + len(t)) if p or t else 1.0
    return total / len(targets)


def entity_f1(
    predictions: Sequence[Sequence[str]],
    targets: Sequence[Sequence[str]],
    other: str | None = "other",
) -> float:
    """F1 of the words that are not `other`; a word is right when its tag is.

    None: every word counts, as where tags are parts of speech.
    """
    check_lengths(predictions, targets)
    right = said = wanted = 0
    for prediction, target in zip(predictions, targets, strict=True):
        check_lengths(prediction, target)
        said += sum(tag != other for tag in prediction)
        wanted += sum(tag != other for tag in target)
        right += sum(p == t != other for p, t in zip(prediction, target, strict=True))
    return 2 * right / (said + wanted) if said + wanted else 1.0


def span_f1(predictions: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> float:
    """F1 of whole entities: one is right when its first word, last word and kind are."""
    check_lengths(predictions, targets)
    predicted = {(i, *span) for i, row in enumerate(predictions) for span in spans(row)}
    wanted = {(i, *span) for i, row in enumerate(targets) for span in spans(row)}
    total = len(predicted) + len(wanted)
    return 2 * len(predicted & wanted) / total if total else 1.0


def tag_f1(
    predictions: Sequence[Sequence[str]],
    targets: Sequence[Sequence[str]],
    labels: Iterable[str],
) -> float:
    """`span_f1` where the labels mark entities, else `entity_f1`; a tag of OTHER does not count."""
    labels = set(labels)
    if are_entities(labels):
        return span_f1(predictions, targets)
    other = next((label for label in OTHER if label in labels), None)
    return entity_f1(predictions, targets, other)


MARKS = {"B": "B", "I": "I", "E": "E", "S": "S"}  # of a tag such as B-person
MARKS |= {"L": "E", "U": "S", "M": "I", "W": "S"}  # the same in BILOU and BMES


def are_entities(labels: Iterable[str]) -> bool:
    """Are the labels tags of entities: O and B-x, I-x, E-x, S-x, by these letters or others?"""
    marked = [label for label in labels if label not in OTHER]
    kinds = [label.partition("-") for label in marked]
    every = all(mark in MARKS and kind for mark, _, kind in kinds) and bool(marked)
    return every or any(label.startswith(("B-", "S-")) for label in marked)


def odd_tags(labels: Iterable[str]) -> list[str]:
    """Of tags of entities those that are none: neither O nor a letter, a line and a kind."""
    parts = {label: label.partition("-") for label in labels if label not in OTHER}
    return [label for label, (mark, _, kind) in parts.items() if not (mark in MARKS and kind)]


def as_iobes(tags: Sequence[str]) -> list[str]:
    """Tags with the letters B, I, E and S, whatever letters they had."""
    parts = [tag.partition("-") for tag in tags]
    return [f"{MARKS[m]}-{kind}" if kind and m in MARKS else m + d + kind for m, d, kind in parts]


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(kind, first, last) of every entity, as seqeval counts them.

    B begins one, I and E go on and S stands alone; an I or E that continues nothing begins one, and
    what follows an E or S of its kind begins a new one. L, U, M and W are read as E, S, I and S.
    """
    entities: list[tuple[str, int, int]] = []
    open_kind = None  # of the entity that the next tag may continue
    for i, tag in enumerate(as_iobes(tags)):
        mark, _, kind = tag.partition("-")
        if mark not in ("B", "I", "E", "S"):
            open_kind = None
            continue
        if mark in ("I", "E") and kind == open_kind:
            entities[-1] = (kind, entities[-1][1], i)
        else:
            entities.append((kind, i, i))
        open_kind = None if mark in ("E", "S") else kind
    return entities


def numbers(texts: Sequence[str]) -> list[float]:
    """Texts as numbers.

    Raises:
        ValueError: a text is none, or not finite.
    """
    values = []
    for text in texts:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{str(text)[:40]!r} is not a number: a regression needs one a row.")
        values.append(value)
    return values


def squared(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Mean squared difference of numbers written as texts."""
    check_lengths(predictions, targets)
    pairs = zip(numbers(predictions), numbers(targets), strict=True)
    return sum((p - t) ** 2 for p, t in pairs) / len(targets)


def correlation(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Pearson's correlation of numbers written as texts; 0 where one number is always said."""
    check_lengths(predictions, targets)
    p, t = numbers(predictions), numbers(targets)
    if len(set(p)) < 2 or len(set(t)) < 2:  # less their mean they may be no zeros, by rounding
        return 0.0
    return sum(x * y for x, y in zip(centred(p), centred(t), strict=True))


def centred(values: Sequence[float]) -> list[float]:
    """The values less their mean, as a vector of length 1."""
    mean = sum(values) / len(values)
    length = math.hypot(*(value - mean for value in values))
    return [(value - mean) / length for value in values]


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
    check_lengths(predictions, targets)
    rows = []
    for label in labels:
        right = sum(p == t == label for p, t in zip(predictions, targets, strict=True))
        said, wanted = sum(p == label for p in predictions), sum(t == label for t in targets)
        f1 = 2 * right / (said + wanted) if said + wanted else 0.0
        rows.append(LabelScore(label, right / max(1, said), right / max(1, wanted), f1, wanted))
    return rows


def macro_f1(predictions: Sequence[str], targets: Sequence[str], labels: Sequence[str]) -> float:
    """Mean F1 of the labels that are said or wanted at least once, as scikit-learn has it."""
    seen = {*predictions, *targets}
    f1 = [row.f1 for row in by_label(predictions, targets, labels) if row.label in seen]
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
    check_lengths(predictions, targets)
    length = sum(len(target) for target in targets)
    if not length:
        raise ValueError("Every target is empty: an error rate needs at least one symbol.")
    return sum(distance(p, t) for p, t in zip(predictions, targets, strict=True)) / length
