"""`python -m minipeft predict`: what a run, an adapter or a base says where nobody knows it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minipeft.commands import asking, data, forms, opened, options, scoring, shortening
from minipeft.commands.writers import PREDICTED, check_file, keeping
from minipeft.report import Table
from minipeft.tasks.encoding import Example, readable

WIDEST = 120  # characters of a text in a table

EXAMPLES = """predict runs/reviews "a fine film" "a dull one"
predict runs/pairs "a man sleeps | nobody is awake"
predict runs/reviews --data test.tsv --input sentence --out answers.tsv"""


def add(commands, arguments: list[str]) -> None:
    parser = options.add_parser(
        commands,
        "predict",
        "label texts, or a file without answers",
        "Label texts, or every row of a file that has no answers. `evaluate` measures where the\n"
        "answers are known, `generate` writes on with a language model.",
        EXAMPLES,
        "Exit code: 0 done, 2 what was given cannot be used (one sentence says why).",
    )
    opened.add_flags(parser)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text; or give --data")
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="a file of texts, as `train` reads them",
    )
    parser.add_argument("--kind", choices=tuple(data.KINDS), help="where no run tells it")
    parser.add_argument("--input", metavar="COLUMN", help="of the texts (default: as in training)")
    parser.add_argument("--columns", metavar="NAME,..", help="of a file that has no header")
    forms.add_flags(parser)
    parser.add_argument("--cut", type=int, metavar="WORDS", help="keep this many words of a text "
                        "(default: as in training)")  # fmt: skip
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="shorten longer texts, "
                        "by words, to so many tokens (default: as in training)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=32, help="(default %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write here, as .jsonl, .csv or .tsv")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    if bool(given.texts) == bool(given.data):
        raise ValueError('Give texts, predict WHAT "a text", or a file of them, --data FILE.')
    if given.batch_size < 1:
        raise ValueError("--batch-size must be at least 1.")
    check_file(given.out, "--out", given.data)
    opened.check_place(given.what)
    given.kind = asking.kind_of(given)
    texts = [asking.pair(text, given) for text in given.texts]
    texts = texts or [text for text, _ in asking.questions(given)]
    texts = forms.wrapping(given, given.what).around(texts)
    loaded = opened.open_model(given, given.kind)
    inputs = [*map(readable, texts)]
    with keeping(given.out, PREDICTED, inputs) as known:
        said, notes = answers(loaded, texts, given.batch_size, given.cut, given.max_length, known)
    for note in loaded.notes_of_chance(given.what) + notes:
        print(note)
    if given.out:
        print(f"The answers are in {given.out}")
    else:
        rows = [(in_one_line(text), one) for text, one in zip(inputs, said, strict=True)]
        print(Table(f"{given.what}, {len(rows):,} texts", ("text", "prediction"), rows))
    return 0


def in_one_line(text: str) -> str:
    """A text as a table on a screen has room for it: in one line, its middle left out."""
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else f"{line[: WIDEST // 2]} ... {line[-WIDEST // 4 :]}"


def answers(
    loaded: opened.Opened,
    texts: Sequence[str],
    batch_size: int = 32,
    cut: int | None = None,
    max_length: int | None = None,
    known: dict[int, str] | None = None,
) -> tuple[list[str], list[str]]:
    """(one answer for each text, notes on those that were shortened).

    cut, max_length: words and tokens of a text; None for as many as in training.
    known: gets number of a text -> its answer as soon as that is there.

    Raises:
        ValueError: a text is empty, or longer than the model can read.
    """
    if not all(text.strip() for text in texts):
        raise ValueError("A text is empty: write at least one word, or leave it out.")
    before = loaded.config["options"] if loaded.config else {}
    any_tag = (loaded.labels or ("",))[0]  # a tagger's rows have as many tags as words
    tags = {text: " ".join([any_tag] * len(text.split())) for text in texts}
    whole = tuple(Example(text, tags[text] if loaded.kind == "tag" else "") for text in texts)
    examples = shortening.to_words(whole, cut or before.get("cut"), loaded.kind == "tag")
    task = opened.task_for(loaded, examples, "texts")
    task, shorter = data.shortened(task, loaded.base, max_length or before.get("max_length"))
    notes = data.note_of(shorter)
    if count := sum(a != b for a, b in zip(whole, examples, strict=True)):
        notes.append(f"note: {count:,} texts had more words than --cut and are shortened.")
    texts = [example.input for example in task.examples("test")]
    data.check_fits(task, loaded.base, extra=loaded.taken)
    progress = sys.stderr.isatty()
    return scoring.answers(task, loaded.base, texts, batch_size, progress, known), notes
