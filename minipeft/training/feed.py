"""Batches by number, whatever they were given as: a list, a function of the step, an iterable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch


class Feed:
    """Number of a micro-batch -> the micro-batch, whatever `batches` is.

    seed: of the order of a list.  begin: the number that is asked for first, above 0 in a run that
    goes on.
    """

    def __init__(self, batches, seed: int, begin: int) -> None:
        self.batches = batches
        self.seed = seed
        self.orders: dict[int, list[int]] = {}
        if isinstance(batches, Mapping):
            raise TypeError("batches must hold dicts, and is one: give [batch] to repeat a batch.")
        if isinstance(batches, list | tuple):
            if not batches:
                raise ValueError("There are no batches to train on: the list is empty.")
            self.kind = "list"
        elif callable(batches):
            self.kind = "function"
        elif isinstance(batches, Iterable):
            self.kind = "iterable"
            self.running = iter(batches)
            for _ in range(begin):  # an iterable cannot be asked for its 500th batch: draw them all
                self.draw()
        else:
            raise TypeError(f"batches must be a list, a function or an iterable, not {batches!r}.")

    def __call__(self, number: int) -> dict:
        if self.kind == "function":
            return self.batches(number)
        if self.kind == "iterable":
            return self.draw()
        return self.batches[self.place(number)]

    def place(self, number: int) -> int:
        """Where in the list the micro-batch of this number is."""
        epoch, place = divmod(number, len(self.batches))
        if epoch not in self.orders:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(len(self.batches), generator=generator).tolist()
            self.orders = {epoch: order}
        return self.orders[epoch][place]

    def draw(self) -> dict:
        """The next batch of an iterable, which begins anew when it has ended.

        Raises:
            ValueError: it cannot begin anew, as a generator cannot.
        """
        try:
            return next(self.running)
        except StopIteration:
            self.running = iter(self.batches)
        try:
            return next(self.running)
        except StopIteration:
            raise ValueError(
                "The batches ran out and cannot begin again: give a list or a function of the step."
            ) from None
