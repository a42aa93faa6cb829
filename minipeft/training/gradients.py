"""The gradient of one step: micro-batches, processes, precision. `loop.py` has the idea in a line.

    loss, norm = gradients.of_step(run, step, forward_backward)

adds up what `forward_backward(batch, weight)` gives for each micro-batch of the step, in each
process for its own rows, and clips the sum. In float16 a step whose gradients overflow is done
again with a smaller scale of the loss (see precision.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from minipeft.training.batches import tidy
from minipeft.training.distributed import SingleProcess
from minipeft.training.feed import Feed
from minipeft.training.precision import Precision
from minipeft.training.savings.kept_trunk import Trunk


class Diverged(ValueError):
    """The loss, or its gradient, is not a number any more."""


class Gradients:
    """Forward and backward passes of a run.

    precision: the values that are trained.  feed: number of a micro-batch -> the micro-batch.
    accumulate: micro-batches of a step.  clip: longest gradient, None for any.  trunk: what frozen
    blocks gave for each batch of a list, or None.
    """

    def __init__(
        self,
        precision: Precision,
        feed: Feed,
        accumulate: int,
        clip: float | None,
        processes: SingleProcess,
        trunk: Trunk | None,
    ) -> None:
        self.precision, self.feed, self.accumulate = precision, feed, accumulate
        self.clip, self.processes, self.trunk = clip or math.inf, processes, trunk
        self.parameters = list(precision.parameters.values())
        self.device = self.parameters[0].device

    def of_step(self, run, step: int, forward_backward: Callable) -> tuple[float, float]:
        """(loss of the step, norm of its gradient before clipping); the gradients are in place.

        forward_backward: (batch, weight) -> the batch's loss; adds weight times its gradient.

        Raises:
            Diverged: loss or gradient is not a number any more.
        """
        batches = self.batches(step)
        loss, norm = self.summed(step, batches, forward_backward)
        while math.isfinite(loss) and not math.isfinite(norm):
            if not self.precision.lower(step, run.history.records):
                break
            loss, norm = self.summed(step, batches, forward_backward)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"The loss is {loss} and the gradient's norm {norm} at step {step}, with a "
                f"learning rate of {run.rate:.2g}: lower it, or look for rows whose labels are "
                f"all -100{self.precision.hint()}. The weights are those before this step."
            )
        return loss, norm

    def batches(self, step: int) -> list[dict]:
        """The micro-batches of a step."""
        first = step * self.accumulate
        return [self.feed(number) for number in range(first, first + self.accumulate)]

    def summed(self, step: int, batches: list[dict], forward_backward) -> tuple[float, float]:
        """One try of a step, with the scale of the loss as it is."""
        losses, weights = [], []
        self.precision.clear()
        for part, whole in enumerate(batches):
            number = step * self.accumulate + part
            batch, times = self.processes.share(tidy(whole, self.device))
            weights.append(1 / (self.accumulate * times))
            with self.processes.noise(number), self.kept(number):
                loss = forward_backward(batch, weights[-1] * self.precision.scale)
            losses.append(loss.detach().reshape(()))
            self.precision.gather()
        several = self.processes.size > 1  # they add up their losses with their gradients
        loss = self.processes.reduce(weighted(weights, numbers(losses))) if several else None
        self.precision.unscale()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if several:
            return loss, norm.item()
        *losses, norm = numbers([*losses, norm])
        return weighted(weights, losses), norm

    def kept(self, number: int):
        """Inside, the frozen blocks of a trunk that has seen this batch before do not work."""
        return self.trunk.of(self.feed.place(number)) if self.trunk else nullcontext()


def numbers(values: Sequence[Tensor]) -> list[float]:
    """What is in tensors of one number each, where one device has them all waiting for it once."""
    if len({value.device for value in values}) > 1:
        return [value.item() for value in values]
    return torch.stack([*values]).tolist()


def weighted(weights: Sequence[float], values: Sequence[float]) -> float:
    """The sum of the values, each times its weight."""
    return sum(weight * value for weight, value in zip(weights, values, strict=True))
