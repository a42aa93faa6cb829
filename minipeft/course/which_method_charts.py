"""Pictures and tables of lesson 15's contest: results, the Pareto front, the decision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from minipeft.analysis import plots
from minipeft.course.experiments import Outcome, spread
from minipeft.course.pareto import pareto_front
from minipeft.course.which_method import (
    ARMS,
    against_best,
    leader,
    mean_of,
)
from minipeft.report import Table


def contest_picture(
    stored: Mapping[str, Mapping[str, Outcome]], fresh: Mapping[str, Mapping[str, Outcome]]
):
    """Test of every arm, the stored runs filled, those of this run open: a panel for each title."""
    figure, panels = plots.figure(len(stored), height=5.0, sharey=True)
    names = list(next(iter(stored.values())))
    for axes, (title, outcomes) in zip(panels, stored.items(), strict=True):
        for place, name in enumerate(reversed(names)):
            colour, marker = plots.look(name) or (plots.NEUTRAL, "o")
            for shift, group, face in ((0.14, outcomes, colour), (-0.2, fresh[title], "white")):
                if name in group:
                    mean, half = plots.interval(group[name].values())
                    if math.isnan(mean):
                        continue
                    left, right = plots.clipped([mean], [half], plots.SHARE)
                    axes.errorbar(
                        *(mean, place + shift, None, [left, right], marker),
                        **dict(color=colour, mfc=face, capsize=3, ms=7),
                    )
        plots.finish(axes, "exact match (share), test", "", title, legend=False)
        axes.set_xlim(-0.03, 1.03)
    panels[0].set_yticks(range(len(names)), list(reversed(names)))
    plots.add_caption(
        figure,
        "Filled: stored runs. Open: this run, other seeds. Best mean: "
        + "; ".join(f"{title}: {leader(scores(o))}" for title, o in stored.items())
        + ".",
    )
    return figure


def scores(outcomes: Mapping[str, Outcome], key: str = "test") -> dict[str, list[float]]:
    """Arm -> one value per seed."""
    return {name: outcome.values(key) for name, outcome in outcomes.items()}


def pareto_picture(outcomes: Mapping[str, Mapping[str, Outcome]]):
    """What is kept for a task against exact match; the front is the line."""
    figure, panels = plots.figure(len(outcomes), height=4.2, sharey=True)
    fronts = {}
    for axes, (title, arms) in zip(panels, outcomes.items(), strict=True):
        kept = {name: outcome.runs[0]["stored"] for name, outcome in arms.items()}
        means = {name: mean_of(values) for name, values in scores(arms).items()}
        names = [name for name in arms if not math.isnan(means[name])]
        front = pareto_front(
            torch.tensor([kept[n] for n in names]), torch.tensor([means[n] for n in names])
        )
        fronts[title] = sorted(
            (name for name, on in zip(names, front, strict=True) if on), key=kept.get
        )
        for name in names:
            plots.whiskers(axes, [kept[name]], [arms[name].values()], name, lw=1.2)
        axes.step(
            *([kept[n] for n in fronts[title]], [means[n] for n in fronts[title]]),
            **dict(where="post", color=plots.GREY, lw=1, zorder=0),
        )
        axes.set_xscale("log")
        plots.finish(axes, "numbers kept for a task", "", title, limits=(0, 1))
    panels[0].set_ylabel("exact match (share), test")
    plots.add_caption(
        figure,
        "On the front, from small to large: "
        + "; ".join(f"{title}: {', '.join(names)}" for title, names in fronts.items())
        + ".",
    )
    return figure


def front_by_seed(outcomes: Mapping[str, Outcome]) -> Table:
    """In how many seeds is a method on the front?"""
    names = list(outcomes)
    kept = torch.tensor([outcomes[name].runs[0]["stored"] for name in names])
    values = torch.tensor([outcomes[name].values() for name in names]).nan_to_num(-1)  # (n, seeds)
    on = torch.stack([pareto_front(kept, column) for column in values.T]).sum(dim=0).tolist()
    rows = [
        (name, f"{size:,}", spread(outcomes[name].values()), f"{count} of {values.shape[1]}")
        for name, size, count in sorted(
            zip(names, kept.tolist(), on, strict=True), key=lambda r: r[1]
        )
    ]
    groups = {
        "On the front with every seed": [n for n, count in zip(names, on, strict=True)
                                         if count == values.shape[1]],
        "with some seeds only": [n for n, count in zip(names, on, strict=True)
                                 if 0 < count < values.shape[1]],
    }  # fmt: skip
    notes = ["; ".join(f"{title}: {', '.join(g) or 'none'}" for title, g in groups.items()) + "."]
    header = ("", "kept", "exact match", "on the front")
    return Table("Who is on the front, seed by seed", header, rows, notes)


MARKS = {"best": "★", "equal": "○", "undecided": "○", "worse": ""}


def decision_chart(
    columns: Mapping[str, tuple[Mapping[str, Sequence[float]], bool]], margin: float
):
    """Methods by situations: the mean in %, a star on the best, a ring on what is not surely worse.

    columns: situation -> (arm -> one value per seed, whether lower is better); not all arms need be
    in it.
    """
    names = list(ARMS)
    figure, axes = plots.figure(height=5.6, width=9.2)
    shades = torch.full((len(names), len(columns)), float("nan"))
    for j, (values, lower) in enumerate(columns.values()):
        verdicts = against_best(values, margin, lower)
        for i, name in enumerate(names):
            if name not in values:
                axes.text(j, i, "–", ha="center", va="center")
                continue
            mean = mean_of(values[name])
            verdict = verdicts[name]
            shades[i, j] = {"best": 1.0, "worse": 0.0}.get(verdict, 0.55)
            text = "failed" if math.isnan(mean) else f"{100 * mean:.0f} {MARKS[verdict]}"
            axes.text(j, i, text, ha="center", va="center")
    axes.imshow(shades.numpy(), aspect="auto", cmap="Greens", vmin=0, vmax=1.6)
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_yticks(range(len(names)), names)
    plots.finish(
        *(axes, "", "", "Percent of the rows, mean over seeds"),
        legend=False,
        caption="★ the best mean, ○ not shown to be worse than it: the evidence cannot choose "
        "among the green ones of a column.",
    )
    axes.spines[:].set_visible(False)
    return figure


def decision_table(
    columns: Mapping[str, tuple[Mapping[str, Sequence[float]], bool]],
    kept: Mapping[str, int],
    margin: float,
) -> Table:
    """For every situation who may be taken, which of them keeps least, and how sure the best is."""
    rows = []
    for title, (values, lower) in columns.items():
        verdicts = against_best(values, margin, lower)
        best = leader(values, lower)
        others = [n for n, v in verdicts.items() if v in ("equal", "undecided")]
        small = min([best, *others], key=kept.get)
        sign = -1 if lower else 1
        seeds = list(zip(*values.values(), strict=True))
        place = list(values).index(best)
        first = sum(sign * row[place] >= max(sign * v for v in row if v == v) for row in seeds)
        rows.append(
            (
                title.replace("\n", " "),
                f"{best}, {spread(values[best])}",
                ", ".join(others) or "nobody",
                f"{small} ({kept[small]:,} numbers)",
                f"{first} of {len(seeds)} seeds",
            )
        )
    header = (
        "situation",
        "best mean",
        "not shown to be worse",
        "smallest of these",
        "best is first in",
    )
    notes = [f"A difference within {100 * margin:g} points counts as none; 95 % intervals, paired."]
    return Table("Which method? By situation", header, rows, notes)
