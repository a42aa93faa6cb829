"""Patches behind a gate, as UniPELT has them (Mao et al. 2022, arXiv 2110.07577, section 3.2).

    GatedPatch     a patch of the weights door behind a gate
    GatedMemory    a memory behind a gate
    gates          all gates of a tuner by name, for plots

Shapes: B batch, T tokens, C width, P prefix length, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipeft.doors.patch import MemoryPatch, Patch
from minipeft.methods.prefix import PrefixPatch


class GatedPatch(Patch):
    """A patch whose change of y is multiplied by a gate.

    inner: a LoRA, whose change of y is what it makes of y = 0; or an adapter without skip.
    gate: several patches may share one.
    tap: the InputTap with the x of an adapter's gate; None for what the patch itself reads.
    """

    def __init__(self, inner: nn.Module, gate: nn.Module, tap=None) -> None:
        super().__init__()
        self.inner, self.gate, self.tap = inner, gate, tap

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, T, in), y (B, T, out) -> y + g change."""
        g = self.gate(x if self.tap is None else self.tap.pop())  # (B, 1 or T, 1)
        change = self.inner(x, torch.zeros_like(y) if self.tap is None else y)  # (B, T, out)
        return (y + g * change).to(y.dtype)


class GatedMemory(MemoryPatch):
    """A layer's prefix, keys and values multiplied by a gate."""

    def __init__(self, inner: PrefixPatch, gate: nn.Module) -> None:
        super().__init__()
        self.inner, self.gate = inner, gate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, C) -> keys, values (B or 1, H, P, D)."""
        weight = getattr(self.gate, "weight", None)  # a gate may look at nothing
        if weight is not None and len(weight) != x.shape[-1]:
            raise ValueError(
                f"A gate of width {len(weight)} does not fit an attention layer that reads "
                f"{x.shape[-1]} features: take UniPELT without a prefix, length=0, or Prefix."
            )
        g = self.gate(x)[..., None]  # (B or 1, 1, 1, 1)
        keys, values = self.inner(x)  # (1, H, P, D)
        return g * keys, g * values


def gates(tuner) -> dict[str, nn.Module]:
    """<submodule> <layer> -> gate of a UniPELT tuner, for plots: `gate.value`."""
    names = {"LoRAPatch": "LoRA", "AdapterPatch": "adapter", "PrefixPatch": "prefix"}
    gate_of: dict[str, nn.Module] = {}
    for place, patch in tuner.patches:
        if isinstance(patch, GatedPatch | GatedMemory) and patch.gate not in gate_of.values():
            kind = names[type(patch.inner).__name__]
            stack = place.stack.split(".")[-2:-1] if tuner.anatomy.is_encoder_decoder() else ()
            cross = " cross" if "cross" in f"{place.target} {place.path}" else ""
            layer = place.path if place.layer is None else str(place.layer)  # outside of the blocks
            layer = " ".join((kind + cross, *stack, layer))  # stack: encoder or decoder
            gate_of[layer if layer not in gate_of else place.path] = patch.gate
    return gate_of
