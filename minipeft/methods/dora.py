"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv 2402.09353), weights door.

Path: attach(model, DoRA(...)) -> LoRA.install -> tuner.add(place, DoRAPatch), which calls
DoRAPatch.bind_base(frozen), where frozen() is W0, and so makes m -> WeightDoor.forward, which
computes y = W0 x and calls DoRAPatch.forward(x, y) in every pass. A `place` is a linear map that
the targets name; a door stands where it stood and calls the patches of every tuner.

Section 4.1. Every row of W0, the weights that make one output feature, has a length and a
direction. LoRA turns the direction; the length m is trained by itself:

    h = m * (W0 + s B A) x / ||W0 + s B A||                                             (eq. 5)

    W0 (out, in) frozen   A (r, in), B (out, r), m (out,) trained   s = alpha / r
    ||.||, the length of each row: (out,)      x (N, T, in) -> A x (N, T, r) -> h (N, T, out)

    Written as what is added to W0 x, with c = m / ||W0 + s B A||:  (c - 1) W0 x + c s B A x.

Start: m = ||W0||, B = 0 and A uniform as in LoRA, so that h = W0 x exactly. dL/dA = 0 at the first
step; B and m move.

Merge: c (W0 + s B A) - W0 is what is added to W0 (`delta`).

Parameters: r (in + out) + out for every map, trained and stored.

Departures.
(1) Gradient of the length (section 4.3). Paper: ||W0 + s B A|| may count as a constant. PEFT: it
    does. Here: as PEFT, it saves memory and loses next to nothing, as the paper measured.
    Shown by test_lora_variants.py::test_dora_gradients_take_the_length_for_a_constant
(2) Rows. Paper: calls them columns, since it multiplies from the other side. PEFT: rows. Here: rows
    of (out, in). Shown by test_lora_variants.py::test_dora_is_equation_5
(3) Dropout. Paper: not said. PEFT: drops x in both parts of what is added, (c - 1) W0 x and
    c s B A x, and not in W0 x itself. Here: as PEFT.
    Shown by test_peft_lora_variants.py::test_gradients_with_dropout_are_the_same_numbers
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.methods.lora import LoRA, LoRAPatch


class DoRAPatch(LoRAPatch):
    """A (r, in), B (out, r) and the lengths m (out,)."""

    def bind_base(self, frozen) -> None:
        """Called when the patch is put into its door; `frozen()` is W0 (out, in)."""
        self.frozen = frozen
        self.m = nn.Parameter(torch.linalg.vector_norm(self.weight(), dim=1))

    def weight(self) -> Tensor:
        return self.frozen().to(self.A.dtype)

    def lengthen(self, W: Tensor) -> Tensor:
        """c = m / ||W + s B A||: (out,). A row of zeros has no direction and stays zero."""
        with torch.no_grad():
            length = torch.linalg.vector_norm(W + super().delta(), dim=1)  # (out,)
        return self.m / length.clamp_min(torch.finfo(length.dtype).tiny)  # eq. 5: c, (out,)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (N, T, in), y = W0 x (N, T, out) -> h (N, T, out), in the dtype of y."""
        W = self.weight()
        c = self.lengthen(W)
        x = self.dropout(x.to(W.dtype))
        product = None  # W0 x: (N, T, out); y less its bias where y is that yet, which is quicker
        if y.dtype == W.dtype and not (self.training and self.dropout.p):
            product = self.frozen.base_output(y)  # None where another patch has changed y
        product = F.linear(x, W) if product is None else product
        detour = F.linear(F.linear(x, self.scale * self.A), self.B)  # eq. 5: s B A x, (N, T, out)
        return (y + (c - 1) * product + c * detour).to(y.dtype)  # eq. 5: h, (N, T, out)

    def delta(self) -> Tensor:
        """c (W0 + s B A) - W0: (out, in)."""
        W = self.weight()
        return self.lengthen(W)[:, None] * (W + super().delta()) - W


@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA on the direction of every weight, and its length trained by itself.

    Settings as LoRA: rank 8, alpha 16, targets ("query", "value") unless given.
    """

    Patch = DoRAPatch
