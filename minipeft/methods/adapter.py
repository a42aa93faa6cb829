"""Adapters: a small two-layer network inside every frozen layer, in the weights door.

Houlsby et al. 2019 (arXiv 1902.00751), section 2.1 and figure 2.

Path: attach(model, Adapter(...)) -> Adapter.install -> tuner.add(place, AdapterPatch) ->
WeightDoor.forward of a sublayer's output projection, which computes y and calls
AdapterPatch.forward(x, y) in every pass, before y is added to the residual stream. A `place` is a
linear map that the targets name; a door stands where it stood and calls the patches of every tuner.
Layer norms: tuner.copy(path) trains a copy, which a door calls in the norm's place. "parallel":
Taps puts an InputTap at the feed-forward layer's first map; it keeps x, and `pop` gives it.

What a sublayer gives back, h, is changed (the numbers of the equations are ours):

    h <- h + s (W_up phi(W_down h + b_down) + b_up)                                     (eq. 1)
    h <- h + s (W_up phi(W_down x + b_down) + b_up)           parallel, x the input     (eq. 2)

    W_down (m, C)   b_down (m,)   W_up (C, m)   b_up (C,)   all trained     m << C the bottleneck
    s = `scale`, a fixed number; 1, as Houlsby et al. have it, unless it is set
    h (N, T, C) -> W_down h (N, T, m) -> phi -> W_up (..) (N, T, C), which is added to h
    (N rows of T tokens)

| placement  | where it stands                                   | paper                          |
|------------|---------------------------------------------------|--------------------------------|
| "houlsby"  | after attention's output projection and after the | Houlsby et al. 2019            |
|            | feed-forward's; every layer norm is trained too   |                                |
| "pfeiffer" | after the feed-forward's output projection only   | Pfeiffer et al. 2021           |
|            |                                                   | (arXiv 2005.00247)             |
| "parallel" | beside the feed-forward layer, eq. 2              | He et al. 2022                 |
|            |                                                   | (arXiv 2110.04366), section 3.3 |

Start: weights from N(0, sigma^2), cut at 2 sigma, biases 0: near the identity, since the skip "h +"
lets everything else pass. `skip=False` shows what it is for. With sigma = 0, W_up is 0: exactly the
base, and dL/dW_down = dL/db_down = 0 at the first step; with sigma > 0 no gradient is 0.

Merge: impossible, phi is not linear.

Parameters: 2 m C + C + m each, trained and stored. Per block one; with "houlsby" two, and a third
for the cross-attention of an encoder-decoder's decoder, whose output counts as attention's. A layer
norm adds 2 C (C where it has no bias).

🤗 PEFT has no such adapters: "PEFT: none".

Departures.
(1) Dropout. Paper: figure 2 has the model's own between projection and adapter. PEFT: none. Here:
    the model's comes after; `dropout` falls on the hidden features.
    Shown by test_adapter.py::test_dropout_falls_on_the_hidden_features_only_in_training
(2) sigma. Paper: 0.01 in the text, 0.001 in the code. PEFT: none. Here: 0.01; `sigma=0` takes W_up
    = 0 and W_down uniform as in LoRA, as He et al. start theirs.
    Shown by test_adapter.py::test_the_start_is_normal_cut_at_two_sigma
(3) Input of a parallel adapter. Paper: x of the feed-forward layer. PEFT: none. Here: what its
    first map reads, in a pre-norm model x after its layer norm.
    Shown by test_adapter.py::test_a_parallel_adapter_reads_the_input_of_the_feed_forward_layer
(4) Chosen layers. Paper: all. PEFT: none. Here: with `layers=` the layer norms of these blocks only
    are trained, else those around them too.
    Shown by test_adapter.py::test_layers_choose_adapters_and_norms
(5) Norm before the adapter. Paper: Pfeiffer et al. add one to some of theirs. PEFT: none. Here:
    left out.
    Shown by test_adapter.py::test_counts_identity_and_gradients_on_every_architecture
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.patch import Patch
from minipeft.methods.method import Method
from minipeft.methods.parts.input_tap import InputTap, Taps
from minipeft.methods.parts.validation import check_choice, check_flag, check_layers, check_number

PLACEMENTS = {"houlsby": ("output", "down"), "pfeiffer": ("down",), "parallel": ("down",)}
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}


class AdapterPatch(Patch):
    """One adapter, behind the last map of a sublayer.

    Args:
        width, bottleneck: C and m.
        activation, sigma, scale, skip, dropout: see `Adapter`.
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
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)  # +-1/sqrt C; drawn anew below unless sigma = 0
        self.up = nn.Linear(bottleneck, width)
        self.phi = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.scale, self.skip = scale, skip
        nn.init.zeros_(self.down.bias), nn.init.zeros_(self.up.bias)
        if sigma == 0:
            nn.init.zeros_(self.up.weight)
        else:
            for linear in (self.down, self.up):
                nn.init.trunc_normal_(linear.weight, std=sigma, a=-2 * sigma, b=2 * sigma)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """h = y (N, T, C) -> y + s (W_up phi(W_down h + b_down) + b_up), in the dtype of y."""
        change = self.change(y)  # (N, T, C)
        return (y + change if self.skip else change).to(y.dtype)  # eq. 1: (N, T, C)

    def change(self, h: Tensor) -> Tensor:
        """What is added: (N, T, C)."""
        low = self.phi(self.down(h.to(self.down.weight.dtype)))  # eq. 1: (N, T, m)
        return self.scale * self.up(self.dropout(low))  # eq. 1: (N, T, C)


class ParallelAdapterPatch(AdapterPatch):
    """An adapter beside the feed-forward layer: it reads what that layer's first map has read.

    tap: the patch at the first map, which has saved it.
    """

    def __init__(self, width: int, bottleneck: int, *settings, tap: InputTap) -> None:
        super().__init__(width, bottleneck, *settings)
        self.tap = tap

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """y (N, T, C) -> y + s (W_up phi(W_down x + b_down) + b_up), in the dtype of y."""
        return (y + self.change(self.tap.pop())).to(y.dtype)  # eq. 2: (N, T, C)


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
        settings = (self.activation, self.sigma, self.scale, self.skip, self.dropout)
        taps = Taps(tuner, self.layers) if self.placement == "parallel" else None
        for place in tuner.find(PLACEMENTS[self.placement], self.layers):
            size = (place.out_features, self.bottleneck)
            if taps is not None:
                patch = ParallelAdapterPatch(*size, *settings, tap=taps.of(place))
            else:
                patch = AdapterPatch(*size, *settings)
            tuner.add(place, patch)
        if self.norms or (self.norms is None and self.placement == "houlsby"):
            for path in tuner.anatomy.norms(self.layers):
                tuner.copy(path)
