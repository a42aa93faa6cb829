"""A fair contest: every arm gets the same tuning, dev chooses, test tells, seeds are paired.

    outcomes = contest({"lora": [3e-3, 1e-2], "full": [3e-4, 1e-3]}, run, seeds=[0, 1, 2])
    difference(outcomes["lora"].values("test"), outcomes["full"].values("test"), margin=0.03).text

`run(name, rate, seed)` trains once and gives what was measured: "dev", where lower is better, and
anything else ("test", "forgotten", ..). The first seed tries every rate of an arm's grid; while the
best one is at the grid's edge, the grid goes on by its own factor; the best rate then runs with the
other seeds. `minipeft.course.runs` has runs that many lessons share.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from minipeft.analysis.plots import SHARE, interval, with_interval
from minipeft.report import Table
from minipeft.training.gradients import Diverged


@dataclass(frozen=True)
class Outcome:
    """What became of one arm.

    rate: the best on dev.  tried: rate -> dev of the first seed, the grid and what was added to it.
    runs: what was measured, one dict per seed.  edge: whether the best rate still is the lowest or
    the highest that was tried, so that a better one may lie beyond.
    """

    name: str
    rate: float
    tried: dict[float, float]
    runs: tuple[dict, ...]
    edge: bool

    def values(self, key: str = "test") -> list[float]:
        """One number per seed; nan for a run that failed.

        Raises:
            ValueError: the runs did not measure that.
        """
        for run in self.runs:
            if key not in run and "failed" not in run:
                raise ValueError(
                    f"The runs of {self.name!r} have no {key!r}; they have {', '.join(run)}."
                )
        return [run.get(key, math.nan) for run in self.runs]

    @property
    def failed(self) -> int:
        """How many seeds failed at the best rate."""
        return sum("failed" in run for run in self.runs)


def contest(
    arms: Mapping[str, Sequence[float]],
    run: Callable,
    seeds: Sequence[int],
    *,
    extend: int = 2,
    together: bool = False,
    label: str = "runs",
) -> dict[str, Outcome]:
    """Run every arm with equal tuning, as the head of this file says.

    Args:
        arms: name -> the rates to try. An arm with one rate has nothing to choose.
        run: (name, rate, seed) -> dict with "dev". One whose loss is not a number any more
            (`Diverged`, FloatingPointError, a dev of nan) counts as infinitely bad.
        seeds: the first one chooses the rate, all of them are measured at it.
        extend: how many rates may be added to a grid whose best is at its edge; 0 adds none.
        together: `run` takes a list of (name, rate, seed) and gives a list of dicts, so that many
            runs can be trained in one pass (`minipeft.course.runs.side_by_side`).
        label: what the progress bar says.

    Raises:
        ValueError: no arms, no rates, no seeds, seeds or rates named twice, or a result without
            "dev".
    """
    _check(arms, seeds, extend)
    tried: dict[str, dict[float, float]] = {name: {} for name in arms}
    first: dict[tuple[str, float], dict] = {}
    total = sum(len(rates) + len(seeds) - 1 for rates in arms.values())
    with tqdm(total=total, desc=label, disable=together, leave=False) as bar:

        def measure(jobs: list[tuple[str, float, int]]) -> list[dict]:
            bar.total = max(bar.total, bar.n + len(jobs))
            if together:
                return [_valid(result) for result in run(jobs)]
            return [_one(run, job, bar) for job in jobs]

        ask = [(name, rate) for name, rates in arms.items() for rate in sorted(rates)]
        while ask:
            for key, result in zip(ask, measure([(*k, seeds[0]) for k in ask]), strict=True):
                first[key] = result
                tried[key[0]][key[1]] = result["dev"]
            ask = [
                (name, beyond)
                for name, rates in arms.items()
                if len(tried[name]) < len(rates) + extend
                and (beyond := next_rate(tried[name])) is not None
            ]
        best = {name: best_rate(rates) for name, rates in tried.items()}
        for name, rate in best.items():
            if "failed" in first[name, rate]:
                reason = first[name, rate]["failed"]
                warnings.warn(f"Every rate of {name!r} failed: {reason}", UserWarning, stacklevel=2)
        again = [(name, best[name], seed) for name in arms for seed in seeds[1:]]
        rest = iter(measure(again) if again else [])
        runs = {name: (first[name, best[name]], *(next(rest) for _ in seeds[1:])) for name in arms}
    return {
        name: Outcome(
            name,
            best[name],
            dict(sorted(tried[name].items())),
            runs[name],
            next_rate(tried[name]) is not None,
        )
        for name in arms
    }


def percent(share: float, digits: int = 2) -> str:
    """A share in %, to that many digits that count, and never as a power of ten: 0.8 -> "80 %"."""
    value = 100 * share
    if not value or not math.isfinite(value):
        return f"{value:g} %"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f} %"


def best_rate(tried: Mapping[float, float]) -> float:
    """The rate with the lowest dev; of equal ones the lowest."""
    return min(sorted(tried), key=lambda rate: tried[rate])


def next_rate(tried: Mapping[float, float]) -> float | None:
    """The rate beyond the edge at which the best one lies; None where it is inside, or alone."""
    rates, best = sorted(tried), best_rate(tried)
    if len(rates) == 1 or best not in (rates[0], rates[-1]):
        return None
    low = best == rates[0]
    factor = rates[0] / rates[1] if low else rates[-1] / rates[-2]
    return float(f"{best * factor:.3g}")


def _one(run: Callable, job: tuple, bar) -> dict:
    """One run that may diverge."""
    try:
        result = _valid(run(*job))
    except (Diverged, FloatingPointError) as error:
        result = failure(str(error))
    bar.update()
    return result


def failure(reason: str) -> dict:
    """What counts for a run whose loss left the numbers: worse than every other."""
    return {"dev": math.inf, "failed": reason}


def _valid(result: dict) -> dict:
    """A result whose dev is a number or infinite."""
    if not isinstance(result, Mapping) or "dev" not in result:
        raise ValueError('A run must give a dict with "dev", a number that is lower when better.')
    return failure("The dev loss is nan.") if math.isnan(result["dev"]) else dict(result)


def _check(arms: Mapping[str, Sequence[float]], seeds: Sequence[int], extend: int) -> None:
    if not arms or not seeds or extend < 0:
        raise ValueError("A contest needs one or more arms, one or more seeds and extend >= 0.")
    if len(set(seeds)) < len(seeds):
        raise ValueError("A contest's seeds must differ: equal seeds are one run, not several.")
    for name, rates in arms.items():
        if not len(rates):
            raise ValueError(f"The arm {name!r} has no rate to try: give a list such as [1e-3].")
        if len(set(rates)) < len(rates) or (len(rates) > 1 and min(rates) <= 0):
            raise ValueError(f"The rates of {name!r} must differ and lie above 0.")


def _said(change: Difference | Trend, where: str = "") -> str:
    """Mean, half width and verdict of a change in words."""
    if math.isnan(change.mean):
        return "a run failed: undecided"
    return f"{change.number} {change.unit}{where}: {change.verdict}"


def _number(mean: float, half: float, unit: str, limits: tuple[float, float] | None) -> str:
    """Such as "+4.1 ± 1.2"; a single run has no interval, "+4.1 ± ?"."""
    digits = "+.1f" if unit == "points" else f"+{_digits(half)}"
    return with_interval(mean, half, digits, limits) + (" ± ?" if math.isnan(half) else "")


def _digits(half: float) -> str:
    """How to write a mean and the half of its interval: to the second digit of the latter."""
    if not math.isfinite(half) or not 1e-6 < half < 1e6:
        return ".3g"
    return f".{max(0, 1 - math.floor(math.log10(half)))}f"


@dataclass(frozen=True)
class Difference:
    """a - b, paired by seed. In `unit`: mean, half (of the 95 % interval), margin."""

    mean: float
    half: float
    margin: float
    unit: str
    verdict: str

    @property
    def number(self) -> str:
        """Such as "+4.1 ± 1.2". Shares differ by 100 points at most: "+97.0 [+92.0, +100.0]"."""
        limits = (-100.0, 100.0) if self.unit == "points" else None
        return _number(self.mean, self.half, self.unit, limits)

    @property
    def text(self) -> str:
        """Such as "+4.1 ± 1.2 points: better"."""
        return _said(self)

    @property
    def rule(self) -> str:
        """By which rule the verdict was given, in a sentence."""
        return (
            f"equal: the 95 % interval of the paired difference lies within ±{self.margin:g} "
            f"{self.unit}; otherwise better or worse where it leaves out 0, undecided where not"
        )

    def __str__(self) -> str:
        return self.text


def in_a_row(changes: Iterable[Difference], names: Iterable[str] = ()) -> str:
    """Several in one unit: "+0.0 ± 0.0 (equal), -1.4 ± 6.0 (undecided) points".

    names: of each of them, "reverse +0.0 ± 0.0 (equal); rotate -1.4 ± 6.0 (undecided) points".
    """
    changes, names = list(changes), list(names)
    words = [
        f"{change.text.rpartition(': ')[0].removesuffix(f' {change.unit}')} ({change.verdict})"
        for change in changes
    ]
    if names:
        words = [f"{name} {said}" for name, said in zip(names, words, strict=True)]
    return f"{('; ' if names else ', ').join(words)} {changes[0].unit}"


def difference(
    a: Sequence[float],
    b: Sequence[float],
    margin: float,
    *,
    unit: str = "points",
    lower_is_better: bool = False,
) -> Difference:
    """Is a better than b? The mean of a - b, paired by seed, with its interval and a verdict.

    The rule, in this order: "equal" if the 95 % interval lies inside ±margin (what differs by less
    does not matter); "better" or "worse" if it leaves out 0; otherwise "undecided". Noise cannot
    win: a wide interval is neither equal nor better.

    Args:
        a, b: one value per seed, the same seeds in the same order; shares from 0 to 1 for "points".
        margin: in the unit of a and b (0.03: three points), stated before the run.
        unit: "points" shows 100 times the values; any other word shows them as they are.
        lower_is_better: for losses and for what was forgotten.

    Raises:
        ValueError: the lists differ in length or are empty, or the margin is negative.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError("A difference is paired by seed: give two lists of equal length.")
    if not margin >= 0:
        raise ValueError("The margin is how large a difference does not matter: 0 or more.")
    mean, half = interval([x - y for x, y in zip(a, b, strict=True)])
    if math.isfinite(mean) and abs(mean) + half <= margin:
        verdict = "equal"
    elif math.isfinite(mean) and abs(mean) > half:
        verdict = "better" if (mean > 0) != lower_is_better else "worse"
    else:
        verdict = "undecided"
    times = 100 if unit == "points" else 1
    return Difference(times * mean, times * half, times * margin, unit, verdict)


