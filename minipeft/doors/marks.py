"""What a door notes about each of its patches; minipeft.passes.reach looks at it after a pass."""

from __future__ import annotations


class Mark:
    """Was a patch used?

    Attributes:
        read: since the last pass began.  ever: in any pass.
        skipped: a soft prompt's embedding was called since then, without the prompt.
        weight_read: a linear map's weight was asked for since then; of a layer that is copied, any
            of its numbers, or another method than forward.
        lengths: of the inputs that a soft prompt was found in.
    """

    def __init__(self) -> None:
        self.read = self.ever = self.skipped = self.weight_read = False
        self.lengths: set[int] = set()

    def clear(self) -> None:
        """A new pass begins: what the last one has read is kept in `ever` only."""
        self.ever |= self.read
        self.read = self.skipped = self.weight_read = False
