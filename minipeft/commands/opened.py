"""A run, an adapter or a plain base -> a model that is ready to answer, and what it answers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import minipeft as mp
from minipeft.commands import bases, data, pooling, runs
from minipeft.files.saving import read
from minipeft.model.families import TASK_HEADS
from minipeft.tasks.heads import head_for
from minipeft.tasks.pronunciation import Alphabet
from minipeft.tasks.tasks import NUMBER, Task
from minipeft.tuner import Tuner

NUMBERED = re.compile(r"LABEL_\d+")  # what transformers calls a label that has no name
LONGEST_ANSWER = ((40, 40), (8, 1))  # tokens and words, where no training tells; of a cloze task


@dataclass
class Opened:
    """tuner: None for a plain base.  kind, labels: what the run was trained for, if it is known."""

    base: bases.Base
    tuner: Tuner | None
    kind: str | None
    labels: tuple[str, ...] | None
    config: dict | None

    @property
    def taken(self) -> int:
        """How many positions the tuner takes from every text."""
        return self.tuner.taken if self.tuner else 0

    def notes_of_chance(self, what: str) -> list[str]:
        """A line where the head of `what` has learnt nothing."""
        if self.tuner or not self.base.fresh or self.base.head == "language":
            return []
        return [f"note: {what} has no {self.base.head} head: a random one answers."]


def add_flags(parser: argparse.ArgumentParser, bare: bool = True) -> None:
    """WHAT and how its base is opened; bare: may it be a base without an adapter?"""
    what = "a run's folder, an adapter's folder, or a base"
    parser.add_argument("what", help=what if bare else "a run's folder, or an adapter's folder")
    parser.add_argument(
        "--base", help="the base of an adapter (default: the one that its run was trained on)"
    )
    parser.add_argument(
        "--any-base",
        action="store_true",
        help="put an adapter on a base that it was not trained on, if the shapes allow",
    )
    bases.add_flags(parser)


def is_adapter(folder: str | Path) -> bool:
    """Is it a run, or a folder with a saved tuner?"""
    return runs.run_of(folder) is not None or (Path(folder) / "adapter_config.json").is_file()


def check_place(what: str) -> None:
    """Refuse a file, and a folder that holds nothing that can be opened.

    Raises:
        FileNotFoundError, ValueError: it is one; the sentence names folders in it that can be.
    """
    place = Path(what)
    if place.is_file():
        raise ValueError(f"{what} is a file: name the folder that it is in.")
    if place.is_dir() and not is_adapter(what) and not (place / "config.json").is_file():
        raise FileNotFoundError(f"{what} holds no run, no adapter and no base{runs.inner(what)}.")


def base_name(what: str, given: str | None, config: dict | None) -> str:
    """The base to open: the one that is named, or the one that the run was trained on.

    Raises:
        ValueError: an adapter that nobody named a base for, or a base for what is no adapter.
    """
    if given and not is_adapter(what):
        raise ValueError(f"--base is for an adapter, but {what} is none: leave --base away.")
    if given:
        return bases.absolute(given)
    if config:
        return config["base"]["name"]
    if is_adapter(what):
        named = read(Path(what))[0].get("base_model_name_or_path")
        example = f"--base {named}, as its file says" if named else "--base tiny-decoder for one"
        raise ValueError(f"{what} is an adapter: name the base that it belongs to, {example}.")
    return bases.absolute(what)


def open_model(
    options: argparse.Namespace,
    kind: str | None = None,
    labels: tuple[str, ...] | None = None,
    head: str | None = None,
) -> Opened:
    """Open what `options.what` names; kind, labels and head where no run tells them.

    Raises:
        FileNotFoundError, ValueError: it cannot be opened; one sentence.
    """
    what, notes = options.what, []
    check_place(what)
    kept = runs.labels_of(what)
    labels = kept or labels
    run = runs.run_of(what)
    config = run[1] if run else None
    base_to_open = base_name(what, options.base, config)
    options.local_only = bool(config) and not options.base  # the folder names it, not the user
    if config:
        options.family = options.family or config["options"].get("family")
        kind, labels, head = trained_by_run(what, config, kind, labels)
    elif is_adapter(what) and head in (None, "language"):
        known = (kind, labels, head)
        kind, labels, head = trained_in_adapter(what, base_to_open, options, known, kept, notes)
    if head is None:
        head = head_of_kind(base_to_open, options, kind, labels)
    if not is_adapter(what):
        labels = labels_of_base(base_to_open, options, head, labels, notes)
    if kind in ("classify", "tag") and labels is not None and len(labels) < 2:
        raise ValueError(
            f"The data have only the label {labels[0]!r}, and {what} knows no other by name: give "
            "a file with all labels."
        )
    seed = config["options"]["seed"] if config else 0
    of_head = labels if head != "language" else None
    base = bases.open_base(base_to_open, options, head, of_head, seed)
    base.notes += notes
    if config and config["task"].get("borrowed") and isinstance(base.tokenizer, bases.Letters):
        old, borrowed = base.tokenizer.alphabet, config["task"]["borrowed"]
        base.tokenizer.alphabet = Alphabet(old.graphemes, old.phonemes, borrowed)
    tuner = None
    if is_adapter(what):
        folder = runs.adapter_of(what)
        pooling.apply(base, pooling.kept(folder))
        tuner = mp.load(base.model, folder, "task", options.any_base, base.family)
    return Opened(base, tuner, kind, labels, config)


def trained_by_run(
    what: str, config: dict, kind: str | None, labels: tuple[str, ...] | None
) -> tuple[str, tuple[str, ...] | None, str]:
    """(kind, labels, head) of a run; kind, labels: as they were given.

    Raises:
        ValueError: it was trained for another kind.
    """
    task = config["task"]
    if kind and kind != task["kind"]:
        raise ValueError(f"{what} was trained for the kind {task['kind']!r}, not {kind!r}.")
    return task["kind"], tuple(task["labels"] or ()) or labels, config["base"]["head"]


def trained_in_adapter(
    what: str,
    base: str,
    options: argparse.Namespace,
    known: tuple,
    kept: tuple[str, ...] | None,
    notes: list[str],
) -> tuple[str | None, tuple[str, ...] | None, str | None]:
    """(kind, labels, head) of an adapter that no run tells about, by the head in its file.

    Its labels are called as those that are known, else as those of the base, else by numbers.
    known: (kind, labels, head) by the flags and the data, for a file without a head.
    kept: labels by a file beside the adapter, None where there is none.
    """
    saved_head = trained_head(what)
    if saved_head is None:
        return known
    kind, labels, _ = known
    head, trained_kind, numbered = saved_head
    if kept is None and labels and trained_kind != "regress":
        labels = names_for(labels, numbered, what, notes)
    named = (labels, bases.labels_in(base, options, head), numbered)
    labels = next(each for each in named if each and len(each) == len(numbered))
    return kind or trained_kind, labels, head


def head_of_kind(
    base: str, options: argparse.Namespace, kind: str | None, labels: tuple[str, ...] | None
) -> str:
    """The head that a base answers this kind of task with, where nothing says which."""
    if kind is None:
        return "language"
    # a decoder may have been fine-tuned with such a head
    if kind == "classify" and bases.labels_in(base, options, "classification") is not None:
        return "classification"
    return head_for(Task("task", kind, {}, labels=labels), bases.kind_of(base, options))


def trained_head(folder: str) -> tuple[str, str, tuple[str, ...]] | None:
    """(head, kind, labels) that an adapter's task_type and tensors tell; None for no such head.

    Its labels have no names in the file: they are called as transformers would call them.
    """
    settings, tensors, _ = read(Path(folder))
    by_task_type = {"SEQ_CLS": ("classification", "classify"), "TOKEN_CLS": ("tagging", "tag")}
    by_name = {"classes": by_task_type["SEQ_CLS"], "tags": by_task_type["TOKEN_CLS"]}  # if tiny
    parts = {part for key in tensors if ".head." in key for part in key.split(".")}
    of_tiny = next((by_name[part] for part in sorted(parts & {*by_name})), (None, None))
    head, kind = by_task_type.get(str(settings.get("task_type")), of_tiny)
    layers = [
        tensor
        for key, tensor in tensors.items()
        if tensor.dim() == 2 and set(key.split(".")) & {*TASK_HEADS, "head"}
    ]
    if head is None or not layers:
        return None
    count = min(map(len, layers))
    if kind == "classify" and count == 1:  # one number and nothing to choose from
        return head, "regress", NUMBER
    return head, kind, tuple(f"LABEL_{number}" for number in range(count))


def names_for(
    labels: Sequence[str], numbered: Sequence[str], what: str, notes: list[str]
) -> tuple[str, ...] | None:
    """The labels of data in the order of a head whose labels have numbers and no names.

    Whole numbers are the places themselves, LABEL_0 and so on too. Others can only be as they are
    sorted, which a note says; None where they are not as many as the head's.
    """
    places = tuple(str(number) for number in range(len(numbered)))
    for names in (tuple(numbered), places):
        if set(labels) <= set(names):
            return names
    if len(labels) != len(numbered):
        return None
    notes.append(
        f"the labels of {what} have numbers and no names: taken in the order {labels[0]}, "
        f"{labels[1]}{', ...' * (len(labels) > 2)}, which the data do not tell."
    )
    return tuple(labels)


def labels_of_base(
    base: str, options, head: str, labels, notes: list[str]
) -> tuple[str, ...] | None:
    """The labels of a base with a head of its own; those of the data where it has none.

    Raises:
        ValueError: the head has no names for its labels, and the data have another number of them.
    """
    names = bases.labels_in(base, options, head)
    if names is None:
        return labels
    if labels is None or not all(map(NUMBERED.fullmatch, names)):
        return names
    named = names_for(labels, names, base, notes)
    if named is None:
        raise ValueError(
            f"{base} has a head with {len(names)} labels without names, but the data have "
            f"{len(labels)}: it is not for these data."
        )
    return named


def task_for(opened: Opened, examples, name: str = "task") -> Task:
    """The examples as the test split of a task of the kind that was opened."""
    if opened.kind is None:
        raise ValueError(f"Say what the data asks for: --kind {', '.join(data.KINDS)}.")
    trained = opened.config["task"].get("longest") if opened.config else None
    longest = trained or LONGEST_ANSWER[opened.kind == "cloze"]
    details = {"longest": tuple(longest)}
    return Task(name, opened.kind, {"test": tuple(examples)}, labels=opened.labels, details=details)
