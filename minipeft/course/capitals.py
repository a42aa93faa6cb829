"""The capitals of the world, asked of a real model in ordinary spelling.

    rows = questions(tokenizer, "train")            # 80; 20 in "dev", 50 held out in "test"
    mp.train(model, batches(rows, 16, seed=0), steps=20, learning_rate=1e-2)
    scores_with(model, [template(wording, tokenizer) for wording in WORDINGS], together(rows))

An answer counts as right when its first token is the model's first choice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minipeft.methods.parts.templates import Template
from minipeft.tasks.tasks import load

START = "<|endoftext|>"  # what SmolLM2 read before every text
WORDINGS = (
    "The capital of {x} is",
    "The capital city of {x} is called",
    "The government of {x} sits in the city of",
    "My friend from {x} lives in the capital,",
    "In {x}, the most important city is",
    "{x}'s capital is",
    "{x}. The capital:",
    "{x}, capital:",
    "Q: What is the capital of {x}? A:",
    "People in {x} call",
    "{x}",
)
SPELT = {"dr_congo": "DR Congo", "port_au_prince": "Port-au-Prince"}

Row = tuple[list[int], int]  # ids of " France", first id of " Paris"


def spelt(name: str) -> str:
    """ "new_zealand" -> "New Zealand"."""
    return SPELT.get(name) or " ".join(word.capitalize() for word in name.split("_"))


def questions(tokenizer, split: str, task: str = "capital") -> list[Row]:
    """The countries of a split of a task, `capital` or `language` say, as ids of the tokenizer."""
    ids = lambda name: list(tokenizer(" " + spelt(name))["input_ids"])  # noqa: E731
    return [(ids(country), ids(answer)[0]) for country, answer in load(task).examples(split)]


def template(wording: str, tokenizer, n: int = 0) -> Template:
    """A wording as a template, the start of a text and n pseudo tokens before it."""
    return Template.read(f"{START}{'[P]' * n}{wording}{{mask}}", tokenizer)


def together(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows -> a batch, padded on the right: the country, then the first token of the answer."""
    longest = max(len(country) for country, _ in rows) + 1
    ids, mask, labels = [], [], []
    for country, answer in rows:
        padding = longest - len(country) - 1
        ids.append([*country, answer] + [0] * padding)
        mask.append([1] * (len(country) + 1) + [0] * padding)
        labels.append([-100] * len(country) + [answer] + [-100] * padding)
    names = ("input_ids", "attention_mask", "labels")
    return dict(zip(names, map(torch.tensor, (ids, mask, labels)), strict=True))  # each (B, T)


def batches(rows: Sequence[Row], size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
    """step -> a batch of at most `size` rows of equal length.

    Without padding, `train` runs what all rows begin with once for a batch, not once for a row
    (`minipeft.training.savings.shared_prompt`): three times as fast for short questions.
    """

    def epoch(number: int) -> list[list[Row]]:
        dice, chunks = random.Random(f"{seed}/{number}"), []
        for length in sorted({len(country) for country, _ in rows}):
            equal = [row for row in rows if len(row[0]) == length]
            dice.shuffle(equal)
            chunks += [equal[i : i + size] for i in range(0, len(equal), size)]
        dice.shuffle(chunks)
        return chunks

    per_epoch = len(epoch(0))
    return lambda step: together(epoch(step // per_epoch)[step % per_epoch])
