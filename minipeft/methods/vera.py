"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2024, arXiv 2310.11454).

In the weights door. Path: attach(model, VeRA(...)) -> VeRA.install -> tuner.add(place, VeRAPatch)
-> WeightDoor.forward, which computes y = W0 x and calls VeRAPatch.forward(x, y) in every pass. A
`place` is a linear map that the targets name; a door stands where it stood and calls the patches of
every tuner.

Section 3.1. LoRA's detour, but A and B are random, frozen, and the same two matrices beside every
map. What is trained is two vectors for each map: how much of each row of A, of each row of B.

    h = W0 x + diag(b) B diag(d) A x                                                    (eq. 2)

    W0 (out, in) frozen    A (r, in), B (out, r) frozen, shared    d (r,), b (out,) trained

    (W0 x with the map's bias, left out here as in the paper)
    With N rows of T tokens, in = out = 64 and r = 256: x (N, T, 64) -> A x (N, T, 256) ->
    d * A x (N, T, 256) -> B (d * A x) (N, T, 64), times b, added to W0 x (N, T, 64).
    A map with fewer inputs or outputs than the largest reads the first columns of A, rows of B.

Start: b = 0, so that h = W0 x exactly; every number of d is 0.1. Then dL/dd = 0 at the first step
and dL/db is not: b moves first. A and B have no gradient at all.

Merge: W0 + diag(b) B diag(d) A is one matrix (`delta`), and the detour costs nothing any more.

Parameters: r + out for every map, trained and stored, and r (in + out) stored once, with the
largest in and out; `store_matrices=False` leaves these out of the file, since the seed makes them
again. LoRA trains r (in + out) per map, VeRA r + out.

Departures.
(1) Sizes. Paper: maps of one size share A and B. PEFT: one A and B as large as the largest map
    needs, of which each map reads a part. Here: as PEFT.
    Shown by test_vera.py::test_every_map_reads_its_part_of_the_same_two_matrices
(2) Start of A and B. Paper: Kaiming's. PEFT: its uniform form, on +-sqrt(6 / columns), from a
    generator of its own, seed 0. Here: as PEFT, the same numbers for the same seed.
    Shown by test_peft_vera.py::test_the_same_seed_gives_the_same_matrices
(3) What is stored. Paper: the seed in place of A and B. PEFT: A and B too, unless save_projection
    is False. Here: as PEFT. Shown by test_peft_vera.py::test_their_file_opens_here
(4) Parts of fused maps. Paper: not said. PEFT: one d and b for the whole of GPT-2's c_attn. Here:
    query and value have a d and a b each, which no file of PEFT's can say: a file of ours only.
    Shown by test_peft_vera.py::test_parts_of_a_fused_map_have_a_file_of_their_own
(5) Dropout. Paper: not said. PEFT: on x on its way into A. Here: as PEFT.
    Shown by test_vera.py::test_dropout_falls_on_the_input_of_a_and_keeps_its_mean
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.patch import Patch
from minipeft.methods.method import Method
from minipeft.methods.parts.validation import check_flag, check_layers, check_names, check_number


class SharedMatrices(nn.Module):
    """A (r, in) and B (out, r), drawn from a generator of their own and never trained.

    Args:
        in_features, out_features: of the largest maps that will read them.
        rank: r.
        seed: of the generator; the global one is left alone.
        persistent: are they part of what is saved?
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int, seed: int = 0, persistent: bool = True
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
            bound = math.sqrt(6 / shape[1])  # Kaiming: the squares of a row add up to 2 on average
            matrix = torch.empty(shape, dtype=torch.float32, device="cpu")
            self.register_buffer(
                name, matrix.uniform_(-bound, bound, generator=generator), persistent
            )


class VeRAPatch(Patch):
    """The detour beside one linear map: d (r,) and b (out,) trained, A and B shared.

    Args:
        in_features, out_features: of the linear map.
        matrices: A and B, the same object in every patch; at least as large as the map.
        initial: every number of d at the start.
        dropout: probability that a feature of x is dropped on its way into A.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        matrices: SharedMatrices,
        initial: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.matrices = matrices
        self.d = nn.Parameter(torch.full((len(matrices.A),), float(initial)))
        self.b = nn.Parameter(torch.zeros(out_features))
        self.dropout = nn.Dropout(dropout)

    @property
    def A(self) -> Tensor:
        """The part of A that this map reads: (r, in), where d is and in its dtype."""
        return self.matrices.A[:, : self.in_features].to(self.d)

    @property
    def B(self) -> Tensor:
        """The part of B that this map reads: (out, r), where d is and in its dtype."""
        return self.matrices.B[: self.out_features].to(self.d)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (N, T, in), y = W0 x (N, T, out) -> h (N, T, out), in the dtype of y."""
        x = self.dropout(x.to(self.d.dtype))
        low = self.d * F.linear(x, self.A)  # eq. 2: diag(d) A x, (N, T, r)
        detour = self.b * F.linear(low, self.B)  # eq. 2: diag(b) B diag(d) A x, (N, T, out)
        return (y + detour).to(y.dtype)  # eq. 2: h, (N, T, out)

    def delta(self) -> Tensor:
        """The detour as one matrix, diag(b) B diag(d) A: (out, in). Merge: W0 + delta."""
        return self.b[:, None] * self.B @ (self.d[:, None] * self.A)


@dataclass(frozen=True)
class VeRA(Method):
    """Two trained vectors beside every linear map that the targets name, and one random detour.

    Args:
        rank: r, which may be larger than the width: one more costs one trained number per map.
        targets: words of the field ("query", "key", "value", "qkv", "output", "up", "gate", "down")
            or names of modules.
        seed: of A and B, whatever the seed of `attach` is.
        initial: every number of d at the start.
        dropout: on the way into A.
        layers: numbers of the layers to adapt, None for all.
        store_matrices: False saves the vectors alone; the seed makes A and B again.

    Raises:
        ValueError: when a value is impossible.
    """

    rank: int = 256
    targets: tuple[str, ...] = ("query", "value")
    seed: int = 0
    initial: float = 0.1
    dropout: float = 0.0
    layers: tuple[int, ...] | None = None
    store_matrices: bool = True

    default_rate = 5e-2  # lesson 18: 0.03 to 0.3 is good; with MiniLM 0.1 was the best

    def __post_init__(self) -> None:
        check_names(self, "targets")
        check_layers(self)
        check_number(self, "rank", "of at least 1", lambda n: n >= 1, whole=True)
        check_number(self, "seed", "from 0", lambda n: n >= 0, whole=True)
        check_number(self, "initial", "other than 0", lambda n: n != 0 and math.isfinite(n))
        check_number(self, "dropout", "of at least 0 and below 1", lambda n: 0 <= n < 1)
        check_flag(self, "store_matrices")

    def install(self, tuner) -> None:
        places = tuner.find(self.targets, self.layers)
        matrices = SharedMatrices(
            max(place.in_features for place in places),
            max(place.out_features for place in places),
            self.rank,
            self.seed,
            self.store_matrices,
        )
        for place in places:
            size = (place.in_features, place.out_features)
            tuner.add(place, VeRAPatch(*size, matrices, self.initial, self.dropout))

    def notes(self, tuner) -> list[str]:
        lines = [f"A and B are random and frozen, made from seed {self.seed}, shared by all maps."]
        if not self.store_matrices:
            lines.append("They are not stored: the seed makes them again.")
        return lines
