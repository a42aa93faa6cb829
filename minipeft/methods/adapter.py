"""Adapters: a small two-layer network inside every frozen layer, in the weights door.

Houlsby et al. 2019 (arXiv 1902.00751), section 2.1 and figure 2. What a sublayer gives back, h, is
changed before it is added to the residual stream:

    h <- h + W_up phi(W_down h + b_down) + b_up

    W_down (m, C)   b_down (m,)   W_up (C, m)   b_up (C,)   h (C,)   m the bottleneck, m << C

    Near the identity at the start: the weights are drawn from N(0, sigma^2), cut at 2 sigma, the
    biases are 0, and the skip "h +" lets everything else pass. `skip=False` shows what it is for.

| placement  | where it stands                                   | paper                          |
|------------|---------------------------------------------------|--------------------------------|
| "houlsby"  | after attention's output projection and after the | Houlsby et al. 2019            |
|            | feed-forward's; every layer norm is trained too   |                                |
| "pfeiffer" | after the feed-forward's output projection only   | Pfeiffer et al. 2021           |
|            |                                                   | (arXiv 2005.00247)             |
| "parallel" | beside the feed-forward layer: reads its input x, | He et al. 2022                 |
|            | h <- h + s (W_up phi(W_down x + b_down) + b_up)   | (arXiv 2110.04366), section 3.3 |

Parameters: 2 m C + C + m each. Per block one, with "houlsby" two, and one more for the
cross-attention of a decoder in an encoder-decoder, whose output counts as attention's output. A
layer norm adds 2 C (C where it has no bias). phi is not linear, so adapters cannot be merged.

Departures.
(1) Figure 2 has the model's own dropout between projection and adapter; here it comes after.
(2) sigma = 0.01 as in the text; the released code has 0.001. With `sigma=0` W_up is 0 and W_down
    uniform as in LoRA, so that the start is exact (He et al. start theirs so).
(3) "parallel" reads what the feed-forward layer's first map reads: in a pre-norm model, x after
    its layer norm. `dropout` falls on the hidden features; Houlsby has none.
(4) With `layers=`, the layer norms of these blocks only are trained, else those around them too.
(5) Pfeiffer et al. add a layer norm before some of their adapters; we leave it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.methods.method import Method
from minipeft.methods.parts.input_tap import Listener, Note
from minipeft.methods.parts.validation import check_choice, check_flag, check_layers, check_number

PLACEMENTS = {"houlsby": ("output", "down"), "pfeiffer": ("down",), "parallel": ("down",)}
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}


class AdapterPatch(nn.Module):
    """One adapter, behind the last map of a sublayer.

    Args:
        width, bottleneck: C and m.
        activation, sigma, scale, skip, dropout: see `Adapter`.
        note: a parallel adapter reads the tensor left there; None reads y.
    """

    def __init__(
        self,
        width: int,
        bottleneck: int,
        activation: str = "gelu",
        sigma: float = 0.01,
        scale: float = 1.0,
        skip: bool = True,
        dropout: float = 0.0,
        note: Note | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)  # uniform on +-1/sqrt C at first
        self.up = nn.Linear(bottleneck, width)
        self.phi = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.scale, self.skip, self.note = scale, skip, note
        nn.init.zeros_(self.down.bias), nn.init.zeros_(self.up.bias)
        if sigma == 0:
            nn.init.zeros_(self.up.weight)
        else:
            for linear in (self.down, self.up):
                nn.init.trunc_normal_(linear.weight, std=sigma, a=-2 * sigma, b=2 * sigma)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """y (B, T, C) -> y + s (W_up phi(W_down h + b_down) + b_up), in the dtype of y."""
        h = y if self.note is None else self.note.take()  # (B, T, C)
        low = self.phi(self.down(h.to(self.down.weight.dtype)))  # (B, T, m)
        change = self.scale * self.up(self.dropout(low))  # (B, T, C)
        return (y + change if self.skip else change).to(y.dtype)


@dataclass(frozen=True)
class Adapter(Method):
    """Adapters in every block.

    Args:
        bottleneck: m.
        placement: "houlsby", "pfeiffer" or "parallel".
        activation: phi: "gelu", "relu", "silu" or "tanh".
        sigma: standard deviation of the first weights; 0 starts exactly at the base model.
        scale: s, a factor of what the adapter adds (He et al. take 4 for "parallel").
        norms: train the layer norms; None does so for "houlsby" only, as the papers do.
        skip: False leaves "h +" out: to see why it is there.
        dropout: on the m hidden features.
        layers: numbers of the layers that get adapters, None for all.

    Raises:
        ValueError: when a value is impossible.
    """

    bottleneck: int = 16
    placement: str = "houlsby"
    activation: str = "gelu"
    sigma: float = 0.01
    scale: float = 1.0
    norms: bool | None = None
    skip: bool = True
    dropout: float = 0.0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_layers(self)
        check_choice(self, "placement", PLACEMENTS)
        check_choice(self, "activation", ACTIVATIONS)
        check_number(self, "bottleneck", "of at least 1", lambda m: m >= 1, whole=True)
        check_number(self, "sigma", "of at least 0", lambda sigma: 0 <= sigma < math.inf)
        check_number(self, "scale", "above 0", lambda scale: 0 < scale < math.inf)
        check_number(self, "dropout", "of at least 0 and below 1", lambda p: 0 <= p < 1)
        check_flag(self, "skip")
        check_flag(self, "norms", none=True)
        if self.placement == "parallel" and not self.skip:
            raise ValueError("A parallel adapter has no skip of its own: leave skip=True.")

    @property
    def identity_at_start(self) -> bool:
        """Exactly with sigma 0; nearly so otherwise, unless the skip is gone."""
        return self.sigma == 0 and self.skip

    def install(self, tuner) -> None:
        notes = {}  # of each block, for parallel adapters
        for place in tuner.find(("up",), self.layers) if self.placement == "parallel" else ():
            notes[place.stack, place.layer] = Note()
            tuner.add(place, Listener(notes[place.stack, place.layer]))
        settings = (self.activation, self.sigma, self.scale, self.skip, self.dropout)
        for place in tuner.find(PLACEMENTS[self.placement], self.layers):
            note = notes.get((place.stack, place.layer))
            tuner.add(place, AdapterPatch(place.out_features, self.bottleneck, *settings, note))
        if self.norms or (self.norms is None and self.placement == "houlsby"):
            for path in tuner.anatomy.norms(self.layers):
                tuner.copy(path)