@dataclass(frozen=True)
class Trend:
    """How much values change over a whole sweep. In `unit`: mean and half width over seeds."""

    mean: float
    half: float
    slopes: tuple[float, ...]
    margin: float
    unit: str
    verdict: str

    @property
    def number(self) -> str:
        """Such as "+12.0 ± 3.1"; a straight line may leave what is possible of its points."""
        return _number(self.mean, self.half, self.unit, None)

    @property
    def text(self) -> str:
        """Such as "+12.0 ± 3.1 points over the sweep: rises"."""
        return _said(self, " over the sweep")

    @property
    def rule(self) -> str:
        """By which rule the verdict was given, in a sentence."""
        return (
            "a straight line for each seed; flat: the 95 % interval of the change over the whole "
            f"sweep lies within ±{self.margin:g} {self.unit}; otherwise rises or falls where it "
            "leaves out 0, undecided where not"
        )

    def __str__(self) -> str:
        return self.text


def trend(
    x: Sequence[float],
    rows: Sequence[Sequence[float]],
    margin: float = 0.0,
    *,
    unit: str = "points",
    log: bool = False,
) -> Trend:
    """Do values rise or fall over the whole sweep? A straight line for every seed, with interval.

    The line of least squares through all points of a seed; its slope times the width of the sweep
    is how much it changes from one end to the other. "flat" if the 95 % interval of that change
    lies inside ±margin; "rises" or "falls" if it leaves out 0; otherwise "undecided".

    Args:
        x: where the values were measured.
        rows: for each x the values of all seeds, in the same order (as `plots.whiskers` takes it).
        log: the line runs over log2 x, so that slopes are per doubling.

    Raises:
        ValueError: fewer than two different x, or rows that do not fit.
    """
    x = [math.log2(value) for value in x] if log else [float(value) for value in x]
    if len(set(x)) < 2 or len(rows) != len(x) or len({len(row) for row in rows}) != 1:
        raise ValueError("A trend needs two or more different x and as many values for each seed.")
    centre = sum(x) / len(x)
    squares = sum((value - centre) ** 2 for value in x)
    slopes = tuple(
        sum((value - centre) * y for value, y in zip(x, seed, strict=True)) / squares
        for seed in zip(*rows, strict=True)
    )
    mean, half = interval([slope * (max(x) - min(x)) for slope in slopes])
    if math.isfinite(mean) and abs(mean) + half <= margin:
        verdict = "flat"
    elif math.isfinite(mean) and abs(mean) > half:
        verdict = "rises" if mean > 0 else "falls"
    else:
        verdict = "undecided"
    times = 100 if unit == "points" else 1
    return Trend(times * mean, times * half, slopes, times * margin, unit, verdict)


