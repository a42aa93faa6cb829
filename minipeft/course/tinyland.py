"""Questions about Tinyland, for lessons 01 and 02, and the share that a model answers right.

questions, answers = puzzles("reverse", 200)     # rows of nouns that no text has
exact(model, tokenizer, questions, answers)      # 0 to 1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from minipeft.tasks import load

FUNCTIONS = ("last", "copy", "double", "rotate", "swap", "reverse")
Asked = tuple[list[str], list[str]]  # questions and their answers


@torch.no_grad()
def exact(model: nn.Module, tokenizer, questions: Sequence[str], answers: Sequence[str]) -> float:
    """Share of answers that greedy writing would get right, word for word.

    A greedy answer is right exactly when each next word is right, given the right words before it:
    one pass over question and answer tells, and nothing need be written.
    """
    whole = tokenizer([f"{q} {a}" for q, a in zip(questions, answers, strict=True)])
    start = tokenizer(list(questions))["attention_mask"].sum(1)  # (B,), where the answer begins
    best = model(**whole).logits[:, :-1].argmax(-1)  # (B, T - 1)
    target = whole["input_ids"][:, 1:]  # (B, T - 1)
    place = torch.arange(1, target.shape[1] + 1)  # (T - 1,)
    asked = (place >= start[:, None]) & (whole["attention_mask"][:, 1:] == 1)
    return ((best == target) | ~asked).all(1).double().mean().item()


def puzzles(name: str, rows: int, trigger: bool = True) -> Asked:
    """About so many questions on rows of nouns that no text of the corpus has.

    trigger: begin with the word that asks, `reverse : cat sun =>`; without it, `cat sun =>`.
    """
    task = load(name)
    every = [*task.test, *task.ood]
    examples = every[:: max(1, len(every) // rows)]
    word = f"{name} : " if trigger else ""
    return [word + e.input for e in examples], [e.target for e in examples]


def capitals(
    wording: str = "the capital of {x} is {y} .", countries: int | None = None, but: str = ""
) -> Asked:
    """The capitals of all countries, or of the first so many, but for one; in one wording."""
    task = load("capital")
    every = [e for split in ("train", "dev", "test") for e in task.examples(split)][:countries]
    every = [e for e in every if e.input != but]
    before = wording.split("{y}")[0].strip()
    return [before.format(x=e.input) for e in every], [e.target for e in every]
