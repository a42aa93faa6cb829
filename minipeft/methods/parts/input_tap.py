"""How a patch at a feed-forward layer's last map learns what its first map has read.

taps = Taps(tuner)                an InputTap at every "up"
tap = taps.of(place)              the one of the feed-forward layer that ends at this "down"
tap.pop()                         what it saved in this pass, called at "down"
"""

from __future__ import annotations

from torch import Tensor

from minipeft.doors.patch import Patch


class InputTap(Patch):
    """Stands at a feed-forward layer's first map, saves what it reads and changes nothing."""

    saved_input: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.saved_input = x  # (N, T, C); the routed rows only, as at the last map
        return y

    def pop(self) -> Tensor:
        """The saved input (N, T, C), which is not kept any longer.

        Raises:
            ValueError: the first map has not been called.
        """
        x, self.saved_input = self.saved_input, None
        if x is None:
            raise ValueError("A feed-forward layer's last map was called without its first one.")
        return x


class Taps:
    """A tap at the first map of every feed-forward layer; a block may have several such layers.

    layers: numbers of the blocks, None for all.
    """

    def __init__(self, tuner, layers=None) -> None:
        self.of_block: dict[tuple, list[InputTap]] = {}  # (stack, layer) -> in the model's order
        for place in tuner.find(("up",), layers):
            tap = InputTap()
            self.of_block.setdefault((place.stack, place.layer), []).append(tap)
            tuner.add(place, tap)

    def of(self, place) -> InputTap:
        """The tap of the layer whose last map this is; to be asked once for each, in order.

        Raises:
            ValueError: the block has fewer first maps than last ones.
        """
        left = self.of_block.get((place.stack, place.layer))
        if not left:
            raise ValueError(
                f"{place.path} ends a feed-forward layer, and this block has no first map to it, "
                "whose input is read as well: take another method, such as "
                'Adapter(placement="pfeiffer") or LoRA.'
            )
        return left.pop(0)
