"""LoRA with biases that are trained as well: 🤗 PEFT's `lora_bias=True` and `bias="all"`.

In the weights door. Path: attach(model, LoRABias(...)) -> LoRABias.install -> tuner.add(place,
LoRABiasPatch) -> WeightDoor.forward, which computes y = W0 x + b0 and calls
LoRABiasPatch.forward(x, y). A `place` is a linear map that the targets name; a door stands where it
stood and calls the patches of every tuner.

LoRA's equation 3 (Hu et al. 2021, arXiv 2106.09685) with a bias b that is trained (the numbers of
the equations are ours):

    h = W0 x + b0 + (alpha / r) (B A x + b)            bias="detour"                    (eq. 1)
    h = W0 x + (b0 + b) + (alpha / r) B A x            bias="adapted"                   (eq. 2)

    W0 (out, in), b0 (out,) frozen    A (r, in), B (out, r), b (out,) trained
    x (N, T, in) -> A x (N, T, r) -> h (N, T, out)

bias="all" adds the bias of every other linear map and layer norm, as BitFit trains them. A map that
has no bias gets none by "adapted" and "all".

Start: B = 0 and b = 0, so that h is the base's exactly. dL/dA = 0 at the first step.

Merge: W0 + (alpha / r) B A and b0 + b, which needs a base that has a bias.

Parameters: LoRA's, and one per output feature of every map and norm that is named above.

Departures.
(1) Biases of the base. Paper: none are trained. PEFT: the base's own parameter is trained, so that
    it changes for every adapter. Here: a difference, as in BitFit, which can be off, merged, or on
    for some rows only; weight decay pulls it to 0, where PEFT's pulls the bias itself.
    Shown by test_peft_lora_parts.py::test_their_file_opens_is_saved_and_is_merged
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.methods.bitfit import BiasPatch
from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.parts.validation import check_choice


class LoRABiasPatch(LoRAPatch):
    """A (r, in), B (out, r) and b (out,).

    inside: b belongs to the detour and is multiplied with alpha / r, else to the base's map.
    """

    needs_bias = True  # of the base: where else should a merge write b?

    def __init__(self, in_features: int, out_features: int, *settings, inside: bool) -> None:
        super().__init__(in_features, out_features, *settings)
        self.b = nn.Parameter(torch.zeros(out_features))
        self.inside = inside
        self.bias_scale = self.scale if inside else 1.0

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (N, T, in), y = W0 x + b0 (N, T, out) -> h (N, T, out), in the dtype of y."""
        h = super().forward(x, y)  # eq. 1: and eq. 2 without b, (N, T, out)
        return (h + self.bias_scale * self.b).to(y.dtype)  # eq. 2: h, and of eq. 1, (N, T, out)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """(W0 + scale B A (out, in), b0 + b (out,))."""
        if bias is None:
            raise ValueError(
                "A LoRABias cannot be merged here: it adds a bias, and the base's map has none "
                "that it could be added to, so leave it attached."
            )
        return weight + self.delta().to(weight), bias + self.bias_scale * self.b.to(bias)


@dataclass(frozen=True)
class LoRABias(LoRA):
    """LoRA that trains biases too.

    Args:
        bias: "detour", "adapted" or "all"; see above.
        The others are LoRA's.
    """

    bias: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "bias", ("detour", "adapted", "all"))

    def install(self, tuner) -> None:
        places = tuner.find(self.targets, self.layers)
        ranks = tuner.choose(places, self.ranks, self.rank)
        alphas = tuner.choose(places, self.alphas, self.alpha)
        for place, rank, alpha in zip(places, ranks, alphas, strict=True):
            numbers = (place.in_features, place.out_features, rank, alpha)
            numbers += (self.dropout, self.rank_stabilized)
            inside = self.bias == "detour"
            if inside or place.module.bias is not None:
                tuner.add(place, LoRABiasPatch(*numbers, inside=inside))
            else:
                tuner.add(place, LoRAPatch(*numbers))
        adapted = {place.path for place in places}
        for place in tuner.anatomy.biased(True, True) if self.bias == "all" else ():
            if place.path not in adapted:
                tuner.add(place, BiasPatch(place.out_features))

    def learning_rates(self, tuner) -> dict[nn.Parameter, float]:
        detours = (patch for _, patch in tuner.patches if isinstance(patch, LoRAPatch))
        return {patch.B: self.plus or 1.0 for patch in detours}
