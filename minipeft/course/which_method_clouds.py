"""Lesson 15: a method is a cloud of settings, in our runs and in 🤗 PEFT's own benchmark.

peft_picture(), settings_picture(clouds)         # clouds = clouds_of(stored)
rank_table(rank_columns(clouds))                 # rank by method, beside rank by setting
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minipeft.analysis import plots
from minipeft.course.experiments import difference
from minipeft.course.which_method import ARMS, NOVEL, RATES, VARIANTS, Runs, mean_of, ranks
from minipeft.report import Table

# 🤗 PEFT's own benchmark, MetaMathQA with Llama-3.2-3B, snapshot 2026-08-21: accuracy in %.
PEFT_SOURCE = "🤗 PEFT's method comparison: MetaMathQA, Llama-3.2-3B, snapshot of 2026-08-21"
PEFT = {
    "full": {"": 47.2},
    "LoRA": {"r = 32": 47.8, "r = 64, rsLoRA": 51.3},
    "DoRA": {"r = 32": 46.9},
    "IA3": {"rate 1e-4": 31.1, "rate 1e-3": 39.8, "rate 5e-3, more targets": 45.5},
    "prefix": {
        "rate 1e-3": 18.6,
        "rate 5e-3, zero start": 35.8,
        "rate 5e-3, start from text": 41.6,
    },
    "prompt tuning": {"rate 1e-4": 5.7, "rate 1e-3": 23.4, "start from the vocabulary": 34.3},
}
FAINT = 0.45


def draw(settings: Mapping[str, Sequence[float]], best: Mapping[str, float], axes) -> None:
    """A row for each method: every setting a dot, the best one large, a line from end to end."""
    for place, (name, values) in enumerate(reversed(settings.items())):
        colour, marker = plots.look(name) or (plots.NEUTRAL, "o")
        axes.plot([min(values), max(values)], [place, place], color=colour, lw=1.5, alpha=FAINT)
        axes.plot(values, [place] * len(values), ".", color=colour, ms=9, alpha=FAINT)
        axes.plot(best[name], place, marker, color=colour, ms=9)
    axes.set_yticks(range(len(settings)), list(reversed(settings)))
    axes.set_ylim(-0.6, len(settings) - 0.4)


def peft_picture():
    """What one method gets in 🤗 PEFT's benchmark, by its settings."""
    figure, axes = plots.figure(height=3.3, width=7.4)
    settings = {name: list(each.values()) for name, each in PEFT.items()}
    best = {name: max(values) for name, values in settings.items()}
    draw(settings, best, axes)
    widest = max(settings, key=lambda name: _range(settings[name]))
    plots.finish(
        *(axes, "accuracy (%), every published setting a dot", "", "PEFT's own benchmark"),
        legend=False,
        caption=f"Large: the best setting of each. Settings move {widest} by "
        f"{_range(settings[widest]):.0f} points. The methods, each at its best, lie "
        f"{_range(best.values()):.0f} points apart.",
    )
    axes.set_xlim(0, 60)
    return figure


def _range(values) -> float:
    return max(values) - min(values)


@dataclass(frozen=True)
class Cloud:
    """All settings of a method on the novel task.

    test: setting, such as "rate 0.01" or "all maps, rate 0.01" -> one value per seed.
    best: the setting with the lowest mean dev loss.
    """

    test: dict[str, list[float]]
    best: str

    def mean(self, setting: str) -> float:
        return mean_of(self.test[setting])

    @property
    def moves(self) -> list[float]:
        """Best minus worst of the settings, one value per seed."""
        return [max(seed) - min(seed) for seed in zip(*self.test.values(), strict=True)]


def clouds_of(stored: Runs) -> dict[str, Cloud]:
    """Method -> its settings on the novel task; a run that failed has no answer right."""
    seeds = stored.seeds(NOVEL, (*ARMS, *VARIANTS), RATES)
    test: dict[str, dict] = {name: {} for name in ARMS}
    dev: dict[str, dict] = {name: {} for name in ARMS}
    for arm in (*ARMS, *VARIANTS):
        method, _, variant = arm.partition(", ")
        for rate in RATES:
            ones = [stored.one(NOVEL, arm, rate, seed) for seed in seeds]
            setting = f"{variant}, rate {rate:g}" if variant else f"rate {rate:g}"
            test[method][setting] = [0.0 if math.isnan(one.test) else one.test for one in ones]
            dev[method][setting] = mean_of([one.dev for one in ones])
    return {name: Cloud(test[name], min(dev[name], key=dev[name].get)) for name in ARMS}


