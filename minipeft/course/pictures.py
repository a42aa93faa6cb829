"""The picture of the three doors, for the README: `python -m minipeft.course.pictures docs`."""

from __future__ import annotations

import argparse
from pathlib import Path

# One colour per door, in every picture of the course; told apart in grey print too.
DOORS = {"words": "#d97706", "memory": "#2563a8", "weights": "#15803d"}
INK, FROZEN, EDGE = "#1f2937", "#e5e7eb", "#9ca3af"
TEXT = 13.1  # points in the picture, which a page shows at 0.8 of its size: 11 points


def three_doors(width: float = 11.0):
    """Draw a frozen transformer and its three doors as a pyplot figure, which is returned.

    Grey is frozen, colour is trained. T tokens enter on the left, logits leave on the right.
    """
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(width, width * 0.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 110)
    axes.set_ylim(0, 55)
    axes.axis("off")
    _words(axes)
    _block(axes)
    _box(axes, 97, 27, 7, 9, "head")
    _arrow(axes, 92.5, 31.5, 97, 31.5)
    _arrow(axes, 104, 31.5, 107, 31.5)
    axes.text(108, 31.5, "logits", rotation=90, va="center", ha="center", color=INK, fontsize=TEXT)
    meaning = "grey: frozen\ncolour: trained"
    axes.text(1, 48.3, meaning, color="#4b5563", fontsize=TEXT, va="center")
    _captions(axes)
    return figure


def _words(axes) -> None:
    """Ids on the left, the embedding, and the sequence of vectors with a soft prompt in front."""
    for row, word in enumerate(("the", "capital", "of", "peru")):
        axes.text(1, 36.7 - 3.4 * row, word, color=INK, fontsize=TEXT, va="center", style="italic")
    _arrow(axes, 6.4, 31.5, 8.2, 31.5)
    _box(axes, 8.2, 27, 10.8, 9, "word\nembedding")
    _arrow(axes, 19.0, 31.5, 20.6, 31.5)
    _column(axes, 20.8, 4, 3, DOORS["words"])
    axes.text(22.1, 22.0, "T × C", ha="center", va="top", fontsize=TEXT, color=INK)
    axes.text(22.1, 45.3, "P × C", ha="center", va="bottom", fontsize=TEXT, color=DOORS["words"])
    _arrow(axes, 24, 31.5, 29.5, 31.5)


def _block(axes) -> None:
    """One of L blocks: attention with its memory, feed-forward, each linear map with a detour."""
    from matplotlib.patches import FancyBboxPatch

    frame = FancyBboxPatch(
        (29.5, 16.8),
        63,
        34.4,
        boxstyle="round,pad=0,rounding_size=1.5",
        fill=False,
        ec=EDGE,
        lw=1.2,
    )
    frame.set_linestyle((0, (4, 3)))
    axes.add_patch(frame)
    axes.text(91.5, 49.3, "× L blocks", ha="right", va="center", fontsize=TEXT, color=INK)
    for name, low, detour in (("query", 39, True), ("key", 29.5, False), ("value", 20, True)):
        _box(axes, 33, low, 8, 6, name)
        axes.plot([29.5, 31.2, 31.2], [31.5, 31.5, low + 3], color=INK, lw=1)
        _arrow(axes, 31.2, low + 3, 33, low + 3)
        if detour:
            _detour(axes, 33, low, 8)
    # keys and values: T frozen ones, P that were learned
    for low, name in ((29.5, "K"), (20, "V")):
        _arrow(axes, 41, low + 3, 45.4, low + 3)
        _row(axes, 45.6, low + 1.7, 3, 4)
        axes.text(
            46.5, low + 5.2, f"{name}: P + T", fontsize=TEXT, color=DOORS["memory"], va="center"
        )
        _arrow(axes, 61.3, low + 3, 64, low + 3)
    _arrow(axes, 41, 42, 64, 42)
    _box(axes, 64, 20, 6.5, 25, "attention", rotation=90)
    _arrow(axes, 70.5, 31.5, 72.5, 31.5)
    for left, name in ((72.5, "output"), (79.3, "up"), (86, "down")):
        _box(axes, left, 27.5, 5, 8, name, rotation=90)
        _detour(axes, left, 27.5, 5)
    _arrow(axes, 77.5, 31.5, 79.3, 31.5)
    _arrow(axes, 84.3, 31.5, 86, 31.5)
    axes.plot([91, 92.5], [31.5, 31.5], color=INK, lw=1)


