"""One visit to the doctor: what is examined, the batch, and what examinations tell one another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from minipeft.analysis.examinations.census import Census, census, part_of
from minipeft.analysis.examinations.subject import Subject, answering


class LeftOut(Exception):
    """An examination does not apply; the text says why."""


class Visit:
    """What examinations are given.

    Attributes:
        subject: the model and what was added to it.
        batch: what the model is called with, labels included.
        rate: the learning rate of the steps that are tried.
        restore: gives the model its first values back.
        asks: do the labels ask for anything?
        why_unreached: why a pass of the model as it is stops; "" where it does not.
        dtype: of the logits.
    """

    def __init__(
        self, subject: Subject, batch: Mapping, rate: float, restore: Callable[[], None]
    ) -> None:
        self.subject, self.batch, self.rate, self.restore = subject, dict(batch), rate, restore
        self.asks, self.why_unreached = True, ""
        self.dtype = torch.float32  # of the logits

    @torch.no_grad()
    def logits(self, batch: Mapping | None = None, module: nn.Module | None = None) -> Tensor:
        """The model's logits in eval mode, in float32 or wider."""
        with answering(self.subject), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = self.subject.model if module is None else module
            logits = part_of(call(**(self.batch if batch is None else batch)), "logits")
        self.dtype = logits.dtype
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @cached_property
    def tuned(self) -> Tensor:
        """The logits of the batch, as the model is."""
        return self.logits()

    def untuned(self, batch: Mapping | None = None) -> Tensor:
        """The logits of the base alone."""
        with self.subject.disabled() as module:
            return self.logits(batch, module)

    @cached_property
    def training(self) -> Census:
        """The gradients of two steps in train mode, after which the model is as before."""
        result = census(self.subject, self.batch, self.rate, training=True)
        self.restore()
        return result

    @cached_property
    def plain(self) -> Census:
        """The same in eval mode: no dropout, no layer left out, no checkpointing."""
        result = census(self.subject, self.batch, self.rate, training=False)
        self.restore()
        return result

    def check_passes(self) -> None:
        """Raise LeftOut where no pass of the model is possible."""
        if self.why_unreached:
            raise LeftOut("no pass reaches what was added")

    def check_training(self) -> None:
        """Raise LeftOut where nothing is learnt from this batch."""
        self.check_passes()
        if not self.asks:
            raise LeftOut("the labels ask for nothing")
        if not self.subject.trains():
            raise LeftOut("nothing is trained: all that was added is frozen, as for answering")


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    size = float(b.abs().max()) if b.numel() else 0.0
    return float((a - b).abs().max()) / max(size, 1e-30) if b.numel() else 0.0


def noise(dtype: torch.dtype) -> float:
    """The largest share by which logits of equal computations may differ in a dtype."""
    eps = torch.finfo(dtype).eps
    return 300 * eps if dtype.itemsize >= 4 else 16 * eps
