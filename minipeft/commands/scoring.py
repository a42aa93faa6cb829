"""What a base answers, how good that is, and for which labels.

The scores are those of `minipeft.tasks.scoring`, the one that decides first; classify has
macro_f1 as well. `--metric` puts others before them (`minipeft.tasks.named_metrics`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from minipeft.commands.bases import Base, Letters
from minipeft.report import Table
from minipeft.tasks import metrics, named_metrics, scoring
from minipeft.tasks.encoding import Encoding
from minipeft.tasks.scoring import one_answer
from minipeft.tasks.tasks import Task

MOST_ROWS = 100  # of the table per label
FROM_LIBRARIES = ("macro_f1", "pearson")  # also where a score of this name is counted anyway


def add_flag(parser: argparse.ArgumentParser, what: str) -> None:
    """--metric."""
    parser.add_argument(
        "--metric",
        metavar="NAME,..",
        help=f"{what}: {', '.join(named_metrics.METRICS)}",
    )


def named(option: str | None, task: Task) -> tuple[str, ...]:
    """--metric as names.

    Raises:
        ValueError: a name that is none, or not for this kind of task.
    """
    names = tuple(filter(None, (name.strip() for name in (option or "").split(","))))
    named_metrics.check(names, task.kind, task.labels)
    return names


def by_letters(base: Base) -> bool:
    """Are answers compared symbol by symbol?"""
    return isinstance(base.tokenizer, Letters)


def answers(
    task: Task,
    base: Base,
    inputs: Sequence[str],
    batch_size: int = 32,
    progress: bool = True,
    known: dict[int, str] | None = None,
) -> list[str]:
    """The model's answer to every input, in their order; known: see `minipeft.tasks.scoring`."""
    encoding = Encoding(task, base.tokenizer, base.kind, base.head)
    return scoring.answers(encoding, base.model, inputs, batch_size, progress, known)


def scores(
    task: Task,
    predictions: Sequence[str],
    targets: Sequence[str],
    letters: bool = False,
    names: Sequence[str] = (),
    inputs: Sequence[str] = (),
) -> dict[str, float]:
    """Predictions against targets; the score that decides stands first, as `train` wants it.

    names: of other scores, as --metric gives them; the first of them decides.
    inputs: the texts that were answered; those that are equal have their targets in common.
    """
    values = scoring.scores(task, predictions, targets, letters)
    if task.kind == "classify" and not letters:
        values["macro_f1"] = metrics.macro_f1(predictions, targets, task.labels)
    first = scoring.deciding(values)
    others = [name for name in names if name not in values or name in FROM_LIBRARIES]
    asked = named_metrics.scores(others, predictions, targets, inputs) if others else {}
    asked = {name: asked.get(name, values.get(name)) for name in names}
    return asked | {first: values[first]} | values | asked


def direction(base: Base, names: Sequence[str] = ()) -> str:
    """ "max" or "min": what is better in the score that decides."""
    lower = names[0] in scoring.LOWER_IS_BETTER if names else by_letters(base)
    return "min" if lower else "max"


def note_of_one_answer(
    task: Task, predictions: Sequence[str], targets: Sequence[str]
) -> str | None:
    """A sentence where every answer is the same although the targets differ."""
    only = one_answer(task, predictions, targets)
    if only is None:
        return None
    wanted = " ".join(targets).split() if task.kind == "tag" else targets
    share = sum(target == only for target in wanted) / len(wanted)
    return (
        f"note: every answer is {only!r}, which is right for {share:.0%}: nothing was learnt that "
        "tells inputs apart; try another learning rate, more steps or other data."
    )


def label_table(task: Task, predictions: Sequence[str], targets: Sequence[str]) -> Table | None:
    """Precision, recall and F1 of every label; None where there are no labels."""
    if task.kind not in ("classify", "tag"):
        return None
    if task.kind == "tag":
        predictions, targets = " ".join(predictions).split(), " ".join(targets).split()
    by_label = metrics.by_label(predictions, targets, task.labels)
    by_label.sort(key=lambda row: -row.count)
    rows = [(name, *(round(x, 4) for x in ratios), count) for name, *ratios, count in by_label]
    header = ("label", "precision", "recall", "F1", "examples")
    unit = "words" if task.kind == "tag" else "examples"
    left = len(rows) - MOST_ROWS
    notes = [f"and {left:,} labels with as few {unit}, or fewer"] if left > 0 else []
    return Table(f"per label, {len(targets):,} {unit}", header, rows[:MOST_ROWS], notes)


def written(values: dict[str, float]) -> str:
    """Scores in one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
