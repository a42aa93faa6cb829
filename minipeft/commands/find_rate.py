"""`train --find-rate`: short runs at a few learning rates, and the curve of what they reached; the
rate of a fresh head; and what a run that learnt nothing should try.

Each run begins with the same seed and the same batches and is taken away again; the rate whose loss
is lowest at the end is the one to train with. A best rate at an edge of the grid is followed
further.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import minipeft as mp
from minipeft.commands import bases, runs
from minipeft.report import Table
from minipeft.tasks.scoring import LOWER_IS_BETTER
from minipeft.tasks.tasks import Task
from minipeft.training.gradients import Diverged
from minipeft.tuner import Tuner

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the rate that the grid stands around
EXTEND = 3  # so many rates more, at most, beyond an edge
# With MiniLM and LoRA at 1e-3: banking77 72 macro-F1 (21 with the head at 1e-3), WNUT-17 32 (18).
FRESH_HEAD = 1e-2
MOVED = 0.05  # a loss that has moved by less than this share of it has not moved
SHARE, FEWEST, MOST = 0.2, 20, 100  # of the run's steps; and its limits


def steps_of(steps: int) -> int:
    """How long each of the short runs is."""
    return min(steps, max(FEWEST, min(MOST, round(SHARE * steps))))


def reached(losses: list[float]) -> float:
    """Mean loss of the last quarter of a run; infinite where it is no number."""
    last = losses[-max(1, len(losses) // 4) :]
    mean = sum(last) / len(last)
    return mean if math.isfinite(mean) else math.inf


def best_of(curve: dict[float, float]) -> float:
    """The rate with the lowest loss."""
    return min(curve, key=curve.get)


def of_head(base: bases.Base, tuner: Tuner, given, rate: float) -> float | None:
    """The learning rate of the head; None where it learns as everything else does.

    A head that starts from random numbers has further to go than what is added to a trained base.
    rate: of everything else.
    """
    fresh = base.fresh and not vars(given).get("start")  # compare has no --start
    if given.head_rate is not None or not fresh or isinstance(tuner.method, mp.HeadOnly):
        return given.head_rate
    return max(rate, FRESH_HEAD)


def picture(folder: Path, curve: dict[float, float]) -> None:
    """rates.png in the run's folder."""
    runs.picture(folder / "rates.png", lambda axes: draw(axes, curve, best_of(curve)))


def find(base: bases.Base, attached: Callable[[], Tuner], task: Task, given) -> dict[float, float]:
    """Learning rate -> loss that it reached, for a grid around `given.learning_rate`.

    Each run begins with what `attached` gives. The base is afterwards as it was.

    Raises:
        ValueError: no rate gave a finite loss.
    """
    steps, curve = steps_of(given.steps), {}

    def try_rate(rate: float) -> None:
        tuner = attached()
        batches = task.batches(
            "train", base.tokenizer, base.kind, given.batch_size, given.seed, head=base.head
        )
        try:
            losses = mp.train(
                tuner.model, batches, steps, rate, warmup=0.1, seed=given.seed,
                clip=given.clip, weight_decay=given.weight_decay, accumulate=given.accumulate,
                progress=sys.stderr.isatty(), head_rate=of_head(base, tuner, given, rate),
            ).losses  # fmt: skip
        except Diverged:
            losses = [math.inf]
        finally:
            tuner.detach()
        curve[rate] = reached(losses)

    print(f"--find-rate: {steps} steps at each rate")
    for factor in FACTORS:
        try_rate(float(f"{factor * given.learning_rate:.3g}"))
    for _ in range(EXTEND):
        best, rates = best_of(curve), sorted(curve)
        if best not in (rates[0], rates[-1]):
            break
        try_rate(float(f"{best / 3 if best == rates[0] else best * 3:.3g}"))
    best = best_of(curve)
    if curve[best] == math.inf:
        raise ValueError(
            "--find-rate: no learning rate gave a finite loss; look at the data, and try --dtype "
            "float32."
        )
    rows = [
        (f"{rate:g}", f"{loss:.4f}", "<- this one" if rate == best else "")
        for rate, loss in sorted(curve.items())
    ]
    print(Table("loss at the end of a short run", ("learning rate", "loss", ""), rows))
    return curve


def draw(axes, curve: dict[float, float], best: float) -> None:
    """Loss by learning rate."""
    rows = [(rate, loss) for rate, loss in sorted(curve.items()) if math.isfinite(loss)]
    axes.plot(*zip(*rows, strict=True), marker="o")
    axes.axvline(best, linestyle=":", color="grey")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss at the end of a short run")


def advice(
    losses: list[float],
    always: list[str | None],
    rate: float,
    default: float,
    best: tuple[str, float] | None = None,
) -> list[str]:
    """What a run that learnt nothing says: which rate to try.

    Args:
        losses: of every step.
        always: the one answer to all inputs, at every validation; None where answers differ.
        rate: the learning rate of the run.
        default: that of the method; a run far above it that learnt nothing is told to go there.
        best: name and value of the score that decides, for the weights that were kept.
    """
    if len(losses) < FEWEST:
        return []
    few = len(losses) // 10
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    moved = f"the loss went from {first:.3g} to {last:.3g}"
    if last > (1 + MOVED) * first:
        return [f"note: {moved}: try --learning-rate {rate / 10:g}, or --find-rate."]
    is_zero = best is not None and best[0] not in LOWER_IS_BETTER and best[1] <= 0
    one_answer = always[-1] if always and (all(always) or is_zero) else None
    learns = last < (1 - MOVED) * first  # it may do so for long before a score tells
    if one_answer is None and not is_zero and learns:
        return []
    seen = f", and every answer on dev is {one_answer!r}" if one_answer else ""
    seen += f", and the best {best[0]} on dev is {best[1]:.3g}" if is_zero else ""
    longer, factor = ("train longer, ", 3) if is_zero and learns else ("", 10)
    other_rate = default if rate > 2 * default else factor * rate
    return [f"note: {moved}{seen}: {longer}try --learning-rate {other_rate:g}, or --find-rate."]
