"""AdaLoRA: adaptive budget allocation (Zhang et al. 2023, arXiv 2303.10512), in the weights door.

Section 3.1. The detour has the form of a singular value decomposition, so that a direction can be
taken away without touching the others:

    h = W0 x + (alpha / r) P Lambda Q x      P (out, r)   Lambda (r,), a diagonal   Q (r, in)

    Lambda = 0 at the start, so that h = W0 x; P and Q are Gaussian. What keeps them orthogonal is a
    penalty on the loss, 0.5 times the mean over all matrices of ||P^T P - I|| and ||Q Q^T - I||.

Section 3.2. After every step each of the triplets (column of P, lambda, row of Q) has a score:

    I(w) = |w dL/dw|                                 sensitivity of one number w
    mean <- b1 mean + (1 - b1) I                     smoothed
    unsure <- b2 unsure + (1 - b2) |I - mean|        and how much it varies
    score = s(lambda) + average of s(P's column) + average of s(Q's row)      s = mean * unsure

Section 3.3. Only the triplets of highest score in the whole model, b(step) of them, keep their
lambda; the others get lambda = 0, and may come back while the budget b still falls:

    b = b0  for `warmup` steps;   b = bT + (b0 - bT) (1 - progress)^3;   b = bT  for `final` steps

    b0 = init_rank x places, bT = target_rank x places. When `train` ends, what was pruned is gone.

Parameters: r (in + out + 1) for every map; after training its own r, target_rank on the average.

Departures.
(1) The paper squares the norms of the penalty; its code and PEFT do not, and neither do we.
(2) As in their code w is read after the optimizer's step and dL/dw before it, and the scale is
    alpha / (init_rank + 1e-5) for good, however many triplets are left.
(3) P and Q have standard deviation 0.02; x may be dropped out; a half-precision base gets fp32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.methods.method import Method, check_layers, check_names, check_number


class AdaLoRAPatch(nn.Module):
    """The detour P Lambda Q beside one linear map, and what is known of its triplets."""

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
        """x (B, T, in), y = W0 x (B, T, out) -> y + scale P Lambda Q x, in the dtype of y."""
        x = self.dropout(x.to(self.Q.dtype))
        low = F.linear(x, self.Q) * self.Lambda  # Lambda Q x: (B, T, r)
        return (y + self.scale * F.linear(low, self.P)).to(y.dtype)

    def delta(self) -> Tensor:
        """scale P Lambda Q: (out, r) (r, in) -> (out, in)."""
        return self.scale * (self.P * self.Lambda) @ self.Q

    def penalty(self) -> Tensor:
        """||P^T P - I|| + ||Q Q^T - I||, Frobenius norms of (r, r) matrices."""
        eye = torch.eye(len(self.Lambda)).to(self.Lambda)
        return (self.P.T @ self.P - eye).norm() + (self.Q @ self.Q.T - eye).norm()

    def begin(self) -> None:
        """Nothing known yet, all kept. Buffers, so that a checkpoint of the run has them."""
        for name, w in list(self.named_parameters()):
            self.register_buffer(f"{name}_mean", torch.zeros_like(w), persistent=False)
            self.register_buffer(f"{name}_unsure", torch.zeros_like(w), persistent=False)
        kept = torch.ones_like(self.Lambda, dtype=torch.bool)
        self.register_buffer("kept", kept, persistent=False)

    @torch.no_grad()
    def watch(self, b1: float, b2: float) -> None:
        """One more gradient goes into the moving averages."""
        for name, w in self.named_parameters():
            mean, unsure = getattr(self, f"{name}_mean"), getattr(self, f"{name}_unsure")
            I = torch.zeros_like(w) if w.grad is None else (w * w.grad).abs()  # noqa: E741
            mean.copy_(b1 * mean + (1 - b1) * I)
            unsure.copy_(b2 * unsure + (1 - b2) * (I - mean).abs())

    def scores(self) -> Tensor:
        """Importance of each triplet: (r,)."""
        P, Q = self.P_mean * self.P_unsure, self.Q_mean * self.Q_unsure  # (out, r), (r, in)
        return self.Lambda_mean * self.Lambda_unsure + P.mean(0) + Q.mean(1)

    @torch.no_grad()
    def prune(self) -> None:
        self.Lambda.masked_fill_(~self.kept, 0.0)

    def finish(self) -> None:
        """Forget the triplets that were pruned, and everything that was known of the others."""
        kept = self.kept
        if not kept.all():
            self.P = nn.Parameter(self.P.detach()[:, kept])
            self.Lambda = nn.Parameter(self.Lambda.detach()[kept])
            self.Q = nn.Parameter(self.Q.detach()[kept])
        for name in [*self._buffers]:
            delattr(self, name)


@dataclass(frozen=True)
class AdaLoRA(Method):
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

    A tuner that has its target rank already is trained on without another pruning. A run of one
    step prunes nothing.

    Raises:
        ValueError: when a value is impossible.
    """

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

    def __post_init__(self) -> None:
        check_names(self, "targets")
        check_layers(self)
        check_number(self, "init_rank", "from 1", lambda r: r >= 1, whole=True)
        rule = f"from 1 to init_rank, {self.init_rank}"
        check_number(self, "target_rank", rule, lambda r: 1 <= r <= self.init_rank, whole=True)
        check_number(self, "alpha", "above 0", lambda a: 0 < a < math.inf)
        check_number(self, "dropout", "from 0 and below 1", lambda p: 0 <= p < 1)
        for name in ("warmup", "final"):
            rule = "that is a share below 1 or counts steps"
            check_number(self, name, rule, lambda n: 0 <= n < math.inf and (n < 1 or n % 1 == 0))
        check_number(self, "every", "from 1", lambda n: n >= 1, whole=True)
        check_number(self, "orthogonality", "from 0", lambda w: 0 <= w < math.inf)
        betas = tuple(self.betas) if isinstance(self.betas, list | tuple) else ()
        if len(betas) != 2 or not all(type(b) is float and 0 < b < 1 for b in betas):
            raise ValueError(f"AdaLoRA's betas must be two numbers in (0, 1), not {self.betas!r}.")
        object.__setattr__(self, "betas", betas)

    def install(self, tuner) -> None:
        scale = self.alpha / (self.init_rank + 1e-5)
        for place in tuner.find(self.targets, self.layers):
            rank = self.ranks.get(name_of(place), self.init_rank)
            size = (place.in_features, place.out_features)
            tuner.add(place, AdaLoRAPatch(*size, rank, scale, self.dropout))

    def penalty(self, tuner) -> Tensor | None:
        """The mean over all P and Q of their distance to orthogonality, weighted."""
        penalties = [patch.penalty() for _, patch in tuner.places]
        return self.orthogonality * sum(penalties) / (2 * len(penalties))

    # ---- the budget

    def phases(self, steps: int) -> tuple[int, int]:
        """(last step before the ranks fall, step at which they have fallen), from 0."""
        first, last = (round(n * steps) if n < 1 else int(n) for n in (self.warmup, self.final))
        end = min(steps - last, steps - 1)
        return (min(first, end - 1) if self.warmup < 1 else first), end

    def budgets(self, tuner) -> tuple[int, int]:
        """(b0, bT): how many triplets there are, and how many shall be left."""
        return sum(self.left(tuner).values()), self.target_rank * len(tuner.places)

    def budget(self, tuner, step: int, steps: int) -> int:
        """b(step): a cubic from b0 to bT between the two phases."""
        (start, end), (b0, bT) = self.phases(steps), self.budgets(tuner)
        if step <= start or step >= end:
            return b0 if step <= start else bT
        return int((b0 - bT) * (1 - (step - start) / (end - start)) ** 3 + bT)

    def falls(self, tuner, steps: int) -> bool:
        """Is there anything to prune in this run?"""
        b0, bT = self.budgets(tuner)
        return b0 > bT and steps > 1

    def begin(self, tuner, steps: int) -> None:
        start, end = self.phases(steps)
        if self.falls(tuner, steps) and not start < end:
            raise ValueError(
                f"AdaLoRA's warmup={self.warmup} and final={self.final} leave none of the {steps} "
                "steps for pruning: train longer, or give both as shares such as 0.1 and 0.3."
            )
        for _, patch in tuner.places:
            patch.begin()

    def after_step(self, tuner, step: int, steps: int) -> dict | None:
        """Update the scores, and prune to the budget when it is time to."""
        if not self.falls(tuner, steps):
            return None
        patches = [patch for _, patch in tuner.places]
        start, end = self.phases(steps)
        if step < end:
            for patch in patches:
                patch.watch(*self.betas)
        allocate = step == end or (start < step < end and step % self.every == 0)
        if allocate:
            scores = torch.cat([patch.scores() for patch in patches])
            kept = torch.ones_like(scores, dtype=torch.bool)
            lowest = scores.argsort(stable=True)[: len(scores) - self.budget(tuner, step, steps)]
            kept[lowest] = False
            sizes = [len(patch.Lambda) for patch in patches]
            for patch, own in zip(patches, kept.split(sizes), strict=True):
                patch.kept.copy_(own)
        if allocate or step > end:
            for patch in patches:
                patch.prune()
        ranks = [int(patch.kept.sum()) for patch in patches]
        return {"budget": sum(ranks), "ranks": ranks} if allocate else None

    def settled(self, tuner, step: int, steps: int) -> bool:
        return step >= self.phases(steps)[1] or not self.falls(tuner, steps)

    def finish(self, tuner) -> None:
        for _, patch in tuner.places:
            patch.finish()

    def notes(self, tuner) -> list[str]:
        left = self.left(tuner).values()
        return [f"ranks: {sum(left)} triplets, {sum(left) / len(left):.3g} per map on the average"]

    def left(self, tuner) -> dict[str, int]:
        """The rank of every map now, {"<module>.<target>": 3}."""
        return {name_of(place): len(patch.Lambda) for place, patch in tuner.places}


def name_of(place) -> str:
    return f"{place.path}.{place.target.replace('.', '/')}"
