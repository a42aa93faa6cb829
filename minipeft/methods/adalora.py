"""AdaLoRA: adaptive budget allocation (Zhang et al. 2023, arXiv 2303.10512), in the weights door.

Path: attach(model, AdaLoRA(...)) -> AdaLoRA.install -> tuner.add(place, AdaLoRAPatch) ->
WeightDoor.forward, which computes y = W0 x and calls AdaLoRAPatch.forward(x, y) in every pass. In
training `penalty` is added to the loss, and parts/budget.py is called after every step. A `place`
is a linear map that the targets name; a door stands where it stood and calls the patches of every
tuner.

Section 3.1. The detour has the form of a singular value decomposition, so that a direction can be
taken away without touching the others:

    h = W0 x + s P Lambda Q x                                                           (eq. 3)
    R(P, Q) = ||P^T P - I|| + ||Q Q^T - I||        without the squares: departure (1)   (eq. 4)

    W0 (out, in) frozen    P (out, r), Lambda (r,), a diagonal, Q (r, in) trained
    s = alpha / (init_rank + 1e-5), a fixed number, see departure (2)    N rows of T tokens:
    x (N, T, in) -> Q x (N, T, r) -> Lambda Q x (N, T, r) -> P Lambda Q x (N, T, out)

Sections 3.2 and 3.3 (parts/budget.py): how important each triplet (column of P, lambda, row of Q)
is, and how many may keep their lambda, init_rank x places at first and target_rank x places in the
end. When `train` ends, the triplets that were pruned are gone. That file has the equations of both
sections, and their one departure.

Start: Lambda = 0, so that h = W0 x exactly; P and Q are Gaussian. The loss gives P and Q no
gradient at the first step, the penalty does; Lambda has one.

Merge: W0 + s P Lambda Q (`delta`).

Parameters: init_rank (in + out + 1) for every map, trained; k (in + out + 1) stored, where k are
the triplets that are left there, target_rank on the average.

Departures.
(1) Penalty. Paper: squares the norms. PEFT: does not, as the authors' code. Here: as PEFT, 0.5
    times the mean over all P and Q.
    Shown by test_adalora.py::test_penalty_measures_the_distance_to_orthogonality
(2) Scale. Paper: not said. PEFT: alpha / (init_r + 1e-5) for good, as the authors' code. Here: as
    PEFT, however many triplets are left. Shown by test_peft_adalora.py::test_files_go_both_ways
(3) Who prunes. Paper: the training loop. PEFT: the user calls update_and_allocate in every step,
    and nothing is pruned where that is forgotten. Here: `train` does.
    Shown by test_adalora.py::test_the_final_budget_is_the_target
(4) Start and dropout. Paper: Gaussian, no dropout. PEFT: standard deviation 0.02, dropout on x.
    Here: as PEFT; fp32 on a half-precision base.
    Shown by test_adalora.py::test_equation_for_any_shape
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.methods.method import Method
from minipeft.methods.parts.budget import Budgeted, Triplets
from minipeft.methods.parts.own_steps import complaint
from minipeft.methods.parts.validation import (
    LARGEST,
    check_layers,
    check_names,
    check_number,
    check_table,
    shorten,
)
from minipeft.model.sites import name_of


class AdaLoRAPatch(Triplets):
    """The detour P Lambda Q beside one linear map."""

    def __init__(
        self, in_features: int, out_features: int, rank: int, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.P = nn.Parameter(torch.empty(out_features, rank).normal_(std=0.02))
        self.Lambda = nn.Parameter(torch.zeros(rank))
        self.Q = nn.Parameter(torch.empty(rank, in_features).normal_(std=0.02))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (N, T, in), y = W0 x (N, T, out) -> h (N, T, out), in the dtype of y."""
        x = self.dropout(x.to(self.Q.dtype))
        low = F.linear(x, self.Q) * self.Lambda  # eq. 3: Lambda Q x, (N, T, r)
        return (y + self.scale * F.linear(low, self.P)).to(y.dtype)  # eq. 3: h, (N, T, out)

    def delta(self) -> Tensor:
        """scale P Lambda Q: (out, r) (r, in) -> (out, in)."""
        return self.scale * (self.P * self.Lambda) @ self.Q

    def penalty(self) -> Tensor:
        """||P^T P - I|| + ||Q Q^T - I||, Frobenius norms of (r, r) matrices."""
        eye = torch.eye(len(self.Lambda), dtype=self.P.dtype, device=self.P.device)
        return (self.P.T @ self.P - eye).norm() + (self.Q @ self.Q.T - eye).norm()  # eq. 4


