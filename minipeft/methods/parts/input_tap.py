"""How a patch at a feed-forward layer's last map learns what its first map has read.

taps = taps_at_up(tuner)          an InputTap at every "up"
taps[stack, layer].pop()          what it saved in this pass, called at "down"
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


def taps_at_up(tuner, layers=None) -> dict[tuple, InputTap]:
    """A tap at the first map of every feed-forward layer: (stack, layer) -> tap."""
    taps = {}
    for place in tuner.find(("up",), layers):
        taps[place.stack, place.layer] = InputTap()
        tuner.add(place, taps[place.stack, place.layer])
    return taps
