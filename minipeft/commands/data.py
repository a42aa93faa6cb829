"""Files -> a task with its splits. What does not fit is told before anything is trained."""

from __future__ import annotations

import argparse
import hashlib
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from minipeft import tasks
from minipeft.commands import forms, shortening
from minipeft.tasks import arrow, chat, metrics, tables
from minipeft.tasks import labels as spellings
from minipeft.tasks.encoding import Encoding, Example
from minipeft.tasks.tasks import NUMBER, Task, tidied

KINDS = {
    "classification": "classify",
    "tagging": "tag",
    "cloze": "cloze",
    "text-to-text": "generate",
    "regression": "regress",
}

TOKENS_OF_A_SIGN = 8  # at most, special tokens included: UTF-8 has four bytes


def add_flags(parser: argparse.ArgumentParser, dev: bool = False) -> None:
    """The flags that say how files are read."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--kind",
        choices=(*KINDS, *KINDS.values()),
        metavar="KIND",
        help=f"what is asked: {', '.join(KINDS)}",
    )
    group.add_argument(
        "--input",
        help="column of the texts (default input), or the two of pairs: premise,hypothesis",
    )
    group.add_argument("--target", help="column of the answers (default target)")
    group.add_argument(
        "--columns",
        metavar="NAME,..",
        help="names of all columns of a .csv or .tsv file that has no header, or of a .conll file",
    )
    group.add_argument(
        "--cut",
        type=int,
        metavar="WORDS",
        help="keep this many words of a longer input; without it a text that does not fit the "
        "model is refused",
    )
    group.add_argument(
        "--max-length",
        type=int,
        metavar="TOKENS",
        help="shorten every longer input, by words, until it has at most so many tokens; of a "
        "conversation, the oldest messages go first",
    )
    forms.add_flags(group)
    if dev:
        group.add_argument(
            "--limit", type=int, metavar="N", help="train on N examples, chosen by the seed"
        )
        group.add_argument("--dev", metavar="FILE", help="file to validate on while training")
        group.add_argument(
            "--dev-share",
            type=float,
            default=0.1,
            metavar="SHARE",
            help="without --dev: this share of the inputs is held out, chosen by the seed "
            "(default %(default)s)",
        )
        group.add_argument(
            "--dev-limit",
            type=int,
            default=500,
            metavar="N",
            help="validate on at most so many examples, chosen by the seed (default %(default)s)",
        )


def kind_named(kind: str | None) -> str:
    """What --kind names, as a Task spells it.

    Raises:
        ValueError: it was not given.
    """
    if kind is None:
        raise ValueError(f"Say what the data asks for: --kind {', '.join(KINDS)}.")
    return spelt(kind)


def spelt(kind: str | None) -> str | None:
    """--kind as a Task spells it."""
    return KINDS.get(kind, kind)


def is_shipped(name: str) -> bool:
    """A task of the project, or a folder made like one."""
    if tables.is_table(name) or Path(name).is_file():
        return False
    return (Path(name) / "task.json").is_file() or name in tasks.names()


def check_flags(given: argparse.Namespace) -> None:
    """Refuse what is said of a file where --data is a task, which would not be heeded.

    Raises:
        ValueError: such a flag; the sentence names it.
    """
    if not is_shipped(given.data):
        return
    of_task = {"input": "input", "target": "target"}  # how its columns are called
    for name in ("dev", "columns", "cut", "input", "target", "chat", "system"):
        if vars(given).get(name) not in (None, of_task.get(name)):
            raise ValueError(
                f"The task {given.data} has its own splits and columns: leave --{name} away."
            )


def read(
    path: str,
    input: str | None = None,
    target: str | None = None,
    cut: int | None = None,
    columns: str | None = None,
    kind: str | None = None,
    wrapping: forms.Wrapping = forms.AS_THEY_ARE,
) -> tuple[Example, ...]:
    """Examples of a file, its inputs cut to so many words."""
    names = forms.names_of(columns)
    where = forms.columns_of(path, tables.first(path, names), input, target, kind)
    rows = forms.read(path, where, names, answered=True, kind=kind)
    examples = wrapping.examples([Example(text, answer) for text, answer, _ in rows])
    if kind not in (None, "generate") and any(chat.is_chat(example.input) for example in examples):
        raise ValueError(f"{path}: conversations are for --kind text-to-text, and need no --input.")
    return shortening.to_words(examples, cut, kind == "tag")


def shortened(task: Task, base, longest: int | None) -> tuple[Task, int]:
    """(the task, its inputs cut by words to so many tokens; how many were cut).

    Raises:
        ValueError: fewer tokens than the special tokens and one word need.
    """
    if longest is None:
        return task, 0
    encoding, count, splits = Encoding(task, base.tokenizer, base.kind, base.head), 0, {}
    if longest <= len(encoding.ids("")):
        raise ValueError(f"--max-length must leave room for a word: {longest} tokens are too few.")

    def fits(text: str) -> bool:
        few = len(text) * TOKENS_OF_A_SIGN < longest and not chat.is_chat(text)
        return few or len(encoding.ids(text)) <= longest

    for split, examples in task.splits.items():
        long = [not fits(example.input) for example in examples]
        count += sum(long)
        splits[split] = tuple(
            shortening.until(fits, example, task.kind == "tag") if is_long else example
            for example, is_long in zip(examples, long, strict=True)
        )
    return replace(task, splits=splits), count


def note_of(shorter: int) -> list[str]:
    """A line on the inputs that `shortened` cut, if there are any."""
    said = f"note: {shorter:,} inputs were longer than --max-length and are shortened."
    return [said] if shorter else []


def training_task(options: argparse.Namespace) -> Task:
    """--data and its friends as a task with the splits train and dev.

    Raises:
        FileNotFoundError, ValueError: a file that cannot be used.
    """
    if is_shipped(options.data):
        task = tasks.load(options.data)
        if options.kind and kind_named(options.kind) != task.kind:
            raise ValueError(f"Task {task.name!r} is of kind {task.kind!r}: leave --kind away.")
        dev = limited(task.kind, task.examples("dev"), options)
        train = drawn(task.examples("train"), options.limit, f"{options.seed}/train", "--limit")
        return replace(task, splits={"train": train, "dev": dev})
    options.kind = options.kind or forms.implied_kind(options)
    kind = kind_named(options.kind)
    how = (options.input, options.target, options.cut, options.columns, kind)
    limit = (options.limit, f"{options.seed}/train", "--limit")
    train = tidied(kind, read(options.data, *how, forms.wrapping(options)))
    labels = labels_of(kind, train)  # of the whole file, whatever is held out or drawn
    details = {"chat": forms.chat_of([example.input for example in train])}
    task = Task(Path(options.data).stem, kind, {"train": train}, labels=labels, details=details)
    check_labels(task, "train", options.data)
    if options.dev:
        dev = tidied(kind, read(options.dev, *how, wrapping_like(task, options)))
        check_labels(replace(task, splits={"dev": dev}), "dev", options.dev)
    else:
        train, dev = split(train, options.dev_share, options.seed)
    return replace(task, splits={"train": drawn(train, *limit), "dev": limited(kind, dev, options)})


def wrapping_like(task: Task, options: argparse.Namespace) -> forms.Wrapping:
    """For another file than that of the training: conversations, or none, as that has."""
    if task.kind != "generate":
        return forms.AS_THEY_ARE
    return forms.wrapped_as(task.details.get("chat"), options, options.data)


def split(examples, share: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(train, dev): examples with the same input stay together, so that none is on both sides.

    Raises:
        ValueError: the share leaves one side empty.
    """
    inputs = sorted({example.input for example in examples})
    random.Random(f"{seed}/dev").shuffle(inputs)
    count = round(share * len(inputs)) if 0 < share < 1 else 0
    if not 0 < max(count, 1) < len(inputs) or not 0 < share < 1:
        raise ValueError(
            f"A share of {share} of {len(inputs)} different inputs cannot be held out: give "
            "--dev FILE, another --dev-share, or more data."
        )
    held = set(inputs[: max(count, 1)])
    train = tuple(example for example in examples if example.input not in held)
    return train, tuple(example for example in examples if example.input in held)


