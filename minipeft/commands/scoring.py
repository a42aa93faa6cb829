"""What a model answers, how good that is, and for which labels.

| kind           | scores; the first one chooses the weights that are kept                  |
|----------------|--------------------------------------------------------------------------|
| classification | accuracy, macro_f1                                                       |
| tagging        | f1 of whole entities (B-x I-x tags) or of words, accuracy of words       |
| cloze          | accuracy                                                                 |
| text-to-text   | overlap (ROUGE-L), exact, ignoring case                                  |
| pronunciation  | error_rate (edit distance / length, lower is better), exact              |
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from minipeft.commands.bases import Base
from minipeft.contexts import evaluating
from minipeft.report import Table
from minipeft.tasks import metrics
from minipeft.tasks.encoding import Encoding
from minipeft.tasks.tasks import Task


def by_letters(base: Base) -> bool:
    """Are answers compared symbol by symbol?"""
    return getattr(base.tokenizer, "letters", False)


def direction(base: Base) -> str:
    """ "max" or "min": what is better in the first score."""
    return "min" if by_letters(base) else "max"


@torch.no_grad()
def answers(
    task: Task, base: Base, inputs: Sequence[str], batch_size: int = 32, progress: bool = True
) -> list[str]:
    """The model's answer to every input, in their order; texts of about one length run together."""
    encoding = Encoding(task, base.tokenizer, base.kind, base.head)
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    said = [""] * len(inputs)
    bar = tqdm(total=len(inputs), disable=not progress, delay=2, unit="example", leave=False)
    with evaluating(base.model), bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            given = encoding.answers(base.model, [inputs[i] for i in chosen])
            for i, answer in zip(chosen, given, strict=True):
                said[i] = answer
            bar.update(len(chosen))
    return said


def scores(task: Task, said: Sequence[str], true: Sequence[str], letters=False) -> dict[str, float]:
    """Predictions against targets; see the table above."""
    if letters:
        return {
            "error_rate": metrics.error_rate(said, true),
            "exact": metrics.accuracy(said, true),
        }
    if task.kind == "generate":
        return {"overlap": metrics.overlap(said, true), "exact": metrics.exact(said, true)}
    if task.kind == "classify":
        f1 = [row[3] for row in counted(said, true, task.labels) if row[4]]
        return {"accuracy": metrics.accuracy(said, true), "macro_f1": sum(f1) / len(f1)}
    if task.kind == "tag":
        rows, wanted = [text.split() for text in said], [text.split() for text in true]
        spans = any(label.startswith("B-") for label in task.labels)
        f1 = entities(rows, wanted) if spans else metrics.entity_f1(rows, wanted, task.labels[0])
        return {"f1": f1, "accuracy": metrics.accuracy(sum(rows, []), sum(wanted, []))}
    return {"accuracy": metrics.exact(said, true)}


def entities(said: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float:
    """F1 of whole entities: right when first word, last word and kind are (as CoNLL counts)."""
    found = [{(i, *span) for span in spans(row)} for i, row in enumerate(said)]
    wanted = [{(i, *span) for span in spans(row)} for i, row in enumerate(true)]
    right = sum(len(f & w) for f, w in zip(found, wanted, strict=True))
    total = sum(map(len, found)) + sum(map(len, wanted))
    return 2 * right / total if total else 1.0


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(kind, first, last) of every entity; an I- that continues nothing begins one."""
    found: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark not in ("B", "I"):
            continue
        last = found[-1] if found else None
        if mark == "I" and last and last[0] == kind and last[2] == i - 1:
            found[-1] = (kind, last[1], i)
        else:
            found.append((kind, i, i))
    return found


def counted(said: Sequence[str], true: Sequence[str], labels: Sequence[str]) -> list[tuple]:
    """(label, precision, recall, F1, how often it is right to say it) for every label."""
    rows = []
    for label in labels:
        right = sum(s == t == label for s, t in zip(said, true, strict=True))
        spoken, wanted = sum(s == label for s in said), sum(t == label for t in true)
        f1 = 2 * right / (spoken + wanted) if spoken + wanted else 0.0
        rows.append((label, right / max(1, spoken), right / max(1, wanted), f1, wanted))
    return rows


def label_table(task: Task, said: Sequence[str], true: Sequence[str]) -> Table | None:
    """Precision, recall and F1 of every label; None where there are no labels."""
    if task.kind not in ("classify", "tag"):
        return None
    if task.kind == "tag":
        said, true = " ".join(said).split(), " ".join(true).split()
    rows = sorted(counted(said, true, task.labels), key=lambda row: -row[4])
    rows = [(name, *(round(x, 4) for x in numbers[:3]), numbers[3]) for name, *numbers in rows]
    header = ("label", "precision", "recall", "F1", "examples")
    unit = "words" if task.kind == "tag" else "examples"
    return Table(f"per label, {len(true):,} {unit}", header, rows)


def written(values: dict[str, float]) -> str:
    """Scores in one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
