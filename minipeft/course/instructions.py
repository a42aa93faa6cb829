"""Lesson 19, first half: families of instructions, some of which are never trained.

families = load_families()               # name -> Family: questions and answers by split
seen, unseen = split_families(8, seed=0) # eight to learn from, three that no run ever sees
task = mixed(families, seen)             # a task with all of them, told in the new form

The base knows every family by its word: `reverse : cat sun =>`. The *new form* is one that it never
read, `the reverse of cat sun =>`. What is to be learnt is the form, not the families.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from minipeft.course.runs import attached, loss_and_exact, rows_of
from minipeft.methods.method import Method
from minipeft.tasks.tasks import Task, load, make
from minipeft.training.loop import train

OLD, NEW = "{word} : {x} =>", "the {word} of {x} =>"
HELD_OUT = 3  # families of every seed that no run sees
SPLITS = ("train", "dev", "test")
NUMERALS = "zero one two three four five six".split()

Examples = dict[str, list[tuple[str, str]]]  # split -> questions without their word, and answers


def _strings(name: str) -> Examples:
    return _of(name, lambda row, answer: answer)


def _of(task: str, answer: Callable[[list[str], str], str]) -> Examples:
    """The questions of a task with other answers: answer(words of the question, its target)."""
    source = load(task)
    return {
        split: [
            (x := example.input.removesuffix("=>").strip(), answer(x.split(), example.target))
            for example in source.examples(split)
        ]
        for split in SPLITS
    }


def load_families() -> dict[str, Examples]:
    """Eleven families: eight functions of rows of nouns, three questions about a story."""
    made = {
        name: _strings(name) for name in ("copy", "rotate", "swap", "double", "reverse", "last")
    }
    made["first"] = _of("copy", lambda row, answer: f"{row[0]} .")
    made["count"] = _of("copy", lambda row, answer: f"{NUMERALS[len(row)]} .")
    made["headline"] = _strings("headline")
    for place, name in ((0, "hero"), (2, "thing")):  # ben buys key in tokyo .
        made[name] = _of("headline", lambda row, answer, i=place: f"{answer.split()[i]} .")
    return made


def split_families(count: int, seed: int) -> tuple[list[str], list[str]]:
    """(names to learn from, names that are held out). More of them include fewer of the same seed.

    Raises:
        ValueError: there are not so many besides those held out.
    """
    names = list(FAMILIES)
    random.Random(f"families/{seed}").shuffle(names)
    if not 1 <= count <= len(names) - HELD_OUT:
        raise ValueError(f"Between 1 and {len(names) - HELD_OUT} families can be learnt from.")
    return names[HELD_OUT:][:count], names[:HELD_OUT]


FAMILIES = ("copy", "rotate", "swap", "double", "reverse", "last", "first", "count")
FAMILIES += ("headline", "hero", "thing")


def as_task(families: Mapping[str, Examples], name: str, form: str = NEW) -> Task:
    """One family in a form, as a task."""
    splits = {
        split: [(form.format(word=name, x=x), y) for x, y in examples]
        for split, examples in families[name].items()
    }
    return make(name, "generate", **splits)


def mixed(families: Mapping[str, Examples], names: Sequence[str], form: str = NEW) -> Task:
    """Several families as one task, in turns, so that the first rows hold all of them alike."""
    every = [as_task(families, name, form) for name in names]
    splits = {
        split: [
            example
            for group in zip(*(task.examples(split) for task in every), strict=False)
            for example in group
        ]
        for split in SPLITS
    }
    return make(" + ".join(names), "generate", **splits)


def right(model: nn.Module, tokenizer, task: Task, rows: int, split: str = "test") -> float:
    """Share of the questions that are answered word for word."""
    return loss_and_exact(model, rows_of(task, split, tokenizer, model, None, rows))[1]


def instructed(
    pair: tuple[nn.Module, object],
    method: Method,
    families: Mapping[str, Examples],
    count: int,
    rate: float,
    steps: int,
    seed: int,
    rows: int = 60,
    batch_size: int = 16,
) -> dict:
    """Tune on so many families in the new form, and ask all of them; the base is the same after.

    Returns:
        "dev": loss on the families that were trained.  "seen", "unseen": mean share of right
        answers on those that were, and on those held out.  "by family": name -> share.
    """
    model, tokenizer = pair
    seen, unseen = split_families(count, seed)
    task = mixed(families, seen)
    with attached(model, method, seed=seed):
        batches = task.batches("train", tokenizer, batch_size=batch_size, seed=seed)
        train(model, batches, steps, rate, seed=seed, progress=False)
        dev = loss_and_exact(model, rows_of(task, "dev", tokenizer, model, None, 2 * rows))[0]
        every = {n: right(model, tokenizer, as_task(families, n), rows) for n in (*seen, *unseen)}
    mean = lambda names: sum(every[n] for n in names) / len(names)  # noqa: E731
    return {"dev": dev, "seen": mean(seen), "unseen": mean(unseen), "by family": every}