def settings_picture(clouds: Mapping[str, Cloud]):
    """The same picture as `peft_picture`, of our runs; the large mark is what dev chose."""
    means = {name: {s: cloud.mean(s) for s in cloud.test} for name, cloud in clouds.items()}
    best = {name: means[name][cloud.best] for name, cloud in clouds.items()}
    figure, axes = plots.figure(height=4.6, width=7.4)
    draw({name: list(each.values()) for name, each in means.items()}, best, axes)
    moves = sorted(_range(each.values()) for each in means.values())
    plots.finish(
        *(axes, "exact match (share), mean over seeds, every setting a dot", "", f"{NOVEL}"),
        legend=False,
        caption="Large: the setting that dev chose. Settings move a method by "
        f"{100 * moves[len(moves) // 2]:.0f} points (median) and by up to {100 * moves[-1]:.0f}. "
        f"With what dev chose, methods get {100 * min(best.values()):.0f} to "
        f"{100 * max(best.values()):.0f} %.",
    )
    axes.set_xlim(-0.03, 1.03)
    return figure


def settings_or_methods(clouds: Mapping[str, Cloud]) -> str:
    """What moves the result more, in a sentence: the settings of one method, or the method?"""
    best = {name: cloud.mean(cloud.best) for name, cloud in clouds.items()}
    distance = 100 * _range(best.values())
    moves = {name: 100 * mean_of(cloud.moves) for name, cloud in clouds.items()}
    further = [name for name, move in moves.items() if move > distance]
    said = f"Methods as dev sets them lie up to {distance:.0f} points apart. "
    if not further:
        return said + "No method is moved further than that by its settings."
    verb = "is" if len(further) == 1 else "are"
    return said + f"{', '.join(further)} {verb} moved further than that by settings alone."


BEST = "each as dev sets it"


def rank_columns(clouds: Mapping[str, Cloud]) -> dict[str, dict[str, float]]:
    """Rankings made of the same runs: every method at one common rate, and each as dev sets it."""
    columns = {
        f"all at {rate:g}": {name: cloud.mean(f"rate {rate:g}") for name, cloud in clouds.items()}
        for rate in RATES
    }
    return columns | {BEST: {name: cloud.mean(cloud.best) for name, cloud in clouds.items()}}


def rank_table(columns: Mapping[str, Mapping[str, float]]) -> Table:
    """The rank of every method in each ranking, 🤗 PEFT's worst and best settings beside them."""
    placed = {title: ranks(means) for title, means in columns.items()}
    placed["PEFT 3 B, best settings"] = ranks({n: max(s.values()) for n, s in PEFT.items()})
    placed["PEFT 3 B, possible"] = possible_ranks({n: list(s.values()) for n, s in PEFT.items()})
    rows = [
        (name, *(_said(column.get(name)) for column in placed.values()))
        for name in sorted(ARMS, key=placed[BEST].get)
    ]
    notes = [
        f"Rank 1 is the best; of {len(ARMS)} methods here, of {len(PEFT)} in {PEFT_SOURCE}.",
        "A half: two methods have the same share. Possible: from a method's best setting against "
        "the worst of the others, to its worst against their best.",
    ]
    return Table("Rank by method beside rank by setting", ("", *placed), rows, notes)


def possible_ranks(settings: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Method -> (best, worst) rank, over what settings of it and of the others may be compared."""
    result = {}
    for name, values in settings.items():
        others = {other: each for other, each in settings.items() if other != name}
        lucky = {other: min(each) for other, each in others.items()} | {name: max(values)}
        unlucky = {other: max(each) for other, each in others.items()} | {name: min(values)}
        result[name] = (ranks(lucky)[name], ranks(unlucky)[name])
    return result


def _said(rank: float | tuple | None) -> str:
    if rank is None:
        return "-"
    low, high = rank if isinstance(rank, tuple) else (rank, rank)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def first_places(columns: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Ranking -> who is first in it."""
    return {title: max(means, key=means.get) for title, means in columns.items()}


def another_winner(clouds: Mapping[str, Cloud], margin: float) -> list[float]:
    """The common rates at which another method surely beats the one that dev's settings put first.

    "Surely": by the paired difference at that rate.
    """
    firsts = first_places(rank_columns(clouds))
    rates = []
    for rate in RATES:
        first, setting = firsts[f"all at {rate:g}"], f"rate {rate:g}"
        if first != firsts[BEST]:
            pair = clouds[first].test[setting], clouds[firsts[BEST]].test[setting]
            rates += [rate] if difference(*pair, margin).verdict == "better" else []
    return rates
