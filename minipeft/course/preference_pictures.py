"""The picture of lesson 19: one model, its adapter on and off, and a pair of answers."""

from __future__ import annotations

from minipeft.analysis import plots
from minipeft.course.pictures import EDGE, FROZEN


def picture():
    """The same base twice: with the adapter it is pi, without it is the reference."""
    from matplotlib.patches import Rectangle

    figure, axes = plots.figure(width=8.8, height=3.7)
    green = plots.COLOURS["LoRA"]

    def box(x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
        dashed = colour == "none"
        axes.add_patch(
            Rectangle(
                (x, y), width, height, facecolor=colour, edgecolor=EDGE, ls="--" if dashed else "-"
            )
        )
        ink = "w" if colour == green else "k"
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->"})

    box(0, 2.6, 2.2, 0.8, "better  $y_w$", "none")
    box(0, 0.6, 2.2, 0.8, "worse  $y_l$", "none")
    axes.text(1.1, 3.75, "a pair that\na judge ordered", ha="center", va="bottom")
    for y, state, name in ((2.4, "on", r"$\log\,\pi$"), (0.4, "off", r"$\log\,\pi_{ref}$")):
        box(3.6, y, 2.0, 1.2, "base\nfrozen", FROZEN)
        box(5.7, y, 1.5, 1.2, f"adapter\n{state}", green if state == "on" else "none")
        axes.text(8.35, y + 0.6, name, ha="center", va="center")
        arrow((7.3, y + 0.6), (7.8, y + 0.6))
        for answer in (3.0, 1.0):
            arrow((2.3, answer), (3.5, y + 0.6))
    axes.text(5.4, 2.0, "the same model", ha="center", va="center", style="italic")
    axes.text(
        10.2, 2.0, "the better one\nis to gain more\nthan the worse", ha="center", va="center"
    )
    for y in (3.0, 1.0):
        arrow((8.9, y), (9.3, 2.0 + 0.4 * (1 if y > 2 else -1)))
    axes.set(xlim=(-0.1, 11.7), ylim=(0.2, 4.8))
    axes.axis("off")
    plots.finish(
        axes,
        legend=False,
        caption="A preference compares. The reference is no second model: it is this one, with the "
        "adapter off.",
    )
    return figure
