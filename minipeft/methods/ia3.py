"""(IA)^3: inner activations rescaled by learned vectors (Liu et al. 2022, arXiv 2205.05638).

In the weights door. Path: attach(model, IA3(...)) -> IA3.install -> tuner.add(place, OutputScale or
InputScale) -> WeightDoor.forward, which calls InputScale.before(x), then the map, then
OutputScale.forward(x, y). A `place` is a linear map that the targets name; a door stands where it
stood and calls the patches of every tuner.

Section 3.3. In every block keys, values and the hidden features of the feed-forward layer are
multiplied, number by number, with vectors that are trained (the numbers of the equations are ours):

    softmax(Q (l_k * K)^T / sqrt D) (l_v * V)                                           (eq. 1)
    W_down (l_ff * phi(W_up x))                                                         (eq. 2)

    l_k, l_v (C,), fewer under grouped queries    l_ff (I,), I the inner width    all trained
    K = W_k x: (N, T, C) -> l_k * K (N, T, C)     phi(W_up x): (N, T, I) -> l_ff * (..) (N, T, I)

l_k and l_v multiply what the key and value maps give back, l_ff what the down map reads. In a gated
layer that is phi(W_gate x) * W_up x.

Start: all three are 1, so that the answer is the base's exactly; every vector has a gradient.

Merge: the vectors go into the weights (`fold`), rows of W and numbers of the bias for l_k and l_v,
columns of W for l_ff. Unmerged, a batch may mix tasks, each row with vectors of its own (`route`).

Parameters: out for each of key and value, in for down, trained and stored; 2 C + I per block with
all heads alike, and 2 C more for the cross-attention of a decoder in an encoder-decoder.

Departures.
(1) Fused maps. Paper: keys and values have maps of their own. PEFT: scales all of GPT-2's c_attn,
    queries too. Here: the key's and the value's part of it; a raw module name scales all.
    Shown by test_peft_ia3.py::test_their_file_opens_here
(2) Precision. Paper: not said. PEFT: fp32 on a half-precision base. Here: the same.
    Shown by test_ia3.py::test_checkpointing_half_precision_and_generation
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.doors.patch import Patch
from minipeft.methods.method import Method
from minipeft.methods.parts.validation import as_tuple, check_layers, check_names


class OutputScale(Patch):
    """y <- l * y: l (out,), 1 at the start."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.l = nn.Parameter(torch.ones(out_features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """y (N, T, out) -> (N, T, out), in the dtype of y."""
        return (self.l * y).to(y.dtype)  # eq. 1: l_k * K or l_v * V, (N, T, out)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The map that gives l * (W x + b) by itself: weight (out, in), bias (out,) or None."""
        l = self.l.to(weight)  # noqa: E741  the paper's letter
        return l[:, None] * weight, None if bias is None else l * bias


class InputScale(Patch):
    """The map reads l * x instead of x: l (in,), 1 at the start."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.l = nn.Parameter(torch.ones(in_features))

    def before(self, x: Tensor) -> Tensor:
        """x (N, T, in) -> (N, T, in), in the dtype of x."""
        return (self.l * x).to(x.dtype)  # eq. 2: l_ff * phi(W_up x), (N, T, in)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W (l * x) + b = (W diag(l)) x + b: columns of W (out, in)."""
        return weight * self.l.to(weight), bias


@dataclass(frozen=True)
class IA3(Method):
    """Rescaling vectors on every linear map that the targets name.

    Args:
        targets: words of the field ("key", "value", "down", ...) or names of modules.
        feedforward: those of the targets whose input is rescaled instead of their output.
        layers: numbers of the layers to adapt, None for all.

    Raises:
        ValueError: when a value is impossible.
    """

    default_rate = 2e-2  # SST-2 with MiniLM, 300 steps: 81 % (53 % at 1e-3)

    targets: tuple[str, ...] = ("key", "value", "down")
    feedforward: tuple[str, ...] = ("down",)
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_names(self, "targets")
        inputs = self.feedforward
        inputs = inputs if isinstance(inputs, str) else as_tuple(inputs) or inputs
        if inputs == ("down",):  # the default fits any targets
            inputs = [name for name in inputs if name in self.targets]
        object.__setattr__(self, "feedforward", inputs or ())
        if inputs:
            check_names(self, "feedforward")
        check_layers(self)
        for name in self.feedforward:
            if name not in self.targets:
                raise ValueError(
                    f"IA3's feedforward names {name!r}, which is none of its targets "
                    f"({', '.join(self.targets)}): add it to the targets, or take it out."
                )

    def install(self, tuner) -> None:
        for place in tuner.find(self.targets, self.layers):
            if place.target in self.feedforward:
                tuner.add(place, InputScale(place.in_features))
            else:
                tuner.add(place, OutputScale(place.out_features))
