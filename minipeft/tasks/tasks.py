"""Downstream tasks: what is asked, as examples, as batches for a model, and as a score.

    task = mp.tasks.load("reverse")                  # or mp.tasks.load("my/folder")
    mp.train(model, task.batches("train", tokenizer), steps=300)
    task.score(model, tokenizer, "test")             # {"exact": 0.97, "overlap": 0.99}

| kind     | example                          | decoder, encoder-decoder | encoder               |
|----------|----------------------------------|--------------------------|-----------------------|
| generate | "cat sun =>"  -> "sun cat ."     | writes it, then <eos>    | -                     |
| cloze    | "france"      -> "paris"         | writes it                | at its <mask>, or at  |
|          |                                  |                          | one behind it         |
| classify | "the soup was cold =>" -> "left" | the likelier label word  | at a <mask>           |
| classify with a ClassificationHead          | the head's class         | the head's class      |
| tag      | "paris left" -> "person other"   | a TaggingHead            | a TaggingHead         |
| regress  | "a fine film" -> "3.5"           | a head with one number   | likewise              |

Works with the models and tokenizers of tiny_transformer and of transformers.
"""

from __future__ import annotations

import json
import numbers
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from minipeft.attached import kind_of
from minipeft.methods.parts.validation import check_count, shorten
from minipeft.model.kind import head_of
from minipeft.tasks import chat, scoring, tables
from minipeft.tasks import labels as spellings
from minipeft.tasks.encoding import Encoding, Example
from tiny_transformer.checkpoints import data_folder

SPLITS = ("train", "dev", "test", "ood")
KINDS = ("generate", "cloze", "classify", "tag", "regress")
NUMBER = ("number",)  # the one label of a regression: what its head gives


@dataclass(frozen=True)
class Task:
    """A named task with its splits; see the module's table for `kind`.

    Attributes:
        family: "latent" (the base can do it, the word that asks is missing) or "novel".
        labels: the label words of classify and tag; NUMBER of regress; None otherwise.
        splits: name -> examples. "ood" is out of domain: unseen entities or longer inputs.
        details: what else task.json tells (descriptions, wordings of a relation).
    """

    name: str
    kind: str
    splits: dict[str, tuple[Example, ...]]
    family: str = "novel"
    labels: tuple[str, ...] | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"A task's kind is one of {', '.join(KINDS)}, not {self.kind!r}.")
        if self.kind in ("classify", "tag") and not self.labels:
            raise ValueError(f"A task of kind {self.kind!r} needs labels; give labels=[...].")
        if self.kind == "regress":
            object.__setattr__(self, "labels", NUMBER)

    def __getattr__(self, name: str) -> tuple[Example, ...]:
        if name in SPLITS:  # task.train, task.dev, task.test, task.ood
            return self.examples(name)
        raise AttributeError(f"A Task has no attribute {name!r}.")

    def examples(self, split: str) -> tuple[Example, ...]:
        """The examples of one split."""
        if split not in self.splits:
            raise ValueError(
                f"Task {self.name!r} has no split {split!r}; it has {', '.join(self.splits)}."
            )
        return self.splits[split]

    def _first(self, split: str, limit: int | None) -> tuple[Example, ...]:
        if limit is not None:
            check_count("limit", limit)
        return self.examples(split)[:limit]

    def batches(
        self,
        split: str,
        tokenizer,
        model_kind: str = "decoder",
        batch_size: int = 32,
        seed: int = 0,
        epochs: int | None = None,
        steps: int | None = None,
        head: str | None = None,
        limit: int | None = None,
    ) -> Batches:
        """Batches for training: iterate over them, or ask for `batches(step)`.

        Args:
            model_kind: "decoder", "encoder" or "encoder-decoder".
            epochs, steps: where iteration ends; with neither it goes on for ever.
            head: "language", "classification" or "tagging". Default: tagging for tag,
                classification for classify with an encoder, language otherwise.
            limit: only the first so many examples (low-data experiments).

        Returns:
            an object that gives dicts of tensors: input_ids and attention_mask (B, T), labels
            (B, T) with -100 where nothing is asked, or (B,) for a classification head.
        """
        encoded = Encoding(self, tokenizer, model_kind, head)
        return Batches(encoded, self._first(split, limit), batch_size, seed, epochs, steps)

    def score(
        self, model, tokenizer, split: str = "test", limit: int | None = None, batch_size: int = 64
    ) -> dict[str, float]:
        """Measure a model, in eval mode, on the first `limit` examples of a split.

        Returns:
            generate: exact (whole text) and overlap (ROUGE-L); cloze: accuracy among all words;
            classify: accuracy among the labels; tag: accuracy of all words and entity f1;
            regress: Pearson's correlation and the mean squared error; see
            `minipeft.tasks.scoring`.
        """
        examples = self._first(split, limit)
        predictions = self.predict(model, tokenizer, [e.input for e in examples], batch_size)
        return scoring.scores(self, predictions, [example.target for example in examples])

    def predict(self, model, tokenizer, inputs: Sequence[str], batch_size: int = 64) -> list[str]:
        """What the model answers to each input: a text, a label word, or tags with spaces.

        Under `route`, which names one tuner for every input, each input is answered by its own.
        """
        encoding = Encoding(self, tokenizer, kind_of(model), head_of(model))
        return scoring.answers(encoding, model, inputs, batch_size)


