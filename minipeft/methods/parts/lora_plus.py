"""LoRA+: B learns faster than A (Hayou et al. 2024, arXiv 2402.12354).

Section 4: with one rate for both, the features that A learns stop moving as a model gets wider.
The remedy is a fixed ratio lambda of their rates, 16 or so, with A's rate as the one that is given:

    A <- A - rate dL/dA          B <- B - lambda rate dL/dB

(with AdamW in the place of the plain step).
"""

from __future__ import annotations

from torch import nn


def lora_plus(tuner, ratio: float | None) -> dict[nn.Parameter, float]:
    """Every B of a LoRA tuner -> lambda, a factor of the rate in `train`; 1 where it is None."""
    return {patch.B: ratio or 1.0 for _, patch in tuner.patches}
