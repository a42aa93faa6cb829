"""Small pictures for the lessons. Every function draws on matplotlib's axes and returns them.

Values from several seeds are shown as their mean with a 95 % interval (`interval`), because one
seed is an anecdote. matplotlib and scipy are imported when they are needed, not before.

Colours, sizes, legends and captions are those of figures.py: a method has one colour in the whole
course, text is at least 11 pt as a page shows it, legends stand beside the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minipeft.analysis.figures import (
    COLOURS,
    GREY,
    LOOKS,
    MARKERS,
    add_caption,
    clipped,
    figure,
    finish,
    legend_below,
    look,
    readable,
)

SHARE = (0.0, 1.0)  # the possible range of exact match, accuracy and what was forgotten
NEUTRAL = "#64748b"  # of bars that stand for no method
__all__ = [
    "COLOURS",
    "GREY",
    "LOOKS",
    "MARKERS",
    "SHARE",
    "add_caption",
    "bars",
    "clipped",
    "curves",
    "figure",
    "finish",
    "heat",
    "history",
    "interval",
    "legend_below",
    "look",
    "new_axes",
    "readable",
    "singular_values",
    "whiskers",
    "with_interval",
]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half width of its 95 % interval) of independent values, seeds say.

    mean +- t s / sqrt n, with s the standard deviation of the n values (divided by n - 1) and t
    Student's quantile for n - 1 degrees of freedom. It is wide for 3 seeds (t = 4.3), as it should
    be. One value has no interval: the half width is nan.
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("There are no values to average.")
    n = len(numbers)
    mean = sum(numbers) / n
    if n == 1:
        return mean, math.nan
    from scipy.special import stdtrit

    variance = sum((x - mean) ** 2 for x in numbers) / (n - 1)
    return mean, float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)


def with_interval(
    mean: float, half: float, digits: str = ".3g", limits: tuple[float, float] | None = None
) -> str:
    """A mean and its interval in words: "0.81 ± 0.02".

    limits: the possible range. An interval that would leave it is written by its two ends, none
    of them beyond what is possible, as figures draw it: "0.98 [0.91, 1.00]".

    Raises:
        ValueError: the mean lies outside the limits.
    """
    down, up = (reach[0] for reach in clipped([mean], [half], limits))
    if half > min(down, up) + 1e-9:
        return f"{mean:{digits}} [{mean - down:{digits}}, {mean + up:{digits}}]"
    return f"{mean:{digits}}" + ("" if math.isnan(half) else f" ± {half:{digits.lstrip('+')}}")


def new_axes(axes=None, width: float = 6.0, height: float = 3.6):
    """The axes given, or fresh ones."""
    if axes is not None:
        return axes
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def whiskers(
    axes,
    x: Sequence[float],
    rows: Sequence[Sequence[float]],
    label: str = "",
    colour: str | None = None,
    marker: str | None = None,
    limits: tuple[float, float] | None = SHARE,
    **line,
):
    """A line through the means over seeds, and their 95 % intervals as whiskers.

    Args:
        rows: for each x the values of all seeds.
        label: for the legend; a method's name gives the line its colour and marker.
        limits: the possible range, beyond which no whisker reaches; None for losses.

    Raises:
        ValueError: a mean lies outside the limits.
    """
    means, halves = zip(*(interval(row) for row in rows), strict=True)
    down, up = clipped(means, halves, limits, axes.get_yscale() == "log")
    known = look(label) or (None, "o")
    settings = dict(color=colour or known[0], marker=marker or known[1], capsize=3, lw=1.8)
    axes.errorbar(list(x), means, [down, up], label=label or None, **{**settings, **line})
    return axes


def curves(
    runs: Mapping[str, Sequence[Sequence[float]]],
    x: Sequence[float] | None = None,
    axes=None,
    xlabel: str = "step",
    ylabel: str = "loss",
    title: str = "",
    log_x: bool = False,
    limits: tuple[float, float] | None = None,
):
    """One line per label through the mean over seeds, with its 95 % interval as a band.

    Args:
        runs: label -> one row of values per seed; all rows of a label equally long. A method's name
            gives the line its colour.
        x: where the values stand; 1, 2, 3, ... when None.
        limits: the possible range, beyond which no band reaches.
    """
    axes = new_axes(axes)
    for label, rows in runs.items():
        points = [interval(column) for column in zip(*rows, strict=True)]
        where = list(x) if x is not None else list(range(1, len(points) + 1))
        middle = [mean for mean, _ in points]
        down, up = clipped(middle, [half for _, half in points], limits, axes.get_yscale() == "log")
        colour, marker = look(label) or (None, "o")
        marker = marker if len(where) < 20 else None
        line = axes.plot(where, middle, label=label, color=colour, marker=marker)[0]
        low = [m - r for m, r in zip(middle, down, strict=True)]
        high = [m + r for m, r in zip(middle, up, strict=True)]
        axes.fill_between(where, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    if log_x:
        axes.set_xscale("log")
    seeds = {len(rows) for rows in runs.values()}
    band = f"band: 95 % interval over {min(seeds)} seeds" if min(seeds) > 1 else "one seed"
    return _finish(axes, xlabel, ylabel, title, legend=f"{band}")


def bars(
    values: Mapping[str, Sequence[float]],
    axes=None,
    ylabel: str = "accuracy",
    title: str = "",
    reference: Mapping[str, float] | None = None,
    limits: tuple[float, float] | None = None,
):
    """One bar per label: the mean over seeds, its 95 % interval, and every seed as a point.

    Args:
        values: label -> one value per seed. A method's name gives the bar its colour.
        reference: label -> height of a dashed line (chance, the untrained base).
        limits: the possible range, beyond which no interval reaches.
    """
    axes = new_axes(axes, width=max(4.0, 1.1 * len(values) + 1.5))
    for place, (label, seeds) in enumerate(values.items()):
        mean, half = interval(seeds)
        down, up = clipped([mean], [half], limits)
        error = None if math.isnan(half) else [down, up]
        colour = (look(label) or (NEUTRAL,))[0]
        axes.bar(place, mean, yerr=error, capsize=4, color=colour, alpha=0.6, label=None)
        axes.plot([place] * len(seeds), list(seeds), "k.", markersize=4)
        beside = dict(xytext=(6, 1), textcoords="offset points")  # right of the whisker's cap
        axes.annotate(f"{mean:.3g}", (place, mean), ha="left", va="bottom", **beside)
    for number, (label, height) in enumerate((reference or {}).items()):
        colour = (look(label) or (f"C{number + 1}",))[0]
        axes.axhline(height, linestyle="--", color=colour, linewidth=1.2, label=label)
    axes.set_xticks(range(len(values)), list(values), rotation=20, ha="right")
    return _finish(axes, "", ylabel, title, legend="" if reference else None)


def heat(
    matrix,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    axes=None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    numbers: bool = True,
    limits: tuple[float, float] | None = None,
    unit: str = "",
    digits: int | None = None,
):
    """A table of numbers as colours, with the numbers written in.

    Args:
        matrix: (rows, columns), a tensor or nested lists; nan leaves a place empty.
        limits: the numbers at the ends of the colour bar.
        unit: what the numbers are, beside the colour bar.
        digits: of the numbers behind the point; None writes three digits that count.
    """
    table = torch.as_tensor(matrix, dtype=torch.float64).detach().cpu()
    n_rows, n_columns = table.shape
    axes = new_axes(axes, width=2.2 + 0.75 * n_columns, height=1.3 + 0.45 * n_rows)
    low, high = limits or (None, None)
    image = axes.imshow(table.numpy(), aspect="auto", vmin=low, vmax=high, cmap="viridis")
    axes.figure.colorbar(image, ax=axes, label=unit)
    axes.set_xticks(range(n_columns), columns or range(n_columns))
    axes.set_yticks(range(n_rows), rows or range(n_rows))
    if numbers:
        for i in range(n_rows):
            for j in range(n_columns):
                if table[i, j].isnan():
                    continue
                light = image.norm(table[i, j].item()) < 0.6
                text = f"{table[i, j].item():{'.3g' if digits is None else f'.{digits}f'}}"
                axes.text(j, i, text, ha="center", va="center", color="w" if light else "k")
    return _finish(axes, xlabel, ylabel, title)


def singular_values(
    matrices: Mapping[str, Tensor], axes=None, count: int | None = None, title: str = ""
):
    """Singular values of each matrix, largest first, on a logarithmic axis.

    The number of values that stand out above the floor is the rank that the matrix really uses.
    """
    axes = new_axes(axes)
    for label, matrix in matrices.items():
        values = torch.linalg.svdvals(matrix.detach().double().cpu())[:count]
        kept = values[values > 0].tolist()  # a logarithm cannot show zeros
        axes.plot(range(1, len(kept) + 1), kept, marker=".", label=label)
    axes.set_yscale("log")
    return _finish(axes, "number of the singular value", "singular value", title, legend="")


def history(history, axes=None, label: str | None = None):
    """Loss by step, smoothed over 2 % of the steps, and the scores of the evaluations."""
    axes = new_axes(axes)
    losses = history.losses
    window = max(1, len(losses) // 50)
    smooth = [
        sum(losses[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(losses))
    ]
    if window > 1:
        axes.plot(range(1, len(losses) + 1), losses, color="0.8", linewidth=0.8)
    axes.plot(range(1, len(losses) + 1), smooth, label=label or "loss")
    names = [key for key in (history.evaluations or [{}])[0] if key != "step"]
    if names:
        other = axes.twinx()
        steps = [entry["step"] for entry in history.evaluations]
        for number, name in enumerate(names):
            scores = [entry[name] for entry in history.evaluations]
            other.plot(steps, scores, "o--", markersize=3, color=f"C{number + 1}", label=name)
        other.set_ylabel(", ".join(names))
        other.legend(loc="center right", frameon=False)
        if history.best_step:
            other.axvline(history.best_step, color="0.6", linewidth=0.8, linestyle=":")
    return _finish(axes, "step", "loss (nats)", "", legend="")


def _finish(axes, xlabel: str, ylabel: str, title: str, legend: str | None = None):
    """Labels, and a legend with this heading unless it is None."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    readable(axes.figure)
    if legend is not None and len(axes.figure.axes) == 1:
        legend_below(axes.figure, legend)
    elif legend is not None:  # beside other axes, each has its own
        axes.legend(title=legend or None, frameon=False)
        readable(axes.figure)
    return axes
