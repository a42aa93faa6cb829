"""BitFit: train the biases and nothing else (Ben Zaken et al. 2022, arXiv 2106.10199).

Section 3. Every linear map and every layer norm of a block ends in "+ b". These b are trained,
the matrices are not:

    Q = W_q x + b_q      K = W_k x + b_k      V = W_v x + b_v                  attention
    h1 = W_m1 a + b_m1      h2 = g_LN1 * (h1 + x - mu) / s + b_LN1             its output, and norm
    h3 = gelu(W_m2 h2 + b_m2)      h4 = W_m3 h3 + b_m3      g_LN2 * (..) + b_LN2

Here a bias is trained as a difference d, 0 at the start, in the weights door of its map or norm:

    y = (W x + b) + d        d (out,)

so that it can be off, merged into b, or on for some rows of the batch, and only d is stored.
`targets=("query", "up")` is the paper's smaller variant, b_q and b_m2.

Parameters: one per output feature of every map and norm that has a bias; 11 C per block in BERT's
and GPT-2's layout with inner width 4 C, of which 2 C for the two norms; 0.1 % of BERT-base.

A number added to every key changes no softmax, so the key's bias gets no gradient (up to rounding)
where positions are added to the words. Rotary positions turn it differently at each place: there
it learns.

Departures.
(1) Weight decay pulls d to 0, thus b to the base's bias, where the paper's pulls b itself to 0.
(2) The paper has BERT only, with a task head; heads for words that have biases are included here,
    task heads are trained as a whole, as with every method.
(3) Linear maps and layer norms only: T5 and Llama have no biases at all and are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.methods.method import Method
from minipeft.methods.parts.validation import check_flag, check_layers, check_names


class BiasPatch(nn.Module):
    """y <- y + d: d (out,), 0 at the start."""

    changes_weight = False  # merging it touches the bias alone

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.d = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """y (B, T, out) -> (B, T, out), in the dtype of y."""
        return (y + self.d).to(y.dtype)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight, bias + self.d.to(bias)


@dataclass(frozen=True)
class BitFit(Method):
    """Train the biases of a model, or of the linear maps that the targets name.

    Args:
        targets: words of the field or names of modules, each of which must have a bias; None for
            every bias there is.
        norms: those of the layer norms too; None does so when targets is None.
        layers: numbers of the layers, None for all, and for what lies outside of them.

    Raises:
        ValueError: when a value is impossible; by `attach` when there is no bias to train.
    """

    targets: tuple[str, ...] | None = None
    norms: bool | None = None
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.targets is not None:
            check_names(self, "targets")
        check_flag(self, "norms", none=True)
        check_layers(self)

    def install(self, tuner) -> None:
        norms = self.targets is None if self.norms is None else self.norms
        places = tuner.find(self.targets, self.layers) if self.targets else []
        for place in places:
            if place.module.bias is None:
                raise ValueError(
                    f"{place.path} has no bias, so BitFit has nothing to train there: leave out "
                    f"the target {place.target!r}, or take LoRA or IA3."
                )
        if norms or self.targets is None:
            places += tuner.anatomy.biased(self.targets is None, norms, self.layers)
        if not places:
            raise ValueError(
                f"This model ({tuner.anatomy.model_type}) has no biases that BitFit could train"
                f"{' in these layers' if self.layers else ''}: take LoRA or IA3."
            )
        for place in places:
            tuner.add(place, BiasPatch(place.out_features))
