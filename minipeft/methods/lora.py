"""LoRA: low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), in the weights door.

Path: attach(model, LoRA(...)) -> LoRA.install -> tuner.add(place, LoRAPatch) -> WeightDoor.forward,
which computes y = W0 x and calls LoRAPatch.forward(x, y) in every pass. A `place` is a linear map
that the targets name; a door stands where it stood and calls the patches of every tuner. Parts of
one fused map (GPT-2's query and value) are computed together by parts/joined_lora.py, and tuners
on rows of their own by parts/grouped_lora.py: the same numbers, tested, in fewer operations.

Section 4.1. A frozen linear map W0 gets a low-rank detour beside it, which alone is trained:

    h = W0 x + (alpha / r) B A x                                                        (eq. 3)

    W0 (out, in) frozen    A (r, in) trained    B (out, r) trained    x (in,)    h (out,)

    With N rows of T tokens, in = out = 64 and r = 8: x (N, T, 64) -> A x (N, T, 8) ->
    B A x (N, T, 64), added to W0 x (N, T, 64). The code scales A x, which has the fewest numbers.

Start: B = 0, so that h = W0 x exactly; A is random. Then dL/dA = 0 at the first step and dL/dB is
not: B moves first.

Merge: W0 + (alpha / r) B A is one matrix (`delta`), and the detour costs nothing any more.

Parameters: r (in + out) for every map, trained and stored. Default: query and value of every
attention layer, as in the paper.

Departures.
(1) Start of A. Paper: a Gaussian. PEFT: uniform on +-1/sqrt(in), kaiming_uniform(a = sqrt 5). Here:
    as PEFT, since the authors' code (loralib) does so.
    Shown by test_lora.py::test_a_starts_uniform_within_one_over_root_in
(2) Scale. Paper: alpha / r. PEFT: alpha / r, or alpha / sqrt r with use_rslora. Here: the same;
    `rank_stabilized=True` is rsLoRA (Kalajdzievski 2023, arXiv 2312.03732), which keeps large ranks
    learning. Shown by test_lora.py::test_equation_3_for_any_shape
(3) Dropout. Paper: none in the equation. PEFT: on x on its way into A. Here: as PEFT and loralib.
    Shown by test_lora.py::test_dropout_falls_on_the_input_of_a_and_keeps_its_mean
(4) Precision. Paper: not said. PEFT: A and B in fp32 on a half-precision base. Here: the same,
    since small steps would be lost in the 8 significant bits of bf16.
    Shown by test_lora.py::test_a_half_precision_base_gets_fp32_patches
(5) Learning rate of B. Paper: that of A. PEFT: that of A, or create_loraplus_optimizer. Here: that
    of A; `plus=16` multiplies it (LoRA+, Hayou et al. 2024, arXiv 2402.12354), see
    parts/lora_plus.py. Shown by test_lora_variants.py::test_lora_plus_moves_b_faster
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.patch import Patch
from minipeft.methods.method import Method
from minipeft.methods.parts.lora_plus import lora_plus
from minipeft.methods.parts.validation import check_lora


class LoRAPatch(Patch):
    """The trained detour beside one linear map: A (r, in), B (out, r).

    Args:
        in_features, out_features: of the linear map.
        rank: r, at least 1.
        alpha: scale of the detour, divided by the rank (by its square root if rank_stabilized).
        dropout: probability that a feature of x is dropped on its way into A.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rank_stabilized: bool = False,
    ) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, in_features))
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (N, T, in), y = W0 x (N, T, out) -> h (N, T, out), in the dtype of y."""
        x = self.dropout(x.to(self.A.dtype))
        low = self.scale * F.linear(x, self.A)  # eq. 3: (alpha / r) A x, (N, T, r)
        detour = F.linear(low, self.B)  # eq. 3: (alpha / r) B A x, (N, T, out)
        return (y + detour).to(y.dtype)  # eq. 3: h, (N, T, out)

    def delta(self) -> Tensor:
        """The detour as one matrix, scale B A: (out, r) (r, in) -> (out, in). Merge: W0 + delta."""
        return self.scale * (self.B @ self.A)


@dataclass(frozen=True)
class LoRA(Method):
    """LoRA on every linear map that the targets name.

    Args:
        rank, alpha: r and alpha of equation 3.
        targets: words of the field ("query", "key", "value", "qkv", "output", "up", "gate", "down")
            or names of modules.
        dropout: on the way into A.
        rank_stabilized: scale alpha / sqrt r instead of alpha / r.
        ranks, alphas: another rank or alpha for some of the targets, {"value": 16}.
        layers: numbers of the layers to adapt, None for all.
        plus: B's learning rate as a multiple of A's; `train` honours it.

    Raises:
        ValueError: when a value is impossible.
    """

    rank: int = 8
    alpha: float = 16
    targets: tuple[str, ...] = ("query", "value")
    dropout: float = 0.0
    rank_stabilized: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict, hash=False)
    alphas: Mapping[str, float] = field(default_factory=dict, hash=False)
    layers: tuple[int, ...] | None = None
    plus: float | None = None

    Patch = LoRAPatch  # what is put beside each map; DoRA and PiSSA have their own

    def __post_init__(self) -> None:
        check_lora(self)

    def install(self, tuner) -> None:
        places = tuner.find(self.targets, self.layers)
        ranks = tuner.choose(places, self.ranks, self.rank)
        alphas = tuner.choose(places, self.alphas, self.alpha)
        for place, rank, alpha in zip(places, ranks, alphas, strict=True):
            size = (place.in_features, place.out_features)
            tuner.add(place, self.Patch(*size, rank, alpha, self.dropout, self.rank_stabilized))

    def learning_rates(self, tuner) -> dict[nn.Parameter, float]:
        return lora_plus(tuner, self.plus)
