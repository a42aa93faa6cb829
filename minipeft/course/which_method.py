"""Lesson 15: one contest for all methods, its stored runs, and what may be concluded from them.

    stored = Runs.read()                               # benchmarks/results/contest.csv
    outcomes = stored.contest(Situation("reverse", 1000))

The same `measure` made the stored runs (`python -m benchmarks.contest`) and makes those of the
lesson; only the seeds differ.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import minipeft
from minipeft.course import runs
from minipeft.course.experiments import Outcome, contest, difference
from minipeft.methods import (
    IA3,
    AdaLoRA,
    Adapter,
    BitFit,
    DoRA,
    FullFineTuning,
    LoRA,
    Prefix,
    PromptTuning,
    PTuning,
    PTuningV2,
    TopLayers,
    UniPELT,
)
from minipeft.methods.method import Method
from minipeft.training.gradients import Diverged

BASE, STEPS, BATCH, ROWS = "tiny-decoder-0.4m", 100, 8, 100
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # for every arm; one more where the best is at the edge
EXTEND = 1
BUDGET = 10_240  # numbers kept for a task: LoRA of rank 8 on query and value

# What a task keeps is matched, so far as a method can spend the budget: full and top layers cannot
# be made that small; BitFit and IA3 have one size; a long prompt leaves no room for the input.
ARMS: dict[str, Method] = {
    "full": FullFineTuning(),
    "top": TopLayers(1),
    "BitFit": BitFit(),
    "IA3": IA3(),
    "adapter": Adapter(bottleneck=6),
    "prefix": Prefix(length=16, hidden=32),
    "P-Tuning v2": PTuningV2(16),
    "prompt tuning": PromptTuning(20, start="vocabulary"),
    "P-tuning": PTuning(template=("P", "P", "P", "{x}", "P", "P", "P", "{mask}")),
    "LoRA": LoRA(rank=8, alpha=32),
    "DoRA": DoRA(rank=7, alpha=28),
    "AdaLoRA": AdaLoRA(init_rank=12, target_rank=8, alpha=32),
    "UniPELT": UniPELT(bottleneck=4, length=4, rank=3),
}
# The same methods, set up in another way.
VARIANTS: dict[str, Method] = {
    "prompt tuning, random start": PromptTuning(20, start="random"),
    "prefix, without its MLP": Prefix(length=16, hidden=None),
    "LoRA, all maps": LoRA(
        rank=2, alpha=8, targets=("query", "key", "value", "output", "up", "down")
    ),
    "adapter, parallel": Adapter(bottleneck=15, placement="parallel"),
    "IA3, more maps": IA3(
        targets=("query", "key", "value", "output", "up", "down"), feedforward=("up", "down")
    ),
}


@dataclass(frozen=True)
class Situation:
    """A task and how many of its examples are learnt from."""

    task: str
    examples: int

    def __str__(self) -> str:
        return f"{self.task}, {self.examples} examples"


NOVEL, LATENT = Situation("reverse-rotate", 1000), Situation("reverse", 1000)
FEW = Situation("reverse", 32)
SITUATIONS = (NOVEL, LATENT, FEW, Situation("reverse-rotate", 200), Situation("headline", 1000))


@dataclass(frozen=True)
class One:
    """One run. trained, stored: numbers. dev: nats; test, ood, forgotten: shares; nan if failed."""

    task: str
    examples: int
    arm: str
    rate: float
    seed: int
    trained: int
    stored: int
    dev: float
    test: float
    ood: float
    forgotten: float


def measure(
    situation: Situation, arm: str, rate: float, seed: int, steps: int = STEPS, rows: int = ROWS
) -> One:
    """Train one arm once, as every run of the contest is trained; a failed run has a dev of inf."""
    method = (ARMS | VARIANTS)[arm]
    base = runs.base(BASE)
    job = (situation.task, situation.examples, arm, rate, seed)
    try:
        result = runs.tuned_task(
            *(base, method, situation.task, rate, steps, seed),
            **dict(batch_size=BATCH, examples=situation.examples, rows=rows),
            **dict(known=known(), ood=True),
        )
    except (Diverged, FloatingPointError):
        return One(*job, 0, 0, math.inf, math.nan, math.nan, math.nan)
    shares = (result[key] for key in ("test", "ood", "forgotten"))
    return One(*job, result["trained"], result["stored"] // 4, result["dev"], *shares)


@cache
def known() -> runs.Known:
    """What the base knows, asked once."""
    return runs.Known(*runs.base(BASE), rows=40)


class Runs:
    """Many runs, kept by (situation, arm, rate, seed).

    train: makes a run that is missing, as `measure` does; None refuses.
    table: a file to which new runs are added.
    """

    def __init__(
        self, every: Iterable[One] = (), train: Callable | None = None, table: Path | None = None
    ) -> None:
        self.every = {self.key(one): one for one in every}
        self.train, self.table = train, table

    @staticmethod
    def key(one: One) -> tuple:
        return (Situation(one.task, one.examples), one.arm, one.rate, one.seed)

    @classmethod
    def read(cls, path: Path | None = None, train: Callable | None = None) -> Runs:
        """Those of a file, by default the stored ones; with `train` new runs are added to it.

        Raises:
            FileNotFoundError: there is no such file.
        """
        path = stored_table() if path is None else path
        if not path.exists():
            raise FileNotFoundError(
                f"There is no table of runs at {path.name}: python -m benchmarks.contest makes it."
            )
        kinds = {
            field.name: {"int": int, "float": float, "str": str}[field.type] for field in FIELDS
        }
        with open(path, encoding="utf-8", newline="") as file:
            lines = csv.DictReader(line for line in file if not line.startswith("#"))
            every = [
                One(**{name: kinds[name](text) for name, text in row.items()}) for row in lines
            ]
        return cls(every, train, path if train else None)

    def one(self, situation: Situation, arm: str, rate: float, seed: int) -> One:
        """A run by its name.

        Raises:
            KeyError: it is not among the stored ones, and may not be trained.
        """
        key = (situation, arm, rate, seed)
        if key not in self.every:
            if self.train is None:
                raise KeyError(f"No stored run of {arm} at {rate:g} on {situation}, seed {seed}.")
            self.every[key] = one = self.train(*key)
            if self.table:
                with open(self.table, "a", encoding="utf-8", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerow(
                        [getattr(one, field.name) for field in FIELDS]
                    )
        return self.every[key]

    def seeds(
        self, situation: Situation, arms: Iterable[str] = ARMS, rates: Sequence[float] = ()
    ) -> list[int]:
        """With which seeds did all these arms run, at all these rates or (without) at any?"""
        ran: dict[int, set] = {}
        for where, arm, rate, seed in self.every:
            if where == situation:
                ran.setdefault(seed, set()).update({(arm, rate), arm})
        asked = {(arm, rate) for arm in arms for rate in rates} or set(arms)
        return sorted(seed for seed, each in ran.items() if asked <= each)

    def contest(
        self,
        situation: Situation,
        arms: Iterable[str] = ARMS,
        seeds: Sequence[int] | None = None,
        rates: Sequence[float] = RATES,
        extend: int = EXTEND,
    ) -> dict[str, Outcome]:
        """The contest of `experiments.contest` in one situation; seeds None takes all there are."""

        def run(arm: str, rate: float, seed: int) -> dict:
            return vars(self.one(situation, arm, rate, seed))

        seeds = self.seeds(situation, arms) if seeds is None else seeds
        grids = dict.fromkeys(arms, rates)
        return contest(grids, run, seeds, extend=extend, label=str(situation))


FIELDS = fields(One)


def stored_table() -> Path:
    """The table of runs: in the repository, or the copy that an installed package carries."""
    package = Path(minipeft.__file__).resolve().parent
    repository = package.parent / "benchmarks" / "results" / "contest.csv"
    return repository if repository.exists() else package / "course" / "contest.csv"


# -- what may be concluded ------------------------------------------------------------------------


def against_best(
    scores: Mapping[str, Sequence[float]], margin: float, lower_is_better: bool = False
) -> dict[str, str]:
    """Of every arm "best" (the best mean), or how it compares with that one, paired by seed.

    "worse": surely, or a run failed. "equal", "undecided": it is not shown to be less good.
    """
    best = leader(scores, lower_is_better)
    against = {
        name: difference(values, scores[best], margin, lower_is_better=lower_is_better).verdict
        for name, values in scores.items()
    }
    failed = {name: "worse" for name in scores if math.isnan(mean_of(scores[name]))}
    return against | failed | {best: "best"}


def leader(scores: Mapping[str, Sequence[float]], lower_is_better: bool = False) -> str:
    """The arm with the best mean; one with a failed run cannot lead."""
    sign = -1 if lower_is_better else 1
    finished = [name for name in scores if not math.isnan(mean_of(scores[name]))]
    return max(finished or scores, key=lambda name: sign * mean_of(scores[name]))


def ranks(means: Mapping[str, float]) -> dict[str, float]:
    """1 for the highest mean; equal ones share the mean of their places; nan is last."""
    values = {name: -math.inf if math.isnan(mean) else mean for name, mean in means.items()}
    return {
        name: 0.5
        + sum(other > value for other in values.values())
        + 0.5 * sum(other == value for other in values.values())
        for name, value in values.items()
    }


def turned(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The share of pairs of arms that the two rankings put in opposite order."""
    names = [name for name in one if name in other]
    pairs = [(a, b) for number, a in enumerate(names) for b in names[:number]]
    opposite = sum((one[a] - one[b]) * (other[a] - other[b]) < 0 for a, b in pairs)
    return opposite / max(1, len(pairs))


def mean_of(values: Sequence[float]) -> float:
    """The mean over seeds; nan if a run failed."""
    return sum(values) / len(values)