def limited(kind: str, examples, options: argparse.Namespace) -> tuple[Example, ...]:
    """At most --dev-limit of them, in their order."""
    how = (examples, options.dev_limit, f"{options.seed}/limit", "--dev-limit")
    return drawn_whole(*how) if kind == "generate" else drawn(*how)


def drawn_whole(examples, count: int | None, seed: str, flag: str) -> tuple[Example, ...]:
    """As `drawn`, but an input comes with all its examples, which are references of one another.

    Of an input that has more than `count` of them, the first are taken.
    """
    inputs = list(dict.fromkeys(example.input for example in examples))
    if count is None or count < 1 or len(examples) <= count or len(inputs) == len(examples):
        return drawn(examples, count, seed, flag)
    references = Counter(example.input for example in examples)
    random.Random(seed).shuffle(inputs)
    chosen, total = set(), 0
    for text in inputs:
        if total + references[text] <= count or not chosen:
            chosen.add(text)
            total += references[text]
    return tuple(example for example in examples if example.input in chosen)[:count]


def drawn(examples, count: int | None, seed: str, flag: str) -> tuple[Example, ...]:
    """At most `count` examples, chosen at random by the seed, in their order."""
    if count is not None and count < 1:
        raise ValueError(f"{flag} must be at least 1, not {count}.")
    if count is None or len(examples) <= count:
        return tuple(examples)
    chosen = random.Random(seed).sample(range(len(examples)), count)
    return tuple(examples[number] for number in sorted(chosen))


