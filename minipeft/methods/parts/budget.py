"""AdaLoRA's budget: which triplets keep their lambda (arXiv 2303.10512, sections 3.2 and 3.3).

After every step each triplet (column of P, lambda, row of Q) gets a score:

    I(w) = |w dL/dw|                                 sensitivity of one number w
    mean <- b1 mean + (1 - b1) I                     smoothed
    uncertainty <- b2 uncertainty + (1 - b2) |I - mean|        and how much it varies
    score = s(lambda) + average of s(P's column) + average of s(Q's row)      s = mean * uncertainty

Only the triplets of highest score in the whole model, b(step) of them, keep their lambda; the
others get lambda = 0. While the budget b still falls they may come back, since the optimizer moves
their lambda on and their score may rise again:

    b = b0  up to step `start`;   b = bT + (b0 - bT) (1 - progress)^3;   b = bT  from step `end`

Departure: as in the authors' code, w is read after the optimizer's step and dL/dw before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.doors.patch import Patch
from minipeft.model.sites import name_of


@dataclass(frozen=True)
class Schedule:
    """b(step) of a run, steps counted from 0: b0 up to `start`, bT from `end`, a cubic between."""

    b0: int
    bT: int
    start: int
    end: int

    @classmethod
    def of(cls, warmup: float, final: float, steps: int, b0: int, bT: int) -> Schedule:
        """warmup, final: how many steps b0 and bT last, a share of the steps when below 1."""
        first, last = (round(n * steps) if n < 1 else int(n) for n in (warmup, final))
        end = min(steps - last, steps - 1)  # the last step at the latest
        return cls(b0, bT, min(first, end - 1) if warmup < 1 else first, end)

    def falls(self) -> bool:
        """Is there anything to prune? Not when it is done already, nor in a run of one step."""
        return self.b0 > self.bT and self.end > 0

    def __call__(self, step: int) -> int:
        if step <= self.start or step >= self.end:
            return self.b0 if step <= self.start else self.bT
        left = 1 - (step - self.start) / (self.end - self.start)
        return int((self.b0 - self.bT) * left**3 + self.bT)


def update_averages(
    w: Tensor, gradient: Tensor, mean: Tensor, uncertainty: Tensor, b1: float, b2: float
) -> tuple[Tensor, Tensor]:
    """One more gradient goes into the moving averages of the numbers w.

    w, gradient, mean and uncertainty have one shape; so have the new (mean, uncertainty). Nothing
    that is given changes.
    """
    I = (w * gradient).abs()  # noqa: E741  the sensitivity of every number
    mean = b1 * mean + (1 - b1) * I
    return mean, b2 * uncertainty + (1 - b2) * (I - mean).abs()


class Triplets(Patch):
    """P (out, r), Lambda (r,), Q (r, in), and what is known of the r triplets during a run."""

    P: nn.Parameter
    Lambda: nn.Parameter
    Q: nn.Parameter

    def begin(self) -> None:
        """Nothing known yet, all kept. Buffers, so that a checkpoint of the run has them."""
        for name, w in list(self.named_parameters()):
            self.register_buffer(f"{name}_mean", torch.zeros_like(w), persistent=False)
            self.register_buffer(f"{name}_uncertainty", torch.zeros_like(w), persistent=False)
        kept = torch.ones_like(self.Lambda, dtype=torch.bool)
        self.register_buffer("kept", kept, persistent=False)

    @torch.no_grad()
    def update_importance(self, b1: float, b2: float) -> None:
        """One more gradient goes into the moving averages."""
        for name, w in self.named_parameters():
            gradient = torch.zeros_like(w) if w.grad is None else w.grad
            averages = getattr(self, f"{name}_mean"), getattr(self, f"{name}_uncertainty")
            updated = update_averages(w, gradient, *averages, b1, b2)
            for average, value in zip(averages, updated, strict=True):
                average.copy_(value)

    def scores(self) -> Tensor:
        """Importance of each triplet: (r,)."""
        P, Q = (
            self.P_mean * self.P_uncertainty,
            self.Q_mean * self.Q_uncertainty,
        )  # (out, r), (r, in)
        return self.Lambda_mean * self.Lambda_uncertainty + P.mean(0) + Q.mean(1)

    @torch.no_grad()
    def prune(self) -> None:
        """lambda = 0 for the triplets that are not kept."""
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


def allocate(patches: Sequence[Triplets], budget: int) -> list[int]:
    """Keep the `budget` triplets of highest score in all patches; gives the ranks that are left."""
    scores = torch.cat([patch.scores() for patch in patches])
    kept = torch.ones_like(scores, dtype=torch.bool)
    kept[scores.argsort(stable=True)[: len(scores) - budget]] = False
    sizes = [len(patch.Lambda) for patch in patches]
    parts = kept.split(sizes)
    for patch, kept_of_patch in zip(patches, parts, strict=True):
        patch.kept.copy_(kept_of_patch)
    return torch.stack([part.sum() for part in parts]).tolist()  # one transfer from the device


class Budgeted:
    """What AdaLoRA does during a run: `train` calls these, see `Method`."""

    warmup: float
    final: float
    every: int
    target_rank: int
    betas: tuple[float, float]

    def schedule(self, tuner, steps: int) -> Schedule:
        """How many triplets may keep their lambda after each step of a run."""
        b0, bT = sum(self.left(tuner).values()), self.target_rank * len(tuner.patches)
        return Schedule.of(self.warmup, self.final, steps, b0, bT)

    def begin(self, tuner, steps: int) -> None:
        budget = self.schedule(tuner, steps)
        if budget.falls() and budget.start >= budget.end:
            raise ValueError(
                f"AdaLoRA's warmup={self.warmup} and final={self.final} leave none of the {steps} "
                "steps for pruning: train longer, or give both as shares such as 0.1 and 0.3."
            )
        tuner.own_steps.begin()
        for _, patch in tuner.patches:
            patch.begin()

    def counts_steps(self, tuner) -> bool:
        return sum(self.left(tuner).values()) > self.target_rank * len(tuner.patches)

    def after_step(self, tuner, step: int, steps: int) -> dict | None:
        """Watch the gradients, and prune to the budget when it is time to."""
        tuner.own_steps.reported = tuner.own_steps.made
        budget, record = self.schedule(tuner, steps), None
        if not budget.falls():
            return None
        patches = [patch for _, patch in tuner.patches]
        if step < budget.end:
            for patch in patches:
                patch.update_importance(*self.betas)
        between = budget.start < step < budget.end and step % self.every == 0
        if between or step == budget.end:
            record = {"budget": budget(step), "ranks": allocate(patches, budget(step))}
        if between or step >= budget.end:
            for patch in patches:
                patch.prune()
        return record

    def settled(self, tuner, step: int, steps: int) -> bool:
        budget = self.schedule(tuner, steps)
        return step >= budget.end or not budget.falls()

    def finish(self, tuner) -> None:
        tuner.own_steps.finish()
        for _, patch in tuner.patches:
            patch.finish()

    def left(self, tuner) -> dict[str, int]:
        """The rank of every map now, {"<module>.<target>": 3}."""
        return {name_of(place): len(patch.Lambda) for place, patch in tuner.patches}
