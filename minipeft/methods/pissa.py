"""PiSSA: principal singular values and vectors adaptation (Meng et al. 2024, arXiv 2404.02948).

In the weights door. Path: attach(model, PiSSA(...)) -> LoRA.install -> tuner.add(place, PiSSAPatch)
-> WeightDoor.forward, which computes y = W0 x and calls PiSSAPatch.forward(x, y) in every pass. A
`place` is a linear map that the targets name; a door stands where it stood and calls the patches of
every tuner.

Section 3. LoRA starts at zero; PiSSA starts at the best approximation of rank r that the weight
itself has, W0 = U S V^T, and freezes the rest:

    A = sqrt(S_r) V_r^T      B = U_r sqrt(S_r)                                          (eq. 2)
    W_res = W0 - B0 A0       h = W_res x + B A x                                        (eq. 5)

    W0 (out, in) frozen   A (r, in), B (out, r) trained   U_r (out, r)   S_r (r,)   V_r^T (r, in)
    x (N, T, in) -> A x (N, T, r) -> B A x (N, T, out)

A0 and B0 are the first A and B, frozen. We leave the base alone: with s = alpha / r the same h is
W0 x + s (B A - B0 A0) x, where s B0 A0 = U_r S_r V_r^T, thus A0 = sqrt(S_r / s) V_r^T, see
departure (1). Targets and settings as LoRA's: query and value maps, rank 8, alpha 16 by default.

Start: A = A0 and B = B0, so that h = W0 x (but for dropout in training, which falls on the x of
B A only); A and B both have gradients.

Merge: W0 + s (B A - B0 A0) (`delta`).

Parameters: r (in + out) trained for every map, and as many frozen, A0 and B0. Stored is the LoRA of
rank 2 r that PEFT converts a PiSSA into: [B, -B0] times A above A0.

Departures.
(1) Scale. Paper: none. PEFT: s = alpha / r stays. Here: as PEFT, A0 and B0 are divided by sqrt s.
    Shown by test_lora_variants.py::test_principal_of_a_known_matrix
(2) Decomposition. Paper: a fast approximation is offered. PEFT: exact, or fast with
    "pissa_niter_[n]". Here: exact. Shown by test_peft_lora_variants.py::test_the_start_is_the_same
(3) The base. Paper: W_res takes the place of W0. PEFT: likewise, the base is changed. Here: it is
    left alone, so that other tuners find it as it was.
    Shown by test_lora_variants.py::test_pissa_trains_the_principal_part
(4) Dropout. Paper: none. PEFT: on the x of B A only. Here: as PEFT.
    Shown by test_peft_lora_variants.py::test_gradients_with_dropout_are_the_same_numbers
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
    return root[:, None] * Vt[:rank], U[:, :rank] * root  # eq. 2: A (r, in), B (out, r)


class PiSSAPatch(LoRAPatch):
    """A (r, in), B (out, r), and where they started: A0, B0."""

    @torch.no_grad()
    def bind_base(self, frozen) -> None:
        """Called when the patch is put into its door; `frozen()` is W0 (out, in)."""
        A, B = principal(frozen(), len(self.A), self.scale)
        self.A.copy_(A)
        self.B.copy_(B)
        self.register_buffer("A0", self.A.detach().clone())
        self.register_buffer("B0", self.B.detach().clone())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (N, T, in), y = W0 x (N, T, out) -> h (N, T, out), in the dtype of y."""
        x = x.to(self.A.dtype)
        now = F.linear(F.linear(self.dropout(x), self.A), self.B)  # eq. 5: B A x, (N, T, out)
        first = F.linear(F.linear(x, self.A0), self.B0)  # B0 A0 x: (N, T, out)
        return (y + self.scale * (now - first)).to(y.dtype)  # eq. 5: h, (N, T, out)

    def delta(self) -> Tensor:
        """s (B A - B0 A0): (out, in)."""
        return self.scale * (self.B @ self.A - self.B0 @ self.A0)


@dataclass(frozen=True)
class PiSSA(LoRA):
    """LoRA that starts at the weight's principal part. Settings as LoRA; rank at most in or out."""

    Patch = PiSSAPatch