def labels_of(kind: str, examples, fewest: int = 2) -> tuple[str, ...] | None:
    """The labels in the examples, sorted; the tag of ordinary words comes first.

    Raises:
        ValueError: there are fewer than `fewest`, or so many that they are no classes.
    """
    if kind == "regress":
        return NUMBER
    if kind not in ("classify", "tag"):
        return None
    rows = ([e.target] if kind == "classify" else e.target.split() for e in examples)
    labels = dict.fromkeys(label for row in rows for label in row)
    spellings.check(labels)
    if kind == "classify" and len(labels) > max(1000, len(examples) // 2):
        other = "regression" if spellings.are_numbers(labels) else "text-to-text"
        raise ValueError(
            f"{len(labels)} different labels in {len(examples)} examples are no classes: is the "
            f"target column right, or is it --kind {other}?"
        )
    if len(labels) < fewest:
        only = f"only {min(labels)!r}" if labels else "no label"
        raise ValueError(f"The training examples have {only}: there is nothing to tell apart.")
    return tuple(sorted(labels, key=lambda label: (label not in metrics.OTHER, label)))


def check_labels(task: Task, split: str, file: str) -> None:
    """Every label must be known, and tags must be as many as words."""
    for number, example in enumerate(task.examples(split), start=1):
        words, tags = example.input.split(), example.target.split()
        if task.kind == "tag" and len(words) != len(tags):
            raise ValueError(
                f"{file}, example {number}, has {len(words)} words but {len(tags)} tags: give one "
                "tag for each word."
            )
        if task.kind == "regress":
            check_number(example.target, f"{file}, example {number},")
            continue
        said = tags if task.kind == "tag" else [example.target]
        unknown = [label for label in said if task.labels and label not in task.labels]
        if unknown:
            raise ValueError(
                f"{file}, example {number}, has the label {unknown[0]!r}, which is not in the "
                f"training data (they have {', '.join(task.labels[:10])}"
                f"{', ...' * (len(task.labels) > 10)}): correct it, or leave the row out."
            )


def check_number(text: str, where: str) -> None:
    """A regression's target is a finite number."""
    try:
        metrics.numbers([text])
    except ValueError:
        comma = re.fullmatch(r"\s*[+-]?[\d.,]*\d,\d[\d.,]*\s*", text)
        hint = ", such as 1234.5: a point before the decimals, and no other sign" if comma else ""
        raise ValueError(
            f"{where} has the target {text[:40]!r}, which is not a number: --kind regression needs "
            f"one in every row{hint}."
        ) from None


def check_fits(task: Task, base, extra: int = 0) -> None:
    """No example may be longer than the model can read, `extra` soft words included.

    Raises:
        ValueError: one is, or has no word at all; its number is told.
    """
    encoding = Encoding(task, base.tokenizer, base.kind, base.head)
    limit = base.positions()
    longest_label = max(map(len, task.labels or ()), default=0)
    for split, examples in task.splits.items():
        several = len(task.splits) > 1  # one alone has the name that it got here
        if task.kind == "tag":
            check_labels(task, split, f"the {split} split" if several else "the data")
        for number, example in enumerate(examples, start=1):
            where = f"Example {number}" + f" of the {split} split" * several
            if not example.input.strip():
                raise ValueError(f"{where} has an empty input: leave it out.")
            letters = len(example.input) + max(len(example.target), longest_label)
            if chat.is_chat(example.input) and example.target:  # the template may refuse it, or
                tokens = len(encoding.row(example)[0])  # put any number of words around it
            elif limit is None or letters * TOKENS_OF_A_SIGN < limit - extra:
                continue
            else:
                tokens = encoding.count(example)
            if limit is not None and tokens + extra > limit:
                raise ValueError(
                    f"{where} has {tokens + extra} tokens, but the model knows {limit} positions: "
                    f"{shortening.advice(encoding, example, limit, extra)}."
                )


def digest(path: str) -> str | None:
    """SHA-256 of a file, or of a folder that holds data; None for a task of the project."""
    place = Path(path)
    if place.is_file():
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if arrow.is_dataset(place) or (place / "task.json").is_file():
        files = sorted(p for p in place.iterdir() if p.is_file() and not arrow.is_cache(p))
        listing = "".join(f"{digest(str(file))} {file.name}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    return None
