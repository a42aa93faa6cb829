"""What lesson 12 measures: counts, gradients of biases, AdaLoRA's ranks and how its budget fails.

counts({"BERT-like": model}, {"BitFit": BitFit()})    # numbers trained, or why there are none
first_gradients(model, batch)              # of every kind of bias, before the first step
faults_table(model, batch)                 # five runs of AdaLoRA seen from outside
ranks_by_step(history, places, steps)      # (steps, places): triplets that each map may keep
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.course.experiments import Difference, difference, percent
from minipeft.course.runs import attached
from minipeft.methods.adalora import AdaLoRA, AdaLoRAPatch
from minipeft.methods.bitfit import BitFit
from minipeft.methods.method import Method
from minipeft.report import Table
from minipeft.training.history import History
from minipeft.training.loss import loss_of
from minipeft.tuner import Tuner

MAPS = ("query", "key", "value", "output", "up", "down")
FEED_FORWARD = ("up", "down")

# ---- counts and gradients ----


def counts(models: Mapping[str, nn.Module], methods: Mapping[str, Method]) -> Table:
    """Numbers that each method trains in each model, the head not counted; a dash where it cannot.

    What a method says of a model that it cannot adapt stands under the table.
    """
    rows, notes = [], []
    for name, model in models.items():
        size, cells = sum(p.numel() for p in model.parameters()), []
        for label, method in methods.items():
            try:
                with attached(model, method) as tuner:
                    trained = tuner.report().trainable
                cells.append(f"{trained:,} ({percent(trained / size)})")
            except ValueError as error:
                cells.append("-")
                notes.append(f"{label} on {name}: {error}")
        rows.append((name, f"{size:,}", *cells))
    return Table("Numbers that are trained", ("model", "numbers", *methods), rows, notes)


def first_gradients(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, float]:
    """Kind of bias -> how long the gradient of its d is at the start, all blocks together."""
    squares: dict[str, float] = {}
    with attached(model, BitFit()) as tuner:
        loss_of(model, batch).backward()
        for place, patch in tuner.patches:
            kind = re.split(r"\.", place.path)[-1] if "." in place.path else "last norm"
            squares[kind] = squares.get(kind, 0.0) + patch.d.grad.double().square().sum().item()
    return {kind: total**0.5 for kind, total in squares.items()}


def silent(gradients: Mapping[str, float]) -> list[str]:
    """The kinds whose gradient is below a thousandth of the middle one: nothing but rounding."""
    middle = sorted(gradients.values())[len(gradients) // 2]
    return [kind for kind, length in gradients.items() if length < 1e-3 * middle]


def upside_down(
    numbers: Mapping[str, int], tests: Mapping[str, Sequence[float]], margin: float
) -> list[str]:
    """Where fewer trained numbers surely do better than more: "A (10) beats B (20)"."""
    return [
        f"{few} ({numbers[few]:,}) beats {many} ({numbers[many]:,})"
        for few in numbers
        for many in numbers
        if numbers[few] < numbers[many]
        and difference(tests[few], tests[many], margin).verdict == "better"
    ]


# ---- AdaLoRA: which map keeps how much ----


class CoinPatch(AdaLoRAPatch):
    """A triplet's score is drawn once and says nothing about it."""

    def begin(self) -> None:
        super().begin()
        self.register_buffer("drawn", torch.rand(len(self.Lambda)), persistent=False)

    def scores(self) -> Tensor:
        return self.drawn


class Coin(AdaLoRA):
    """AdaLoRA in which chance decides which triplets are pruned: all else is the same."""

    def install(self, tuner: Tuner) -> None:
        super().install(tuner)
        for _, patch in tuner.patches:
            patch.__class__ = CoinPatch


def ranks_by_step(history: History, places: int, rank: int, steps: int) -> Tensor:
    """How many triplets every map may keep after each step: (steps, places).

    Args:
        history: of a run with one AdaLoRA.
        places, rank: how many maps there are, and the rank of each at first.
    """
    ranks = torch.full((steps, places), rank)
    for record in history.records.get("default", []):
        ranks[record["step"] :] = torch.tensor(record["ranks"])
    return ranks


def place_names(model: nn.Module, method: AdaLoRA) -> list[tuple[int, str]]:
    """(block, kind of map) of every place of a method, in its order."""
    with attached(model, method) as tuner:
        return [(place.layer, place.target) for place, _ in tuner.patches]


def share_of_ranks(final: Tensor, places: Sequence[tuple[int, str]]) -> dict[str, float]:
    """Mean rank of the maps of feed-forward, of attention, of the upper and the lower half.

    final: (places,), the ranks at the end.
    """
    half = (1 + max(block for block, _ in places)) / 2

    def mean(wanted: Callable[[int, str], bool]) -> float:
        chosen = torch.tensor([wanted(block, kind) for block, kind in places])
        return final[chosen].double().mean().item()

    return {
        "feed-forward": mean(lambda block, kind: kind in FEED_FORWARD),
        "attention": mean(lambda block, kind: kind not in FEED_FORWARD),
        "upper": mean(lambda block, kind: block >= half),
        "lower": mean(lambda block, kind: block < half),
    }


PAPER = {"upper": "lower", "feed-forward": "attention"}  # what keeps more there: what keeps less


