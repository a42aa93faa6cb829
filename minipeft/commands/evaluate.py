"""`python -m minipeft evaluate`: how good is a run, an adapter or a plain base on a file?"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from minipeft.commands import asking, data, forms, opened, options, predict, runs, scoring
from minipeft.commands.writers import COMPARED, PREDICTED, check_file, keeping
from minipeft.report import Table
from minipeft.tasks.encoding import readable
from minipeft.tasks.scoring import LOWER_IS_BETTER
from minipeft.tasks.tasks import Task, tidied

EXAMPLES = """evaluate runs/example --data reverse
evaluate runs/example --data reverse --split ood --predictions ood.jsonl
evaluate runs/reviews --data test.tsv --input sentence --target label --require accuracy=0.8
evaluate tiny-decoder --data reverse
evaluate ./adapter --base bert-base-uncased --kind classification --data test.csv"""


def add(commands, arguments: list[str]) -> None:
    parser = options.add_parser(
        commands,
        "evaluate",
        "measure a run, an adapter or a base on a file",
        "Measure a run, an adapter or a plain base on a file: scores, a table per label, and the\n"
        "answers in a file if you like.",
        EXAMPLES,
        "Exit code: 0 measured, 1 a score is below what --require asks for, 2 what was given\n"
        "cannot be used (one sentence says why).",
    )
    opened.add_flags(parser)
    parser.add_argument("--data", metavar="FILE", required=True,
                        help="as in train: a file or a task of the project")  # fmt: skip
    parser.add_argument(
        "--split", help="of a task of the project: train, dev, test or ood (default test)"
    )
    data.add_flags(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only N examples, chosen at random")
    scoring.add_flag(parser, "other scores, by name")
    parser.add_argument("--batch-size", type=int, default=32, help="(default %(default)s)")
    parser.add_argument(
        "--predictions", metavar="FILE", help="write the answers here, as .jsonl, .csv or .tsv"
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="SCORE=VALUE",
        help="exit with 1 when this score is worse; may be given several times",
    )
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    wanted = [requirement(text) for text in given.require]
    opened.check_place(given.what)
    check_file(given.predictions, "--predictions", given.data)
    for name in ("limit", "batch_size"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1.")
    data.check_flags(given)
    shipped = data.is_shipped(given.data)
    if given.split and not shipped:
        raise ValueError("--split is for the tasks of the project: a file is one split.")
    given.kind = asking.kind_of(given)
    if given.predictions and not shipped and (lacking := asking.lacking(given)):
        return label_only(given, lacking)
    examples, kind, labels = asking.examples(given, given.split or "test")
    loaded = opened.open_model(given, kind, labels)
    every = len(examples)
    draw = data.drawn_whole if loaded.kind == "generate" else data.drawn
    examples = draw(examples, given.limit, "limit", "--limit")
    task = opened.task_for(loaded, tidied(loaded.kind, examples), Path(given.data).stem)
    names = scoring.named(given.metric, task)
    longest = given.max_length or runs.options_of(given.what).get("max_length")
    task, shorter = data.shortened(task, loaded.base, longest)
    examples = task.examples("test")
    data.check_labels(task, "test", given.data)
    data.check_fits(task, loaded.base, extra=loaded.taken)
    for note in loaded.base.notes:
        print(f"note: {note}")
    if len(examples) < every:
        print(f"note: {len(examples):,} of {every:,} examples, chosen at random.")
    for note in data.note_of(shorter) + loaded.notes_of_chance(given.what):
        print(note)
    inputs = [example.input for example in examples]
    true = [example.target for example in examples]
    letters = scoring.by_letters(loaded.base)
    if wanted:
        check_names(wanted, scoring.scores(task, true[:1], true[:1], letters, names, inputs[:1]))
    texts = [*map(readable, inputs)]
    how = (given.batch_size, sys.stderr.isatty())
    with keeping(given.predictions, COMPARED, texts, true) as known:
        said = scoring.answers(task, loaded.base, inputs, *how, known)
    scores = scoring.scores(task, said, true, letters, names, inputs)
    show(given, task, said, true, scores)
    return judged(scores, wanted)


def show(
    given: argparse.Namespace,
    task: Task,
    said: list[str],
    true: list[str],
    scores: dict[str, float],
) -> None:
    """Print the scores of what was said, a row for each label, and where the answers are."""
    rows = [(name, round(value, 4)) for name, value in scores.items()]
    print(Table(f"{given.what} on {given.data}, {len(true):,} examples", ("score", ""), rows))
    table = scoring.label_table(task, said, true)
    if table:
        print(f"\n{table}")
    if one := scoring.note_of_one_answer(task, said, true):
        print(f"\n{one}")
    if given.predictions:
        print(f"\nThe answers are in {given.predictions}")


def label_only(given: argparse.Namespace, lacking: str) -> int:
    """A file without answers: nothing is measured, but what the model says is written down.

    lacking: the column that would hold them.
    """
    texts = [text for text, _ in asking.questions(given)]
    texts = forms.wrapping(given, given.what).around(texts)
    texts = data.drawn(texts, given.limit, "limit", "--limit")
    loaded = opened.open_model(given, given.kind)
    inputs, how = [*map(readable, texts)], (given.batch_size, given.cut, given.max_length)
    with keeping(given.predictions, PREDICTED, inputs) as known:
        said, notes = predict.answers(loaded, texts, *how, known)
    for note in notes:
        print(note)
    print(
        f"{given.data} has no column {lacking!r}, so that nothing is measured; the "
        f"model's answers are in {given.predictions}"
    )
    return 0


def requirement(text: str) -> tuple[str, float]:
    """A score's name and the value that it must reach, of a text such as accuracy=0.8."""
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number) or not re.fullmatch(r"\w+", name.strip()):
        raise ValueError(
            f"--require needs a score and a number, such as accuracy=0.8, not {text!r}."
        )
    return name.strip(), number


def check_names(wanted: list[tuple[str, float]], scores: Iterable[str]) -> None:
    """Refuse a score that is not counted, before anything is answered.

    Raises:
        ValueError: such a name; the sentence lists those that are counted.
    """
    for name, _ in wanted:
        if name not in scores:
            raise ValueError(
                f"There is no score {name!r} here, only {', '.join(scores)}; --metric adds others."
            )


def judged(scores: dict[str, float], wanted: list[tuple[str, float]]) -> int:
    """1 when a score is worse than required; an error rate must be below, all others above."""
    code = 0
    for name, value in wanted:
        lower = name in LOWER_IS_BETTER
        if scores[name] > value if lower else scores[name] < value:
            print(f"{name} is {scores[name]:.4f}, {'above' if lower else 'below'} {value:g}")
            code = 1
    return code