def spread(
    values: Sequence[float], unit: str = "points", limits: tuple[float, float] | None = SHARE
) -> str:
    """Mean and 95 % interval over seeds, as text: "81.3 ± 2.0 %", or numbers for other units.

    limits: the possible range of "points", which no interval leaves: "98.3 [91.1, 100.0] %".
    """
    mean, half = interval(values)
    if math.isnan(mean):
        return "failed"
    if unit != "points":
        return with_interval(mean, half, _digits(half))
    ends = limits and (100 * limits[0], 100 * limits[1])
    return with_interval(100 * mean, 100 * half, ".1f", ends) + " %"


def table(
    outcomes: Mapping[str, Outcome], keys: Sequence[str] = ("test",), title: str = ""
) -> Table:
    """The outcomes of a contest to look at. keys: which shares to show, mean and interval."""
    rows = []
    for outcome in outcomes.values():
        tried = f"{len(outcome.tried)} tried" + (", at the edge" if outcome.edge else "")
        cells = (spread(outcome.values(key)) for key in keys)
        rows.append((outcome.name, f"{outcome.rate:g}", tried, *cells))
    seeds = {len(outcome.runs) for outcome in outcomes.values()}
    notes = [f"Mean and 95 % interval over {max(seeds)} seeds; the rate is the best on dev."]
    if any(outcome.edge for outcome in outcomes.values()):
        notes.append("At the edge: a better rate may lie beyond those that were tried.")
    return Table(title or "Equal tuning for every arm", ("", "rate", "rates", *keys), rows, notes)
