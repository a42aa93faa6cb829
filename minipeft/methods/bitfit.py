"""BitFit: train the biases and nothing else (Ben Zaken et al. 2022, arXiv 2106.10199).

In the weights door. Path: attach(model, BitFit(...)) -> BitFit.install -> tuner.find(targets), or
without targets tuner.anatomy.biased -> tuner.add(place, BiasPatch) -> WeightDoor.forward, which
computes y = W x + b and calls BiasPatch.forward(x, y). A `place` is a linear map or a layer norm:
one that the targets name or, without them, any that has a bias. A door stands where it stood and
calls the patches of every tuner.

Section 3. Every linear map and every layer norm of a block ends in "+ b": Q = W_q x + b_q, and so
on. These b are trained, the matrices are not. Here a bias is trained as a difference d (the number
of the equation is ours):

    y = (W x + b) + d                                                                   (eq. 1)

    W (out, in), b (out,) frozen      d (out,) trained      x (N, T, in) -> y (N, T, out)
    a layer norm: y = (w * x^ + b) + d, with w, b, d (C,) and x^ (N, T, C) the normalized x

so that it can be off, merged into b, or on for some rows of the batch, and only d is stored.
`targets=("query", "up")` is the paper's smaller variant: b_q, and b_m2, the bias of `up`.

Start: d = 0, so that y is the base's exactly. One vector added to every key adds the same number to
all scores of a query and changes no softmax, so the key's d gets no gradient (up to rounding) where
positions are added to the words. Rotary positions turn it differently at each token: there it
learns.

Merge: b + d.

Parameters: one per output feature of every map and norm that has a bias, trained and stored; 11 C
per block in BERT's and GPT-2's layout with inner width 4 C, of which 2 C for the two norms; 0.1 %
of BERT-base.

Departures.
(1) Weight decay. Paper: pulls b to 0. PEFT: has no BitFit (LoRA's bias="all" trains b itself).
    Here: pulls d to 0, thus b to the base's bias.
    Shown by test_bitfit.py::test_it_is_training_the_biases_themselves
(2) Heads. Paper: BERT with a task head. PEFT: none. Here: heads for words that have biases are
    included; task heads are trained as a whole, as with every method.
    Shown by test_bitfit.py::test_a_task_head_is_trained_as_a_whole_and_counted_apart
(3) Models without biases. Paper: not said. PEFT: none. Here: T5 and Llama are refused in a
    sentence. Shown by test_bitfit.py::test_a_model_without_biases_is_told_so
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.doors.patch import Patch
from minipeft.methods.method import Method
from minipeft.methods.parts.validation import check_flag, check_layers, check_names


class BiasPatch(Patch):
    """y <- y + d: d (out,), 0 at the start."""

    changes_weight = False  # merging it touches the bias alone

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.d = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """y (N, T, out) -> (N, T, out), in the dtype of y."""
        return (y + self.d).to(y.dtype)  # eq. 1: (N, T, out)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight, bias + self.d.to(bias)


@dataclass(frozen=True)
class BitFit(Method):
    """Train the biases of a model, or of the linear maps that the targets name.

    Args:
        targets: words of the field or names of modules, each of which must have a bias; None for
            every bias there is.
        norms: those of the layer norms too; None does so when targets is None.
        layers: numbers of the layers; None for all of them and for what lies outside of them.

    Raises:
        ValueError: when a value is impossible; by `attach` when there is no bias to train.
    """

    default_rate = 3e-3  # SST-2 with MiniLM: 74 % (70 at 1e-3); lesson 12: 0.003 to 0.3

    targets: tuple[str, ...] | None = None
    norms: bool | None = None
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.targets is not None:
            check_names(self, "targets")
        check_flag(self, "norms", none=True)
        check_layers(self)

    def means_all(self) -> bool:
        return self.targets is None

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
