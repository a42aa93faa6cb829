"""Lesson 05: adapters left out layer by layer, broken on purpose, and what a step of them costs.

with without(tuner, [0, 1]):        # the adapters of the two lowest blocks add nothing
    task.score(model, tokenizer)
symptoms(model, batch)              # four broken adapters, measured
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.contexts import evaluating
from minipeft.course.runs import attached
from minipeft.course.transfer import training_bytes
from minipeft.methods.adapter import Adapter
from minipeft.methods.method import Method
from minipeft.report import Table
from minipeft.training.loop import train
from minipeft.training.loss import loss_of
from minipeft.tuner import Tuner


@dataclass(frozen=True)
class NormsOnly(Method):
    """Train every layer norm of the base, as adapters do beside themselves, and nothing else."""

    def install(self, tuner) -> None:
        for path in tuner.anatomy.norms(None):
            tuner.copy(path)


@contextmanager
def without(tuner: Tuner, layers: Sequence[int]) -> Iterator[None]:
    """The adapters of these layers add nothing (s = 0) inside the block; layer norms stay trained.

    Raises:
        ValueError: an adapter without a skip would give back zeros, which is another question.
    """
    patches = [patch for place, patch in tuner.patches if place.layer in layers]
    if any(not patch.skip for patch in patches):
        raise ValueError("Adapters without a skip cannot be left out: they would give back zeros.")
    scales = [patch.scale for patch in patches]
    try:
        for patch in patches:
            patch.scale = 0.0
        yield
    finally:
        for patch, scale in zip(patches, scales, strict=True):
            patch.scale = scale


def spans(tuner: Tuner, layers: int, score: Callable[[], float]) -> list[list[float]]:
    """[first][last] -> the score without the adapters of layers first to last; nan below the line.

    As in figure 6 of Houlsby et al. 2019.
    """
    table = [[float("nan")] * layers for _ in range(layers)]
    for first in range(layers):
        for last in range(first, layers):
            with without(tuner, range(first, last + 1)):
                table[first][last] = score()
    return table


# -- the start -------------------------------------------------------------------------------------


def at_the_start(model: nn.Module, method: Method, batch: dict, seed: int = 0) -> dict[str, float]:
    """What a method does before it has learnt anything.

    Returns:
        "moved": the largest change of a logit.  "loss": on the batch.  "gradient": length of the
        loss's gradient with respect to the adapters of the lowest block.  "passed": length of what
        the lowest adapter gives back, divided by the length of what it gets.
    """
    before = _logits(model, batch)
    with attached(model, method, seed=seed) as tuner, evaluating(model):
        lengths: list[float] = []
        hook = tuner.patches[0][1].register_forward_hook(
            lambda _, given, h: lengths.append((h.norm() / given[1].norm()).item())
        )
        moved = (_logits(model, batch) - before).abs().max().item()
        loss = loss_of(model, batch)
        lowest = [
            p for place, patch in tuner.patches if not place.layer for p in patch.parameters()
        ]
        gradients = torch.autograd.grad(loss, lowest)
        hook.remove()
        length = torch.stack([g.norm() for g in gradients]).norm().item()
    return {"moved": moved, "loss": loss.item(), "gradient": length, "passed": lengths[0]}


@torch.no_grad()
def _logits(model: nn.Module, batch: dict) -> Tensor:
    with evaluating(model):
        return model(**batch).logits.clone()


# -- broken on purpose -----------------------------------------------------------------------------


@dataclass(frozen=True)
class BothZero(Adapter):
    """W_down and W_up start at zero."""

    def install(self, tuner) -> None:
        super().install(tuner)
        for _, patch in tuner.patches:
            nn.init.zeros_(patch.down.weight)
            nn.init.zeros_(patch.up.weight)


FAULTS = {
    "a": "the layer norms are frozen",
    "b": "the skip is missing",
    "c": "one adapter per block: the one behind attention is missing",
    "d": "W_down and W_up both start at zero",
    "e": "the first weights are far too large",
}
PATIENTS = {
    "healthy": Adapter(bottleneck=16),
    "A": Adapter(bottleneck=16, placement="pfeiffer", norms=True),
    "B": BothZero(bottleneck=16),
    "C": Adapter(bottleneck=16, skip=False),
    "D": Adapter(bottleneck=16, norms=False),
}


def symptoms(model: nn.Module, batch: dict, steps: int = 30, rate: float = 1e-2) -> Table:
    """What can be seen of each of PATIENTS from outside, on one batch."""
    rows = []
    for name, method in PATIENTS.items():
        start = at_the_start(model, method, batch)
        with attached(model, method, seed=0) as tuner:
            trained = sum(parameter.numel() for parameter in tuner.parameters())
            maps = [w for _, patch in tuner.patches for w in (patch.down.weight, patch.up.weight)]
            first = [w.detach().clone() for w in maps]
            losses = train(model, [batch], steps, rate, progress=False).losses
            still = sum(torch.equal(w, old) for w, old in zip(maps, first, strict=True))
        seen = f"{start['moved']:.2g}", f"{start['passed']:.2f}", f"{still} of {len(maps)}"
        rows.append((name, f"{trained:,}", *seen, f"{losses[-1]:.2f}"))
    head = (
        *("", "numbers trained", "logits moved at first", "length of h at first"),
        *("matrices that never moved", "loss"),
    )
    return Table(f"Four patients, {steps} steps on one batch", head, rows)


# -- cost ------------------------------------------------------------------------------------------


def costs(
    model: nn.Module, methods: Sequence[Method], batch: dict, repeats: int = 15
) -> list[dict[str, float]]:
    """What a training step of each method costs, forward and backward, without the optimizer's own.

    The methods take turns, so that a machine that is busy for a while is busy for all of them.

    Returns:
        For each method "numbers trained"; "weights, gradients and Adam, bytes", as
        `training_bytes` counts them; "products of a step, forward and backward": floating-point
        operations of all matrix products, counted; "seconds of a step": of the processor, the
        least of `repeats`, so that what else the machine does hardly counts.
    """
    seconds = [math.inf] * len(methods)
    for _ in range(repeats):
        for i, method in enumerate(methods):
            with attached(model, method, seed=0):
                loss_of(model, batch).backward()  # the first makes the gradients' memory
                began = time.process_time()
                loss_of(model, batch).backward()
                seconds[i] = min(seconds[i], time.process_time() - began)
            model.zero_grad(set_to_none=True)
    return [
        _counted(model, method, batch) | {"seconds of a step": least}
        for method, least in zip(methods, seconds, strict=True)
    ]


def _counted(model: nn.Module, method: Method, batch: dict) -> dict[str, float]:
    from torch.utils.flop_counter import FlopCounterMode

    with attached(model, method, seed=0) as tuner:
        with FlopCounterMode(display=False) as counter:
            loss_of(model, batch).backward()
        model.zero_grad(set_to_none=True)
        return {
            "numbers trained": sum(parameter.numel() for parameter in tuner.parameters()),
            "weights, gradients and Adam, bytes": sum(training_bytes(model).values()),
            "products of a step, forward and backward": counter.get_total_flops(),
        }


# -- a picture -------------------------------------------------------------------------------------


def block_with_adapters():
    """A transformer block with its two adapters, and one adapter from near; the figure."""
    from minipeft.analysis import plots
    from minipeft.course.pictures import FROZEN

    trained = plots.COLOURS["adapter"]
    figure, (left, right) = plots.figure(2, height=4.2)
    for y, name in ((0.0, "attention"), (4.2, "feed-forward")):
        _path(left, (0, y - 0.4), (0, y + 3.3))
        _path(left, (0, y), (2.6, y), (2.6, y + 3.5), (0.17, y + 3.5))  # the residual path
        _box(left, y + 0.7, "layer norm", trained)
        _box(left, y + 1.65, name, FROZEN)
        _box(left, y + 2.6, "adapter", trained)
        _sum(left, y + 3.5)
    _path(left, (0, 7.9), (0, 8.5))
    left.set(xlim=(-2, 3.2), ylim=(-0.5, 8.6), title="one block, its input below")
    _path(right, (0, -0.4), (0, 4.5))
    _path(right, (0, 0.1), (2.4, 0.1), (2.4, 4.7), (0.17, 4.7))
    _path(right, (0, 4.9), (0, 5.6))
    _box(right, 0.95, r"$W_{down}$: C $\to$ m", trained)
    _box(right, 2.1, r"$\varphi$", FROZEN, 1.2)
    _box(right, 3.25, r"$W_{up}$: m $\to$ C", trained)
    _sum(right, 4.7)
    right.text(2.5, 2.4, "skip:\nh itself", va="center")
    right.set(xlim=(-2, 3.8), ylim=(-0.5, 5.7), title="one adapter, h below")
    for axes in (left, right):
        axes.axis("off")
    plots.readable(figure)
    plots.add_caption(figure, "Grey is frozen, violet is trained. Each block gets two adapters.")
    return figure


def _box(axes, y: float, text: str, colour: str, width: float = 2.6) -> None:
    from matplotlib.patches import FancyBboxPatch

    from minipeft.course.pictures import EDGE, FROZEN, INK

    corner = (-width / 2, y - 0.31)
    axes.add_patch(
        FancyBboxPatch(corner, width, 0.62, boxstyle="round,pad=0.04", fc=colour, ec=EDGE, zorder=2)
    )
    ink = INK if colour == FROZEN else "w"
    axes.text(0, y, text, ha="center", va="center", color=ink, zorder=3)


def _sum(axes, y: float) -> None:
    circle = {"boxstyle": "circle", "fc": "w"}
    axes.text(0, y, "+", ha="center", va="center", bbox=circle, zorder=3)


def _path(axes, *points: tuple[float, float]) -> None:
    """A line through the points with an arrow at its end."""
    from minipeft.course.pictures import EDGE

    axes.plot(*zip(*points[:-1], strict=True), color=EDGE, zorder=1)
    style = {"arrowstyle": "->", "color": EDGE, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", points[-1], points[-2], arrowprops=style, zorder=1)
