"""Gates for patches, as UniPELT has them (Mao et al. 2022, arXiv 2110.07577, section 3.2).

    Gate           how far something is open, from what enters a layer
    GatedPatch     a patch of the weights door behind a gate
    GatedMemory    a memory behind a gate
    gates          all gates of a tuner by name, for plots

Shapes: B batch, T tokens, C width, P prefix length, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipeft.methods.prefix import PrefixPatch


class Gate(nn.Module):
    """How far a submodule is open, between 0 and 1.

    Args:
        width: C.
        mode: "mean" over a text's tokens (B, 1, 1), one for each "token" (B, T, 1), or "alone",
            without input (1, 1, 1).

    Attributes:
        mask: (B, T) of the batch that comes; tokens with a 0 do not count in the mean.
        value: what it said last, without gradient.
    """

    def __init__(self, width: int, mode: str) -> None:
        super().__init__()
        self.weight = None if mode == "alone" else nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(1))
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)
        self.mode = mode
        self.mask: Tensor | None = None
        self.value: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            g = torch.sigmoid(self.bias).view(1, 1, 1)
        else:
            g = torch.sigmoid(x.to(self.weight.dtype) @ self.weight + self.bias)[..., None]
        if self.mode == "mean":  # (B, T, 1) -> (B, 1, 1)
            own = torch.ones_like(g)
            if self.mask is not None and self.mask.shape == x.shape[:2]:
                own = self.mask.to(g)[..., None]
            g = (g * own).sum(dim=1, keepdim=True) / own.sum(dim=1, keepdim=True).clamp(min=1)
        self.value = g.detach()
        return g


class GatedPatch(nn.Module):
    """A patch whose change of y is multiplied by a gate.

    inner: a LoRA, whose change of y is what it makes of y = 0; or an adapter without skip.
    gate: several patches may share one.
    note: where an adapter's gate finds its x; None for what the patch itself reads.
    """

    def __init__(self, inner: nn.Module, gate: Gate, note=None) -> None:
        super().__init__()
        self.inner, self.gate, self.note = inner, gate, note

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, T, in), y (B, T, out) -> y + g change."""
        g = self.gate(x if self.note is None else self.note.take())  # (B, 1 or T, 1)
        change = self.inner(x, torch.zeros_like(y) if self.note is None else y)  # (B, T, out)
        return (y + g * change).to(y.dtype)


class GatedMemory(nn.Module):
    """A layer's prefix, keys and values multiplied by a gate."""

    def __init__(self, inner: PrefixPatch, gate: Gate) -> None:
        super().__init__()
        self.inner, self.gate = inner, gate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, C) -> keys, values (B or 1, H, P, D)."""
        g = self.gate(x)[..., None]  # (B or 1, 1, 1, 1)
        keys, values = self.inner(x)  # (1, H, P, D)
        return g * keys, g * values


def gates(tuner) -> dict[str, Gate]:
    """<submodule> <layer> -> gate of a UniPELT tuner, for plots: `gate.value`."""
    names = {"LoRAPatch": "LoRA", "AdapterPatch": "adapter", "PrefixPatch": "prefix"}
    found: dict[str, Gate] = {}
    for place, patch in tuner.places:
        if isinstance(patch, GatedPatch | GatedMemory) and patch.gate not in found.values():
            kind = names[type(patch.inner).__name__]
            stack = place.stack.split(".")[-2:-1]
            stack = stack[0] if tuner.anatomy.is_encoder_decoder() else ""  # encoder or decoder
            cross = " cross" if "cross" in f"{place.target} {place.path}" else ""
            layer = " ".join(filter(None, (kind + cross, stack, str(place.layer))))
            found[layer if layer not in found else place.path] = patch.gate
    return found