class Batches:
    """Shuffled batches of one split. `batches(step)` is always the same batch for the same seed."""

    def __init__(self, encoding: Encoding, examples, batch_size, seed, epochs, steps):
        if not examples:
            raise ValueError("This split has no examples; choose another split.")
        check_count("batch_size", batch_size)
        for name, value in dict(epochs=epochs, steps=steps).items():
            if value is not None:
                check_count(name, value)
        self.encoding, self.examples = encoding, list(examples)
        self.batch_size, self.seed = batch_size, seed
        self.per_epoch = -(-len(self.examples) // batch_size)
        self.steps = steps if steps is not None else epochs and epochs * self.per_epoch
        self.order: tuple[int, list[int]] = (-1, [])  # of one epoch, since shuffling takes time

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("These batches have no end; give steps= or epochs= to batches().")
        return self.steps

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of this step: the order is a function of (seed, epoch)."""
        epoch, place = divmod(step, self.per_epoch)
        if self.order[0] != epoch:
            self.order = epoch, list(range(len(self.examples)))
            random.Random(f"{self.seed}/{epoch}").shuffle(self.order[1])
        chosen = self.order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return self.encoding.batch([self.examples[i] for i in chosen])

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        step = 0
        while self.steps is None or step < self.steps:
            yield self(step)
            step += 1


def folder() -> Path:
    """Where the project's tasks lie: tasks/ in `tiny_transformer.data_folder()`.

    Raises:
        FileNotFoundError: there is none.
    """
    tasks = data_folder() / "tasks"
    if not tasks.is_dir():
        raise FileNotFoundError(
            f"No tasks in {tasks.parent}; run `python data/generate.py` or set MINIPEFT_DATA to a "
            "folder that holds tasks/."
        )
    return tasks


def names() -> list[str]:
    """The tasks that the project ships."""
    return sorted(path.parent.name for path in folder().glob("*/task.json"))


def load(name: str | Path) -> Task:
    """A task of the project by its name, or a folder with task.json and <split>.jsonl files.

    Raises:
        FileNotFoundError: no such task; the message lists those that exist.
        ValueError: a file that is not in the form described here.
    """
    place = Path(name).expanduser()
    if not (place / "task.json").is_file():
        place = folder() / str(name)
    if not (place / "task.json").is_file():
        raise FileNotFoundError(f"There is no task {str(name)!r}; choose of {', '.join(names())}.")
    try:
        description = json.loads((place / "task.json").read_text(encoding="utf-8"))
    except ValueError:
        description = None
    if not isinstance(description, dict) or "kind" not in description:
        raise ValueError(
            f"{place / 'task.json'} must be a JSON object that says at least "
            f'{{"kind": "classify"}}; kinds are {", ".join(KINDS)}.'
        )
    splits = {s: read(place / f"{s}.jsonl") for s in SPLITS if (place / f"{s}.jsonl").is_file()}
    labels = description.pop("labels", None)
    return Task(
        name=description.pop("name", place.name),
        kind=description.pop("kind"),
        family=description.pop("family", "novel"),
        labels=tuple(labels) if labels else None,
        splits=splits,
        details=description,
    )


def read(
    path: str | Path,
    input: str = "input",
    target: str = "target",
    names: tuple[str, ...] | None = None,
    words: bool = False,
) -> tuple[Example, ...]:
    """Examples of a data file (see `tables`); `input` and `target` name two of its columns.

    Args:
        names: of all columns of a .csv or .tsv file that has no header.
        words: for tagging: a space inside a word of a list is written as "␣".

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a missing column, or a broken line (its number is told); see
            `tables.read`.
    """
    rows = tables.read(path, (input, target), names, words=words)
    return tuple(Example(row[input], row[target]) for row in rows)


def make(name: str, kind: str, labels: Sequence[str] | None = None, **splits) -> Task:
    """A task of your own: `make("mine", "generate", train=examples, test=examples)`.

    Examples are `Example`s, (input, target) pairs, dicts with "input" and "target" (such as the
    rows of a datasets.Dataset) or, for generate with a tokenizer that has a chat template, with
    "messages" (see `minipeft.tasks.chat`), or a path that `read` opens. For classify and tag,
    labels are those of the train split, in order of appearance, when not given.

    Raises:
        ValueError: a split or a row that cannot be read.
    """
    filled = {}
    for split, given in splits.items():
        if split not in SPLITS:
            raise ValueError(f"Splits are {', '.join(SPLITS)}, not {split!r}.")
        words, single = kind == "tag", kind in ("classify", "regress")
        rows = read(given, words=words) if isinstance(given, (str, Path)) else given
        if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
            raise ValueError(
                f"The {split} split must be rows, such as (input, target) pairs, or the name of a "
                f"file, not {type(rows).__name__}."
            )
        filled[split] = tidied(kind, (example(row, words, single) for row in rows))
    if labels is None and kind in ("classify", "tag"):
        said = [e.target for e in filled.get("train", ())]
        labels = dict.fromkeys(said if kind == "classify" else " ".join(said).split())
        spellings.check(labels)
    task = Task(name, kind, filled, labels=tuple(map(str, labels)) if labels else None)
    if kind in ("classify", "tag"):
        check_labels(task)
    return task


def check_labels(task: Task) -> None:
    """Refuse labels that are there twice. An answer that is none of them is refused where its batch
    is made, so that a split can be left alone.

    Raises:
        ValueError: such a label; the sentence names it.
    """
    twice = next((label for label in task.labels if task.labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"The label {twice!r} is twice in labels={task.labels}: give it once.")


def example(row, words: bool = False, single: bool = False) -> Example:
    """An `Example` of an (input, target) pair, or of a dict with these two columns or messages.

    words: a list holds words, or their tags; see `tables.read`.  single: a target is one answer.
    """
    if isinstance(row, Example):
        return row
    if isinstance(row, Mapping):
        if "messages" in row and not {"input", "target"} <= set(row):
            return Example(*chat.example(chat.read(row["messages"], "A row"), "A row"))
        if not {"input", "target"} <= set(row):
            raise ValueError(
                f"A row has the columns {', '.join(map(repr, row))}, but needs 'input' and "
                "'target': rename them, as in dict(input=row['text'], target=row['label'])."
            )
        row = row["input"], row["target"]
    if isinstance(row, str) or not isinstance(row, Sequence) or len(row) != 2:
        raise ValueError(f"An example is an (input, target) pair or a dict, not {row!r:.80}.")
    text, target = as_text(row[0], "input", words), as_text(row[1], "target", words, single)
    if chat.is_chat(target):
        return Example(*chat.answered(chat.messages_of(text), target, "A row"))
    return Example(text, target)


def as_text(value, column: str, words: bool, single: bool = False) -> str:
    """A value of a row as text; a list of words or tags, also one of numpy or torch, is joined by
    spaces, messages are a conversation.

    Raises:
        ValueError: it is None or NaN, no text, or several answers where `single` says one.
    """
    if isinstance(value, Tensor) or getattr(value, "ndim", 0):
        value = value.tolist()
    if value is None or (isinstance(value, numbers.Real) and value != value):
        raise ValueError(f"A row has {value} for its {column}: fill it, or leave the row out.")
    if isinstance(value, (bytes, bytearray, Mapping, set)):
        raise ValueError(
            f"A row has {shorten(value)} for its {column}: give text, a number or a list of words."
        )
    if isinstance(value, (list, tuple)):
        if single and len(value) > 1 and not isinstance(value[0], Mapping):
            raise ValueError(
                f"A row has the list {shorten(value)} for its {column}, where one answer belongs: "
                "make one label of the list, or a row of each."
            )
        if value and all(isinstance(each, Mapping) for each in value):
            return chat.written(chat.read(value, f"The {column} of a row"))
        return tables.spaced(value) if words else tables.spaced(value, " ")
    return str(value)


def tidied(kind: str, examples: Iterable[Example]) -> tuple[Example, ...]:
    """The examples; spaces around a class or a number are no part of it."""
    if kind not in ("classify", "regress"):
        return tuple(examples)
    return tuple(Example(text, target.strip()) for text, target in examples)
