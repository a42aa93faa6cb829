"""PiSSA: principal singular values and vectors adaptation (Meng et al. 2024, arXiv 2404.02948).

Section 3, equations 2 to 5, in the weights door. LoRA starts at zero; PiSSA starts at the best
approximation of rank r that the weight itself has, W0 = U S V^T, and freezes the rest:

    A = sqrt(S_r) V_r^T  (r, in)      B = U_r sqrt(S_r)  (out, r)      W_res = W0 - B A  (out, in)

    h = W_res x + B A x = W0 x        at the start, and the principal directions are what is trained

We leave the base alone. With A0, B0 for the first A, B, which are kept, the same h is

    h = W0 x + s (B A - B0 A0) x                                    s B0 A0 = U_r S_r V_r^T

Parameters: r (in + out) in training for every map, and as many frozen ones, A0 and B0. Saved, it is
the LoRA of rank 2 r that PEFT converts a PiSSA into: [B, -B0] times A above A0.

Departures.
(1) s = alpha / r stays in the equation, as in PEFT: A0 and B0 are divided by sqrt s.
(2) The paper offers a fast approximate decomposition; this is the exact one.
(3) Dropout falls on the x of B A only, as in PEFT.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from minipeft.methods.lora import LoRA, LoRAPatch


def principal(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A (r, in), B (out, r) with scale B A = the best rank-r approximation of the weight."""
    if rank > min(weight.shape):
        raise ValueError(
            f"PiSSA's rank {rank} is more than the {min(weight.shape)} singular values that a "
            f"weight of shape {tuple(weight.shape)} has: choose a smaller one."
        )
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    U, S, Vt = torch.linalg.svd(wide, full_matrices=False)  # (out, k), (k,), (k, in)
    root = (S[:rank] / scale).sqrt()
    return root[:, None] * Vt[:rank], U[:, :rank] * root


class PiSSAPatch(LoRAPatch):
    """A (r, in), B (out, r), and where they started: A0, B0."""

    @torch.no_grad()
    def meet(self, frozen) -> None:
        """Called when the patch is put into its door; `frozen()` is W0 (out, in)."""
        A, B = principal(frozen(), len(self.A), self.scale)
        self.A.copy_(A)
        self.B.copy_(B)
        self.register_buffer("A0", self.A.detach().clone())
        self.register_buffer("B0", self.B.detach().clone())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, T, in), y = W0 x (B, T, out) -> y + s (B A - B0 A0) x, in the dtype of y."""
        x = x.to(self.A.dtype)
        now = F.linear(F.linear(self.dropout(x), self.A), self.B)  # B A x: (B, T, out)
        first = F.linear(F.linear(x, self.A0), self.B0)  # B0 A0 x
        return (y + self.scale * (now - first)).to(y.dtype)

    def delta(self) -> Tensor:
        """s (B A - B0 A0): (out, in)."""
        return self.scale * (self.B @ self.A - self.B0 @ self.A0)


@dataclass(frozen=True)
class PiSSA(LoRA):
    """LoRA that starts at the weight's principal part. Settings as LoRA; rank at most in or out."""

    Patch = PiSSAPatch
