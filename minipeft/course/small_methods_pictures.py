"""Pictures of lesson 12: three methods at one map, few numbers against many, ranks over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minipeft.analysis import plots
from minipeft.course.small_methods import MAPS

SHADES = ("#a3e635", "#65a30d", "#3f6212", "#1a2e05")  # of AdaLoRA's green, block by block


def picture(width: float = 9.2):
    """One linear map three times: what each method puts beside it."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    from minipeft.analysis.figures import COLOURS, readable
    from minipeft.course.pictures import EDGE, FROZEN, INK

    figure, axes = plt.subplots(figsize=(width, 3.3), dpi=96)
    shape = "round,pad=0,rounding_size=0.1"

    def box(x, y, wide, high, text="", colour=FROZEN, ink=INK, **style):
        patch = FancyBboxPatch((x, y), wide, high, boxstyle=shape, fc=colour, ec=EDGE, **style)
        axes.add_patch(patch)
        axes.text(x + wide / 2, y + high / 2, text, ha="center", va="center", color=ink)

    def arrow(x, y, to_x, to_y):
        axes.annotate("", (to_x, to_y), (x, y), arrowprops=dict(arrowstyle="->", color=INK))

    for number, (name, label) in enumerate(
        (("BitFit", "BitFit: + d"), ("IA3", "(IA)³: × l"), ("AdaLoRA", "AdaLoRA: + P Λ Q x"))
    ):
        left, colour = 4.6 * number, COLOURS[name]
        axes.text(left + 1.7, 4.35, label, ha="center", color=colour, weight="bold")
        axes.text(left + 0.55, 0.1, "x", ha="center", color=INK, style="italic")
        arrow(left + 0.55, 0.45, left + 0.55, 0.95)
        box(left, 1.0, 1.1, 1.1, "W")
        arrow(left + 0.55, 2.15, left + 0.55, 3.05)
        sign = "×" if name == "IA3" else "+"
        axes.text(left + 0.55, 3.3, sign, ha="center", va="center", color=INK, fontsize=17)
        arrow(left + 0.55, 3.55, left + 0.55, 4.05)
        if name != "AdaLoRA":
            axes.text(left + 2.75, 3.3, "(out,)", ha="left", va="center", color=INK)
            for cell in range(4):
                box(left + 1.3 + 0.34 * cell, 3.14, 0.3, 0.32, colour=colour)
            arrow(left + 1.25, 3.3, left + 0.8, 3.3)
            continue
        axes.plot([left + 0.55, left + 2.0], [0.7, 0.7], color=INK, lw=1)
        arrow(left + 2.0, 0.7, left + 2.0, 0.95)
        box(left + 1.3, 1.0, 1.4, 0.5, "Q", colour, "white")
        for cell, kept in enumerate((True, True, False, True)):
            style = {} if kept else dict(linestyle="--")
            ink = "white" if kept else INK
            box(left + 1.3 + 0.36 * cell, 1.7, 0.32, 0.4, "" if kept else "0",
                colour if kept else "white", ink, **style)  # fmt: skip
        box(left + 1.3, 2.3, 1.4, 0.5, "P", colour, "white")
        axes.plot([left + 2.0, left + 2.0], [2.8, 3.3], color=INK, lw=1)
        arrow(left + 2.0, 3.3, left + 0.8, 3.3)
        axes.text(left + 2.9, 1.9, "Λ (r,), one\nλ was pruned", va="center", color=INK)
    axes.set(xlim=(-0.3, 14.2), ylim=(-0.2, 4.8))
    axes.axis("off")
    readable(figure)
    return figure


def few_numbers(
    numbers: Mapping[str, int],
    tests: Mapping[str, Mapping[str, Sequence[float]]],
    caption: str,
):
    """Exact match against the numbers trained, a panel for each kind of task.

    Args:
        numbers: arm -> how many it trains.
        tests: kind of task -> arm -> one value for each seed.
    """
    figure, panels = plots.figure(len(tests), height=3.6, sharey=True)
    for axes, (kind, arms) in zip(panels, tests.items(), strict=True):
        for arm, values in arms.items():
            hollow = {"markerfacecolor": "white"} if arm.endswith("r = 1") else {}
            plots.whiskers(
                axes, [numbers[arm]], [values], arm, linestyle="", markersize=8, **hollow
            )
        axes.set_xscale("log")
        first = axes is panels[0]
        words = "exact match (share)" if first else ""
        plots.finish(axes, "numbers trained", words, f"{kind} task", limits=(0, 1), legend=False)
    plots.legend_below(figure)
    plots.add_caption(figure, caption)
    return figure


def ranks_over_time(
    ranks: Sequence[Tensor], places: Sequence[tuple[int, str]], target: int, caption: str
):
    """Left: mean rank of the maps of every block by step. Right: rank of every map at the end.

    ranks: (steps, places) for each seed.
    """
    blocks = sorted({block for block, _ in places})
    most = float(max(one.max() for one in ranks))
    figure, (left, right) = plots.figure(2, height=3.8)
    for block, colour in zip(blocks, SHADES, strict=False):
        columns = [n for n, (where, _) in enumerate(places) if where == block]
        rows = [one[:, columns].double().mean(dim=1).tolist() for one in ranks]
        points = [plots.interval(column) for column in zip(*rows, strict=True)]
        middle = torch.tensor([mean for mean, _ in points])
        half = torch.tensor([half for _, half in points]).nan_to_num(0.0)
        low, high = (middle - half).clamp(min=0), (middle + half).clamp(max=most)
        steps = range(1, len(points) + 1)
        left.plot(steps, middle, color=colour, label=f"block {block}", lw=2)
        left.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
    left.axhline(target, color=plots.GREY, ls=":", label="target, on the average")
    plots.finish(left, "step", "rank, mean over the maps", "by block, from 0 at the bottom")
    final = torch.stack([one[-1] for one in ranks]).double().mean(dim=0)
    table = [
        [final[n].item() for kind in MAPS for n, place in enumerate(places) if place == (b, kind)]
        for b in reversed(blocks)
    ]
    plots.heat(
        table,
        [f"block {block}" for block in reversed(blocks)],
        list(MAPS),
        right,
        title="at the end, map by map",
        limits=(0, most),
        unit="rank",
    )
    right.tick_params(axis="x", labelrotation=40)
    plots.readable(figure)
    plots.add_caption(figure, caption)
    return figure
