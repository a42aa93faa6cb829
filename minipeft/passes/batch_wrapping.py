"""What a tuner with words of its own does to a batch."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from minipeft.doors.positions import columns_as_positions, keep_positions
from minipeft.doors.words import check_entries, check_mask, choice_by_choice
from minipeft.methods.method import Method
from minipeft.model.anatomy import Anatomy
from minipeft.model.devices import on_host
from minipeft.model.sites import Place, Site
from minipeft.passes.answers import keep_pointers


class BatchWrapping:
    """The part of a `Tuner` that puts its words into a batch."""

    method: Method
    anatomy: Anatomy
    enabled: bool
    words: range | None
    patches: list[tuple[Place | Site, nn.Module]]

    def wrap(self, batch: dict) -> dict:
        """The batch as the model must see it with this tuner. `train` and `generate` call it."""
        if not self.enabled or "input_ids" not in batch or self.words_in(batch["input_ids"]):
            return batch
        if batch["input_ids"].dim() == 3:
            return keep_pointers(batch, lambda b: choice_by_choice(b, self.wrap))
        wrap = partial(self.method.wrap, self)
        if self.words is None:
            return wrap(batch)
        check_mask(batch)
        check_entries(batch)
        if self.as_in_peft:
            spell = self.anatomy.takes_positions()
            return keep_pointers(batch, lambda b: columns_as_positions(b, wrap, spell=spell))
        limit = self.anatomy.positions()
        return keep_pointers(batch, lambda b: keep_positions(b, wrap, limit))

    @property
    def as_in_peft(self) -> bool:
        """Has this tuner's method, or a part of it, `compatibility="peft"`?"""
        return any(part.compatibility == "peft" for part in self.method.parts())

    @property
    def counts(self) -> bool:
        """Do the rows it acts on count their own tokens? See `minipeft.doors.positions`."""
        return not self.as_in_peft and any(isinstance(place, Site) for place, _ in self.patches)

    def words_in(self, ids: Tensor) -> bool:
        """Are this tuner's words in these ids already?"""
        if self.words is None:
            return False
        ids = on_host(ids)
        return bool(((ids >= self.words.start) & (ids < self.words.stop)).any())
