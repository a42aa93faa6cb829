"""Pictures of lesson 06."""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.analysis import plots
from minipeft.course.pictures import DOORS, EDGE, FROZEN


def prefix_picture():
    """Every layer reads its own pairs before those of the words; one MLP makes them all."""
    from matplotlib.patches import Rectangle

    figure, axes = plots.figure(width=8.4, height=3.7)

    def box(x, y, width, height, text, colour):
        axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=EDGE))
        ink = "w" if colour in DOORS.values() else "k"
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink)

    words = ("the", "cat", "sat")
    for layer in range(3):
        y = 1.3 * layer
        for i in range(2):
            box(3.6 + 0.8 * i, y, 0.75, 0.85, f"$k_{i}v_{i}$", DOORS["memory"])
        for i, _ in enumerate(words):
            box(5.5 + 1.1 * i, y, 1.0, 0.85, "k, v", FROZEN)
        axes.text(9.0, y + 0.42, f"layer {layer}", va="center")
        axes.annotate("", (3.5, y + 0.42), (2.4, 1.72), arrowprops={"arrowstyle": "->"})
    box(-1.4, 1.3, 1.2, 0.85, "P'\n(P, C)", DOORS["memory"])
    box(0.9, 1.1, 1.5, 1.25, "MLP\n(training\nonly)", "#dbeafe")
    axes.annotate("", (0.9, 1.72), (-0.2, 1.72), arrowprops={"arrowstyle": "->"})
    for i, word in enumerate(words):
        axes.text(6.0 + 1.1 * i, -0.35, word, ha="center", va="top")
    axes.text(4.35, -0.35, "prefix: no words", ha="center", va="top", color=DOORS["memory"])
    axes.set(xlim=(-1.6, 10.4), ylim=(-0.9, 3.7))
    axes.axis("off")
    plots.finish(
        axes,
        legend=False,
        caption="The prefix is read in every layer, before the pairs of the words, and it is made "
        "of no words.",
    )
    return figure


def share_pictures(shares: dict[str, Tensor], caption: str):
    """Lambda by layer and head, layer 0 at the bottom, one panel for each state of a prefix."""
    figure, panels = plots.figure(len(shares), height=3.4, squeeze=False)
    for axes, (title, share) in zip(panels[0], shares.items(), strict=True):
        layers, heads = share.shape
        image = axes.imshow(
            share.numpy(), vmin=0, vmax=1, cmap="Blues", aspect="auto", origin="lower"
        )
        axes.set_xticks(range(heads))
        axes.set_yticks(range(0, layers, 1 if layers < 12 else 5))
        if layers < 12:
            for i, j in torch.cartesian_prod(torch.arange(layers), torch.arange(heads)).tolist():
                value = share[i, j].item()
                ink = "w" if value > 0.65 else "k"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink)
        axes.set(xlabel="head", ylabel="layer", title=title)
    figure.colorbar(image, ax=panels[0], label="share of attention on the prefix")
    plots.readable(figure)
    plots.add_caption(figure, caption)
    return figure
