"""LoRA with biases that are trained as well: 🤗 PEFT's `lora_bias=True` and `bias="all"`.

    bias="detour"     h = W0 x + b0 + (alpha / r) (B A x + b)        b of every detour
    bias="adapted"    h = W0 x + (b0 + b) + (alpha / r) B A x        the adapted maps' own
    bias="all"        and the bias of every other linear map and layer norm, as BitFit trains them

b (out,) is 0 at the start, so that training begins at the base model. As in BitFit a bias of the
base is trained as a difference, so that it can be off, merged, or on for some rows only. A map that
has no bias gets none by "adapted" and "all".

Parameters: LoRA's, and one per output feature of every map and norm that is named above.

Departure: weight decay pulls b to 0, thus the bias to the base's; PEFT's pulls the bias itself.
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
        """x (B, T, in), y = W0 x + b0 (B, T, out) -> (B, T, out), in the dtype of y."""
        return (super().forward(x, y) + self.bias_scale * self.b).to(y.dtype)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """(W0 + scale B A (out, in), b0 + b (out,))."""
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
        detours = (patch for _, patch in tuner.places if isinstance(patch, LoRAPatch))
        return {patch.B: self.plus or 1.0 for patch in detours}