@dataclass(frozen=True)
class AdaLoRA(Budgeted, Method):
    """AdaLoRA on every linear map that the targets name; `train` drives it.

    Args:
        init_rank, target_rank: rank of every map at the start, average rank at the end.
        alpha: scale of the detour, divided by init_rank.
        targets, dropout, layers: as for LoRA.
        warmup, final: steps before the first and after the last change of the ranks: a share of
            the run (below 1) or a number.
        every: steps between two allocations.
        betas: b1 and b2 of the moving averages.
        orthogonality: weight of the penalty.
        ranks: for a pruned file, how many triplets are left, {"<module>.<target>": 3}.
        total_steps: how many steps of the optimizer a loop of your own will make.

    A tuner that has its target rank already is trained on without another pruning. A run of one
    step prunes nothing. In a loop of your own say total_steps, and the optimizer's steps are
    counted, with transformers' Trainer give it `callbacks=[minipeft.trainer_callback()]`; or call
    `begin(tuner, steps)`, add `penalty(tuner)` to the loss, call `after_step(tuner, step, steps)`
    after every optimizer step and `finish(tuner)` at the end.

    Raises:
        ValueError: when a value is impossible.
    """

    default_rate = 1e-2  # SST-2 with MiniLM: 78 % (51 at 1e-3); lesson 12: 0.003 to 0.03

    init_rank: int = 12
    target_rank: int = 8
    alpha: float = 16
    targets: tuple[str, ...] = ("query", "value")
    dropout: float = 0.0
    warmup: float = 0.1
    final: float = 0.3
    every: int = 1
    betas: tuple[float, float] = (0.85, 0.85)
    orthogonality: float = 0.5
    layers: tuple[int, ...] | None = None
    ranks: Mapping[str, int] = field(default_factory=dict, hash=False, repr=False)
    total_steps: int | None = None

    def __post_init__(self) -> None:
        check_names(self, "targets")
        check_layers(self)
        check_table(self, "ranks")
        if not all(type(rank) is int and 0 <= rank < LARGEST for rank in self.ranks.values()):
            raise ValueError(
                "AdaLoRA's ranks must be whole numbers from 0, by place, not "
                f"{shorten(self.ranks)}."
            )
        check_number(self, "init_rank", "from 1", lambda r: r >= 1, whole=True)
        rule = f"from 1 to init_rank, {self.init_rank}"
        check_number(self, "target_rank", rule, lambda r: 1 <= r <= self.init_rank, whole=True)
        check_number(self, "alpha", "above 0", lambda a: 0 < a < math.inf)
        check_number(self, "dropout", "from 0 and below 1", lambda p: 0 <= p < 1)
        for name in ("warmup", "final"):
            rule = "that is a share below 1 or counts steps"
            check_number(self, name, rule, lambda n: 0 <= n < math.inf and (n < 1 or n % 1 == 0))
        check_number(self, "every", "from 1", lambda n: n >= 1, whole=True)
        if self.total_steps is not None:
            rule = "from 2, or None"
            check_number(self, "total_steps", rule, lambda n: n >= 2, whole=True)
        check_number(self, "orthogonality", "from 0", lambda w: 0 <= w < math.inf)
        betas = tuple(self.betas) if isinstance(self.betas, list | tuple) else ()
        if len(betas) != 2 or not all(type(b) is float and 0 < b < 1 for b in betas):
            raise ValueError(f"AdaLoRA's betas must be two numbers in (0, 1), not {self.betas!r}.")
        object.__setattr__(self, "betas", betas)

    def install(self, tuner) -> None:
        scale = self.alpha / (self.init_rank + 1e-5)
        places = tuner.find(self.targets, self.layers)
        for key in self.ranks:  # those of another part's places may stand among them
            if (key.rpartition(".")[0] or key) not in tuner.anatomy.modules:
                raise ValueError(
                    f"AdaLoRA's ranks are by place, such as {name_of(places[0])!r}, and {key!r} "
                    "names none of this model: for one rank everywhere take init_rank."
                )
        for place in places:
            rank = self.ranks.get(name_of(place), self.init_rank)
            size = (place.in_features, place.out_features)
            tuner.add(place, AdaLoRAPatch(*size, rank, scale, self.dropout))

    def penalty(self, tuner) -> Tensor | None:
        """The mean over all P and Q of their distance to orthogonality, weighted."""
        tuner.own_steps.penalized = True
        penalties = [patch.penalty() for _, patch in tuner.patches]
        return self.orthogonality * sum(penalties) / (2 * len(penalties))

    def notes(self, tuner) -> list[str]:
        left, missing = self.left(tuner).values(), complaint(tuner)
        ranks = f"ranks: {sum(left)} triplets, {sum(left) / len(left):.3g} per map on the average"
        return [ranks, missing] if missing else [ranks]

    def import_state(self, tensors: dict[str, Tensor]) -> tuple[AdaLoRA, dict[str, Tensor]]:
        """The AdaLoRA that has the ranks of these tensors, which may be a pruned one's."""
        ranks = {k.removesuffix(".Lambda"): len(t) for k, t in tensors.items() if "Lambda" in k}
        ranks = {name: rank for name, rank in ranks.items() if rank != self.init_rank}
        return replace(self, ranks=ranks), tensors
