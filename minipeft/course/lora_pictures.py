"""The pictures of lessons 10 and 10b."""

from __future__ import annotations

from minipeft.analysis import plots
from minipeft.course.pictures import EDGE, FROZEN


def detour_picture():
    """The linear map in grey, the detour beside it in the colour of LoRA."""
    from matplotlib import pyplot

    figure, axes = plots.figure(width=7, height=3.3)
    green, arrow = plots.COLOURS["LoRA"], dict(arrowstyle="->", color="k")
    shapes = {  # text: (corners, colour)
        "$W_0$\nout × in\nfrozen": ([(0, 1), (3, 1), (3, 4), (0, 4)], FROZEN),
        "$A$   r × in": ([(4.2, 1), (7.2, 1), (6.2, 2.3), (5.2, 2.3)], green),
        "$B$   out × r": ([(5.2, 2.7), (6.2, 2.7), (7.2, 4), (4.2, 4)], green),
    }
    for text, (corners, colour) in shapes.items():
        axes.add_patch(pyplot.Polygon(corners, facecolor=colour, edgecolor=EDGE))
        x, y = (sum(c[i] for c in corners) / len(corners) for i in (0, 1))
        axes.text(x, y, text, ha="center", va="center", color="k" if colour == FROZEN else "w")
    for x in (1.5, 5.7):
        axes.annotate("", (x, 1), (3.6, 0.2), arrowprops=arrow)
        axes.annotate("", (3.6, 4.8), (x, 4), arrowprops=arrow)
    axes.annotate("", (5.7, 2.7), (5.7, 2.3), arrowprops=arrow)
    axes.text(6.4, 2.5, "r numbers", va="center")
    axes.text(3.6, 0.1, "x: in numbers", ha="center", va="top")
    axes.text(3.6, 4.9, "h: out numbers", ha="center", va="bottom")
    axes.text(5.1, 4.55, r"$\times\,\alpha/r$")
    axes.set(xlim=(-0.3, 8.4), ylim=(-0.5, 5.4))
    axes.axis("off")
    plots.readable(figure)
    plots.add_caption(figure, "What is trained is a narrow way around a map that stays as it was.")
    return figure
