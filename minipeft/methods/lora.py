"""LoRA: low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), in the weights door.

Section 4.1, equation 3. A frozen linear map W0 is followed by a low-rank detour that is trained:

    h = W0 x + (alpha / r) B A x          W0 (out, in)   A (r, in)   B (out, r)   x (in,)   h (out,)

    B = 0 at the start, so that h = W0 x exactly: training begins at the base model.
    A is random. With B = 0, dL/dA = 0 at the first step and dL/dB is not: B moves first.
    After training B A can be added to W0 (`delta`), and the detour costs nothing any more.

Parameters: r (in + out) for every linear map that is adapted. The paper adapts W_q and W_v only.

Departures.
(1) The paper draws A from a Gaussian; its code (loralib) takes kaiming_uniform(a = sqrt 5), that
    is uniform on +-1/sqrt(in), and so do we.
(2) The paper divides alpha by r; `rank_stabilized=True` divides by sqrt r (rsLoRA, Kalajdzievski
    2023, arXiv 2312.03732).
(3) The equation has no dropout; the code drops features of x on the way into A, and so do we.
(4) On a half-precision base A and B stay in fp32.
(5) `plus=16` lets B learn 16 times as fast as A (LoRA+, Hayou et al. 2024, arXiv 2402.12354).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.methods.method import (
    LARGEST,
    Method,
    check_flag,
    check_layers,
    check_names,
    check_number,
    check_table,
    shown,
)


class LoRAPatch(nn.Module):
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
        """x (B, T, in), y = W0 x (B, T, out) -> y + scale B A x (B, T, out), in the dtype of y."""
        x = self.dropout(x.to(self.A.dtype))
        low = self.scale * F.linear(x, self.A)  # (alpha / r) A x: (B, T, r), the small one to scale
        detour = F.linear(low, self.B)  # (alpha / r) B A x: (B, T, out)
        return (y + detour).to(y.dtype)  # eq. 3

    def alike(self, patches: list) -> bool:
        """Can `abreast` take these?"""
        if any(type(p) is not LoRAPatch for p in patches) or (self.training and self.dropout.p):
            return False
        return len({(p.A.shape, p.B.shape, p.scale, p.A.dtype) for p in patches}) == 1

    @staticmethod
    def abreast(patches: list, x: Tensor, y: Tensor) -> Tensor:
        """S detours, each for its own rows: x (S, n, T, in), y (S, n, T, out) -> as y."""
        A = torch.stack([patch.A for patch in patches])  # (S, r, in)
        B = torch.stack([patch.B for patch in patches])  # (S, out, r)
        low = patches[0].scale * (x.flatten(1, -2).to(A.dtype) @ A.mT)  # (S, n T, r)
        detour = (low @ B.mT).reshape(y.shape)  # (S, n, T, out)
        return (y + detour).to(y.dtype)

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
        check_names(self, "targets")
        check_layers(self)
        if self.plus is not None:
            check_number(self, "plus", "above 0", lambda n: 0 < n < math.inf)
        check_table(self, "ranks", "alphas")
        check_flag(self, "rank_stabilized")
        for rank in (self.rank, *self.ranks.values()):
            if type(rank) is not int or not 1 <= rank < LARGEST:
                raise ValueError(
                    f"A LoRA rank must be a whole number of at least 1, not {shown(rank)}."
                )
        for alpha in (self.alpha, *self.alphas.values()):
            if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
                raise ValueError(
                    f"LoRA's alpha must be a positive number, not {shown(alpha)}: 0 learns nothing."
                )
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ValueError(
                f"LoRA's dropout must be at least 0 and below 1, not {shown(self.dropout)}."
            )

    def install(self, tuner) -> None:
        places = tuner.find(self.targets, self.layers)
        ranks = tuner.choose(places, self.ranks, self.rank)
        alphas = tuner.choose(places, self.alphas, self.alpha)
        for place, rank, alpha in zip(places, ranks, alphas, strict=True):
            size = (place.in_features, place.out_features)
            tuner.add(place, self.Patch(*size, rank, alpha, self.dropout, self.rank_stabilized))

    def learning_rates(self, tuner) -> dict[nn.Parameter, float]:
        return {patch.B: self.plus or 1.0 for _, patch in tuner.places}