def where_ranks_go(ranks: Sequence[Tensor], places: Sequence[tuple[int, str]]) -> list[str]:
    """Sentences about the ranks at the end, one (steps, places) for each seed.

    A side keeps more where the 95 % interval of the paired difference leaves out 0. The last
    sentence holds that against the paper's picture.
    """
    shares = [share_of_ranks(one[-1], places) for one in ranks]
    said, agrees = [], []
    for one, other in PAPER.items():
        gap = difference([s[one] for s in shares], [s[other] for s in shares], 0.0, unit="ranks")
        winner = {"better": one, "worse": other}.get(gap.verdict)
        agrees.append({"better": True, "worse": False}.get(gap.verdict))
        verdict = f"{winner} keeps more" if winner else "no side surely keeps more"
        said.append(
            f"Mean rank of a map at the end: {one} {_mean(shares, one):.2f}, {other} "
            f"{_mean(shares, other):.2f} ({gap.mean:+.2f} ± {gap.half:.2f}): {verdict}."
        )
    if None in agrees:
        said.append("One of the two is left open by these seeds.")
    elif agrees[0] == agrees[1]:
        shape = "the paper's" if agrees[0] else "the opposite of the paper's"
        said.append(f"That is {shape} picture, in this model and on this task.")
    else:
        said.append("That is the paper's picture in one of the two, and its opposite in the other.")
    return said


def _mean(shares: Sequence[Mapping[str, float]], side: str) -> float:
    return sum(share[side] for share in shares) / len(shares)


def budget_met(ranks: Sequence[Tensor], budgets: Sequence[int]) -> bool:
    """Did every run keep exactly the budget after every step? ranks: (steps, places) each."""
    return all(one.sum(dim=1).tolist() == list(budgets) for one in ranks)


def worth(gap: Difference, one: str, other: str) -> str:
    """What a verdict says in words."""
    words = {
        "better": f"{one} is better than {other}",
        "worse": f"{one} is worse than {other}",
        "equal": f"{one} and {other} are equal within {gap.margin:g} {gap.unit}",
        "undecided": f"between {one} and {other} these seeds decide nothing",
    }
    said = f"{words[gap.verdict]} ({gap.number} {gap.unit})."
    return said[0].upper() + said[1:]


# ---- a budget that fails ----

CAUSES = {
    "not called": "nobody tells the method that a step was made",
    "equal": "the rank at first is the rank at the end",
    "total": "the method believes that the run is ten times as long",
    "cleared": "the gradients are set to zero before the method has read them",
    "healthy": "nothing is wrong",
}
FAULTS = {"A": "total", "B": "cleared", "C": "healthy", "D": "not called", "E": "equal"}


@dataclass(frozen=True)
class Watched:
    """What can be seen of a run: losses, budget by step, largest score, ranks at the end."""

    losses: list[float]
    target: int
    budgets: list[int]
    score: float | None
    ranks: list[int]


def watched_run(model: nn.Module, batch: dict[str, Tensor], fault: str, steps: int = 20) -> Watched:
    """AdaLoRA in a loop of one's own, with a fault.

    Args:
        model: a base without tuners; it is left as it was.
        batch: learnt by heart.
        fault: one of CAUSES.
    """
    method = AdaLoRA(4, 4 if fault == "equal" else 2, targets=MAPS)
    said = 10 * steps if fault == "total" else steps
    losses, budgets = [], []
    with attached(model, method, seed=0) as tuner, training(model):
        optimizer = torch.optim.AdamW(tuner.parameters(), 1e-2, weight_decay=0.0)
        patches = [patch for _, patch in tuner.patches]
        if fault != "not called":
            method.begin(tuner, said)
        else:
            tuner.own_steps.warned = True  # the library would say it; other loops do not
        for step in range(steps):
            loss = loss_of(model, batch)
            (loss + method.penalty(tuner)).backward()
            optimizer.step()
            if fault == "cleared":
                optimizer.zero_grad()
            if fault != "not called":
                method.after_step(tuner, step, said)
            optimizer.zero_grad()
            losses.append(loss.item())
            budgets.append(sum(kept_in(patch) for patch in patches))
        score = None
        if fault != "not called":
            score = max(patch.scores().max().item() for patch in patches)
        target = method.target_rank * len(patches)
        return Watched(losses, target, budgets, score, [kept_in(patch) for patch in patches])


def kept_in(patch: AdaLoRAPatch) -> int:
    """How many triplets a patch may keep now; all, where nobody has begun to count."""
    kept = dict(patch.named_buffers()).get("kept")
    return len(patch.Lambda) if kept is None else int(kept.sum())


@contextmanager
def training(model: nn.Module):
    """Training mode, and the old one again afterwards."""
    was = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was)


def faults_table(model: nn.Module, batch: dict[str, Tensor], steps: int = 20) -> Table:
    """Five runs of AdaLoRA seen from outside."""
    rows = []
    for who, fault in FAULTS.items():
        run = watched_run(model, batch, fault, steps)
        halves = run.ranks[: len(run.ranks) // 2], run.ranks[len(run.ranks) // 2 :]
        moments = (run.budgets[0], run.budgets[steps // 2], run.budgets[-1])
        score = "none" if run.score is None else f"{run.score:.0e}" if run.score else "0"
        rows.append(
            (who, f"{run.losses[0]:.2f}", f"{run.losses[-1]:.2f}", *moments, run.target, score,
             *(f"{sum(half) / len(half):.2f}" for half in halves))
        )  # fmt: skip
    head = ("run", "loss at first", "and last", "kept at first", "half way", "at the end",
            "target", "largest score", "rank, lower blocks", "upper blocks")  # fmt: skip
    notes = ["Kept: triplets whose lambda may differ from 0, in all maps. Ranks: mean at the end."]
    return Table(f"Five runs of AdaLoRA, {steps} steps on one batch", head, rows, notes)
