"""Pictures of lesson 11: six methods as a change of h, and what gates say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minipeft.analysis import plots
from minipeft.course.pictures import EDGE, FROZEN, INK

PANELS = {  # method: (what gives h, dh, what dh reads, its factor)
    "prefix": ("attention", "attention on\nthe pairs, $-\\,h$", "x", r"$\lambda$"),
    "LoRA": ("$W_0$", "$B\\,A\\,x$", "x", "s"),
    "BitFit": ("$W_0$", "d", "", ""),
    "adapter": ("feed-forward", "$W_{up}\\,\\varphi(W_{down}h)$", "h", ""),
    "parallel adapter": ("feed-forward", "$W_{up}\\,\\varphi(W_{down}x)$", "x", "s"),
    "IA3": ("$W_0$", "$(l - 1) * h$", "h", ""),
}
PARTS = {"prefix": "prefix", "LoRA": "LoRA", "adapter": "adapter"}  # of a UniPELT: its colours


def unified_picture():
    """He's table as a picture: what stays frozen in grey, what is added to h in colour."""
    figure, panels = plots.figure(3, 2, height=2.75)
    for axes, (method, (frozen, change, reads, factor)) in zip(
        panels.flat, PANELS.items(), strict=True
    ):
        colour = (plots.look(method) or plots.look(method.split()[-1]))[0]
        _box(axes, 0, 1.5, 2.9, frozen, FROZEN, INK)
        _box(axes, 3.9, 2.6 if reads == "h" else 1.5, 3.7, change, colour, "w")
        _arrow(axes, (0, -0.1), (0, 1.05))
        _arrow(axes, (0, 1.95), (0, 3.55))
        _arrow(axes, (0, 4.05), (0, 4.9))
        axes.text(0, -0.15, "x", ha="center", va="top")
        axes.text(-0.25, 2.6, "h", ha="right", va="center")
        axes.text(0, 3.8, "+", ha="center", va="center",
                  bbox={"boxstyle": "circle", "fc": "w", "ec": EDGE})  # fmt: skip
        if reads == "x":
            axes.plot([0, 3.9], [0.45, 0.45], color=EDGE)
            _arrow(axes, (3.9, 0.45), (3.9, 1.05))
        if reads == "h":
            _arrow(axes, (0, 2.6), (2.0, 2.6))
        top = 3.05 if reads == "h" else 1.95
        axes.plot([3.9, 3.9], [top, 3.8], color=EDGE)
        _arrow(axes, (3.9, 3.8), (0.4, 3.8))
        if factor:
            axes.text(2.2, 4.0, f"times {factor}", ha="center", va="bottom", color=colour)
        axes.set(xlim=(-1.8, 6.0), ylim=(-0.8, 5.0))
        axes.set_title(method, color=colour)
        axes.axis("off")
    plots.readable(figure)
    plots.add_caption(
        figure,
        "Grey is frozen. Every method adds something to a hidden state h; they differ in what dh "
        "reads, in its form, in where h is, and in its factor.",
    )
    return figure


def _box(axes, x: float, y: float, width: float, text: str, colour: str, ink: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    half = 0.52 if "\n" in text else 0.4
    corner = (x - width / 2, y - half)
    shape = {"boxstyle": "round,pad=0.05", "fc": colour, "ec": EDGE, "zorder": 2}
    axes.add_patch(FancyBboxPatch(corner, width, 2 * half, **shape))
    axes.text(x, y, text, ha="center", va="center", color=ink, zorder=3)


def _arrow(axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "->", "color": EDGE, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style, zorder=1)


def gates_picture(said: Mapping[str, Sequence[Mapping[str, Tensor]]], caption: str):
    """What gates say, a panel for each task: a point for each seed, a line from text to text.

    said: task -> for each seed what `gate_values` gives. The line goes from the text that opens a
    gate least, of a hundred, to the one that opens it most.
    """
    figure, panels = plots.figure(len(said), height=3.9, squeeze=False, sharey=True)
    for axes, (task, seeds) in zip(panels[0], said.items(), strict=True):
        for step, kind in zip((-0.26, 0.0, 0.26), PARTS, strict=True):
            colour, marker = plots.look(PARTS[kind])
            for number, values in enumerate(seeds):
                gates = {name: v for name, v in values.items() if name.split()[0] == kind}
                for name, texts in gates.items():
                    x = int(name.split()[-1]) + step + 0.07 * (number - (len(seeds) - 1) / 2)
                    axes.plot([x, x], [texts.min(), texts.max()], color=colour, lw=2, alpha=0.6)
                    axes.plot(x, texts.mean(), marker, color=colour, ms=5)
            axes.plot([], [], marker, color=colour, ls="-", label=kind)
        axes.axhline(0.5, color=plots.GREY, ls=":", lw=1.2, label="the start")
        layers = {int(name.split()[-1]) for values in seeds for name in values}
        axes.set_xticks(sorted(layers))
        plots.finish(axes, "layer", "gate g", task, limits=(0, 1))
    for axes in panels[0][1:]:
        axes.set_ylabel("")
    plots.add_caption(figure, caption)
    return figure


def spread_of(values: Mapping[str, Tensor]) -> tuple[float, float]:
    """(mean width of a gate from text to text, mean width of a part from layer to layer) of a run.

    The first is the mean over gates of largest minus smallest over the texts; the second is the
    mean over the parts of largest minus smallest over the layers, of each gate its mean.
    """
    said = torch.stack([*values.values()])  # (gates, N)
    of_input = (said.max(dim=1).values - said.min(dim=1).values).mean().item()
    means: dict[str, list[float]] = {}  # part -> one for each layer
    for name, texts in values.items():
        means.setdefault(name.split()[0], []).append(texts.mean().item())
    of_layers = [max(layers) - min(layers) for layers in means.values()]
    return of_input, sum(of_layers) / len(of_layers)
