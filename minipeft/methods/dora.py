"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv 2402.09353).

Section 4.1, equation 5, in the weights door. Every row of W0, the weights that make one output
feature, has a length and a direction. LoRA turns the direction; the length m is trained by itself:

    h = m * (W0 + s B A) x / ||W0 + s B A||      W0 (out, in)   A (r, in)   B (out, r)   s = alpha/r
                                                 m (out,)       ||.|| length of each row: (out,)

    m = ||W0|| and B = 0 at the start, so that h = W0 x. With c = m / ||W0 + s B A|| it is written
    as what is added to W0 x:  (c - 1) W0 x + c s B A x, which can be merged like LoRA.

Parameters: r (in + out) + out for every linear map that is adapted.

Departures.
(1) Section 4.3: the length ||W0 + s B A|| counts as a constant when gradients are computed. The
    paper recommends it, PEFT does it, and so do we.
(2) The paper calls these vectors columns, since it multiplies from the other side.
(3) Dropout falls on every x of what is added, that of W0 too, as in PEFT.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.methods.lora import LoRA, LoRAPatch


class DoRAPatch(LoRAPatch):
    """A (r, in), B (out, r) and the lengths m (out,)."""

    def meet(self, frozen) -> None:
        """Called when the patch is put into its door; `frozen()` is W0 (out, in)."""
        self.frozen = frozen
        self.m = nn.Parameter(torch.linalg.vector_norm(self.weight(), dim=1))

    def weight(self) -> Tensor:
        return self.frozen().to(self.A.dtype)

    def lengthen(self, W: Tensor) -> Tensor:
        """c = m / ||W + s B A||: (out,). A row of zeros has no direction and stays zero."""
        with torch.no_grad():
            length = torch.linalg.vector_norm(W + super().delta(), dim=1)  # (out,)
        return self.m / length.clamp_min(torch.finfo(length.dtype).tiny)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, T, in), y = W0 x (B, T, out) -> eq. 5 (B, T, out), in the dtype of y."""
        W = self.weight()
        c = self.lengthen(W)
        x = self.dropout(x.to(W.dtype))
        frozen = None  # W0 x: (B, T, out), read off y where that is the same and saves the product
        if y.dtype == W.dtype and not (self.training and self.dropout.p):
            frozen = self.frozen.answer(y)
        frozen = F.linear(x, W) if frozen is None else frozen
        detour = F.linear(F.linear(x, self.scale * self.A), self.B)  # s B A x: (B, T, out)
        return (y + (c - 1) * frozen + c * detour).to(y.dtype)

    def delta(self) -> Tensor:
        """c (W0 + s B A) - W0: (out, in)."""
        W = self.weight()
        return self.lengthen(W)[:, None] * (W + super().delta()) - W


@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA on the direction of every weight, and its length trained by itself. Settings as LoRA."""

    Patch = DoRAPatch
