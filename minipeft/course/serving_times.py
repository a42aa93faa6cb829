"""Lesson 17: times of a batch whose rows belong to several users, always as ratios to the base's.

bench = Bench(model, users=32, method=LoRA(rank=8))
bench.compare(users=(1, 8, 32), rows=32, tokens=32, repeats=9)     # users -> way -> ratios
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

import tiny_transformer as tt
from minipeft.contexts import evaluating, seeded
from minipeft.course.passport_facts import shake
from minipeft.methods.lora import LoRA
from minipeft.routing import route
from minipeft.tuner import attach

WAYS = ("one mixed pass", "a pass for each user", "merge, pass, unmerge")


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turns(
    base: Callable[[], object], arms: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Arm -> ratios of its time to that of the base, each to a neighbour's in time.

    What else the machine does falls on both, so that a ratio hardly depends on it. Every arm, and
    the base, runs once before, because a first pass is slow.
    """
    base()
    for call in arms.values():
        call()
    ratios: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, call in arms.items():
            ratios[name].append(seconds(call) / seconds(base))
    return ratios


def middle(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return median, low, high


def said(ratios: Sequence[float]) -> str:
    """As text: 1.23 (1.20-1.31)."""
    median, low, high = middle(ratios)
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def larger(width: int = 256, layers: int = 4) -> nn.Module:
    """A decoder with random weights, for times only."""
    numbers = dict(vocab_size=512, width=width, layers=layers, heads=8, positions=64, dropout=0.0)
    with seeded(0):
        return tt.Decoder(tt.TransformerConfig.gpt2(**numbers)).eval()


class Bench:
    """One base three times: bare, with a LoRA for each user, and with one LoRA to be merged.

    The numbers of the LoRAs are random: they change the answers, and no time.
    """

    def __init__(self, model: nn.Module, users: int, method: LoRA) -> None:
        self.bare, self.shared, self.single = model, copy.deepcopy(model), copy.deepcopy(model)
        self.tuners = []
        for number in range(users):
            self.tuners.append(attach(self.shared, method, name=f"user{number}", seed=number))
            shake(self.tuners[-1], number)
        self.one = attach(self.single, method)

    def ways(self, users: int, batch: dict[str, Tensor]) -> dict[str, Callable[[], object]]:
        """Three ways to answer a batch (R, T) whose rows belong to the first users, in turns."""
        tuners = self.tuners[:users]
        names = [tuners[row % users].name for row in range(len(batch["input_ids"]))]
        parts = [{key: value[n::users] for key, value in batch.items()} for n in range(users)]

        def mixed() -> None:
            with route(self.shared, names):
                self.shared(**batch)

        def one_by_one() -> None:
            for tuner, part in zip(tuners, parts, strict=True):
                with route(self.shared, [tuner.name] * len(part["input_ids"])):
                    self.shared(**part)

        def merged() -> None:
            for tuner, part in zip(tuners, parts, strict=True):
                for (_, empty), (_, patch) in zip(self.one.patches, tuner.patches, strict=True):
                    empty.load_state_dict(patch.state_dict())
                self.one.merge()
                self.single(**part)
                self.one.unmerge()

        return dict(zip(WAYS, (mixed, one_by_one, merged), strict=True))

    @torch.no_grad()
    def compare(
        self, users: Sequence[int], rows: int, tokens: int, repeats: int
    ) -> dict[int, dict[str, list[float]]]:
        """Number of users -> way -> ratios to a pass of the bare base over the same rows."""
        ids = torch.arange(rows * tokens).reshape(rows, tokens) % 400 + 20  # (R, T)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        measured = {}
        with evaluating(self.bare), evaluating(self.shared), evaluating(self.single):
            for count in users:
                ways = self.ways(count, batch)
                measured[count] = in_turns(lambda: self.bare(**batch), ways, repeats)
        return measured

    @torch.no_grad()
    def merged_once(self, rows: int, tokens: int, repeats: int) -> list[float]:
        """Ratios of a pass of a model into which one adapter is merged for good."""
        ids = torch.arange(rows * tokens).reshape(rows, tokens) % 400 + 20  # (R, T)
        self.one.merge()
        with evaluating(self.bare), evaluating(self.single):
            ratios = in_turns(lambda: self.bare(ids), {"": lambda: self.single(ids)}, repeats)
        self.one.unmerge()
        return ratios[""]
