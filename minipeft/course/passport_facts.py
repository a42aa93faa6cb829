"""What a passport says of a method without training it: door, counts, bytes, merging, latency."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from minipeft import tasks
from minipeft.contexts import evaluating
from minipeft.course.runs import attached, rows_of
from minipeft.course.transfer import training_bytes
from minipeft.doors.memory import MemoryDoor
from minipeft.doors.words import WordDoor
from minipeft.methods.method import Method
from minipeft.routing import route, wrap
from minipeft.tuner import Tuner


def facts(model: nn.Module, tokenizer, method: Method) -> dict:
    """What needs no training: door, counts, bytes, identity, merging, mixed batches."""
    batch = rows_of(tasks.load("reverse"), "dev", tokenizer, model, rows=4)
    before = answers(model, batch)
    with attached(model, method, seed=0) as tuner, tempfile.TemporaryDirectory() as folder:
        report = tuner.report()
        counts = dict(
            **dict(trained=report.trainable, stored=report.stored, head=report.head),
            **dict(base=report.base, door=door_of(tuner), memory=training_bytes(model)),
            identity=largest_difference(before, answers(model, batch)),
        )
        tuner.save(folder)
        disk = sum(file.stat().st_size for file in Path(folder).iterdir())
        shake(tuner, seed=0)
        shaken = answers(model, batch)
        try:
            merged = largest_difference(shaken, answers(tuner.merge().model, batch)) < 1e-3
        except ValueError:
            merged = False
    return counts | dict(disk=disk, mergeable=merged, mixed=mixes(model, method, batch))


def mixes(model: nn.Module, method: Method, batch: dict[str, Tensor]) -> bool:
    """Can one batch go through two tuners of this method and the bare base, each row its own?"""
    difference = mixed_difference(model, method, batch)
    return difference is not None and difference < 1e-3


def mixed_difference(model: nn.Module, method: Method, batch: dict[str, Tensor]) -> float | None:
    """Rows of two tuners and of the bare base in one batch against three separate runs.

    The largest difference between their logits; None for a method that cannot be routed.
    batch: of 4 rows.
    """
    alone = [answers(model, batch)]
    for seed in (1, 2):
        with attached(model, method, name=f"number{seed}", seed=seed) as tuner:
            shake(tuner, seed)
            alone.append(answers(model, batch))
    who = [0, 1, 2, 1]
    try:
        with (
            attached(model, method, name="number1", seed=1) as one,
            attached(model, method, name="number2", seed=2) as two,
        ):
            shake(one, 1)
            shake(two, 2)
            with route(model, [f"number{i}" if i else None for i in who]):
                together = answers(model, batch)
    except ValueError:  # it trains the base's own numbers, which act on every row
        return None
    return largest_difference([alone[i][row] for row, i in enumerate(who)], together)


@torch.no_grad()
def answers(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    """The logits of each row where something is asked; soft prompts are put in here."""
    with evaluating(model):
        batch = wrap(model, batch)
        logits = model(**batch).logits
    return [row[asked] for row, asked in zip(logits, batch["labels"] != -100, strict=True)]


def largest_difference(these: list[Tensor], those: list[Tensor]) -> float:
    """The largest difference between two lists of logits."""
    return max((a - b).abs().max().item() for a, b in zip(these, those, strict=True))


@torch.no_grad()
def shake(tuner: Tuner, seed: int, size: float = 0.02) -> None:
    """Random changes to everything that is trained, in place of a training."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in tuner.parameters():
        parameter += size * torch.randn(parameter.shape, generator=generator)


def door_of(tuner: Tuner) -> str:
    """By which of the doors it comes in; "the base itself" for what is trained in place."""
    kinds = [
        "words" if isinstance(door, WordDoor) else "memory"
        for door in tuner.doors()
        if isinstance(door, WordDoor | MemoryDoor)
    ]
    if len(tuner.doors()) > len(kinds) and tuner.patches:
        kinds.append("weights")
    if tuner.base_values or (tuner.copies and not tuner.patches):
        kinds.append("the base itself")
    return ", ".join(dict.fromkeys(kinds))


@torch.no_grad()
def latency(model: nn.Module, method: Method, batch: int, repeats: int) -> list[float]:
    """Time of a pass over 32 tokens, with the method and without, in turns: median and quartiles.

    What else the machine does falls on both: every pass is compared with its neighbour.
    """
    bare = copy.deepcopy(model).eval()
    ids = torch.arange(32 * batch).reshape(batch, 32) % 500 + 20  # (B, T)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def seconds(one: nn.Module) -> float:
        began = time.perf_counter()
        one(**given)
        return time.perf_counter() - began

    with attached(model, method, seed=0), evaluating(model):
        seconds(bare), seconds(model)  # the first pass of each is slow
        ratios = [seconds(model) / seconds(bare) for _ in range(max(2, repeats))]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return [middle, low, high]