def _captions(axes) -> None:
    lines = (
        (1, "words", "new rows of the embedding", "prompt tuning, P-tuning"),
        (33, "memory", "keys and values that attention reads", "prefix-tuning, P-Tuning v2"),
        (71, "weights", "a detour beside a linear map", "LoRA, adapters, (IA)³, BitFit"),
    )
    for left, door, what, who in lines:
        colour = DOORS[door]
        axes.plot([left, left], [2, 12.5], color=colour, lw=4, solid_capstyle="butt")
        axes.text(left + 1.4, 11, door, fontsize=16, weight="bold", color=colour, va="center")
        axes.text(left + 1.4, 7.2, what, fontsize=TEXT, color=INK, va="center")
        axes.text(left + 1.4, 3.7, who, fontsize=TEXT, color="#4b5563", va="center", style="italic")


def _box(axes, left, low, width, height, text, rotation=0) -> None:
    from matplotlib.patches import FancyBboxPatch

    box = FancyBboxPatch(
        (left, low), width, height, boxstyle="round,pad=0,rounding_size=0.7", fc=FROZEN, ec=EDGE
    )
    axes.add_patch(box)
    place = left + width / 2, low + height / 2
    axes.text(*place, text, ha="center", va="center", fontsize=TEXT, color=INK, rotation=rotation)


def _column(axes, left, tokens, prompt, colour) -> None:
    """Vectors one above the other: `prompt` coloured ones first, then `tokens` grey ones."""
    from matplotlib.patches import Rectangle

    for row in range(prompt + tokens):
        face = colour if row < prompt else FROZEN
        low = 42.3 - 3.2 * row
        axes.add_patch(
            Rectangle((left, low), 2.6, 2.4, fc=face, ec="white" if row < prompt else EDGE)
        )


def _row(axes, left, low, prompt, tokens) -> None:
    from matplotlib.patches import Rectangle

    for place in range(prompt + tokens):
        face = DOORS["memory"] if place < prompt else FROZEN
        edge = "white" if place < prompt else EDGE
        axes.add_patch(Rectangle((left + 2.2 * place, low), 1.7, 2.6, fc=face, ec=edge))


def _detour(axes, left, low, width) -> None:
    """A low-rank detour under a linear map: A narrows to r, B widens again."""
    from matplotlib.patches import Polygon

    middle, colour = left + width / 2, DOORS["weights"]
    top, bottom, waist = low - 0.5, low - 2.4, 0.4
    centre = (top + bottom) / 2
    for side in (-1, 1):
        edge = middle + side * width / 2
        near = middle + side * 0.25
        shape = [(edge, top), (edge, bottom), (near, centre - waist), (near, centre + waist)]
        axes.add_patch(Polygon(shape, closed=True, fc=colour, ec="none"))


def _arrow(axes, x, y, to_x, to_y) -> None:
    style = {"arrowstyle": "-|>,head_width=0.18,head_length=0.35", "color": INK, "lw": 1}
    axes.annotate("", (to_x, to_y), (x, y), arrowprops={**style, "shrinkA": 0, "shrinkB": 0})


def main(folder: str) -> None:
    """Write the pictures of the documentation, the same bytes every time."""
    import matplotlib

    matplotlib.use("agg")
    with matplotlib.rc_context({"svg.hashsalt": "minipeft", "svg.fonttype": "path"}):
        path = Path(folder) / "three_doors.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        three_doors().savefig(
            path, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), facecolor="white"
        )
        print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="docs", help="where to (default %(default)s)")
    main(parser.parse_args().folder)
