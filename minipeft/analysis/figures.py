"""One visual language for every figure of the course: colours, sizes, legends, captions.

A method has one colour and one marker in all lessons. Words are amber and brown, memory is blue,
weights are green and violet; what trains numbers of the base itself is red; the untouched base and
chance are grey. No text is smaller than 11 pt as a page shows it: `readable` works out what that
means for the figure at hand.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence

GREY, INK = "#6b7280", "#1f2937"
SMALLEST = 11.0  # points, as shown
PAGE = 890  # CSS pixels that a page of the course gives a figure at most
CSS = 96  # CSS pixels per inch; 72 points are an inch

LOOKS = {  # method: (colour, marker)
    **{"written prompt": ("#ca8a04", "1"), "in-context": ("#a16207", "2")},
    **{"prompt tuning": ("#d97706", "o"), "P-tuning": ("#92400e", "s")},
    **{"prefix": ("#2563a8", "^"), "P-Tuning v2": ("#0891b2", "v")},
    **{"LoRA": ("#15803d", "D"), "rsLoRA": ("#4d7c0f", "d"), "LoRA+": ("#84a314", "d")},
    **{"DoRA": ("#0f766e", "P"), "PiSSA": ("#10b981", "X"), "AdaLoRA": ("#65a30d", "p")},
    **{"QLoRA": ("#14532d", "h"), "adapter": ("#7c3aed", "*"), "IA3": ("#c026d3", "<")},
    **{"VeRA": ("#4338ca", "x")},
    **{"BitFit": ("#ec4899", ">"), "UniPELT": ("#0f172a", "8"), "MAM": ("#475569", "H")},
    **{"full": ("#b91c1c", "o"), "top": ("#e0664f", "s"), "head only": ("#f0a68c", "^")},
    **{"base": (GREY, "_"), "chance": (GREY, "_"), "random": ("#9ca3af", "|")},
}
OTHER_NAMES = {"ia 3": "IA3", "full fine tuning": "full", "fine tuning": "full", "ft": "full"}
OTHER_NAMES |= {"top layers": "top", "unadapted": "base", "from scratch": "random"}
COLOURS = {name: colour for name, (colour, _) in LOOKS.items()}
MARKERS = {name: marker for name, (_, marker) in LOOKS.items()}


def look(name: str) -> tuple[str, str] | None:
    """(colour, marker) of a method: "LoRA", "lora r = 8", "PromptTuning"; None for other words."""
    text, best = _plain(name), ""
    keys = {**{_plain(key): key for key in LOOKS}, **OTHER_NAMES}
    keys |= {key.replace(" ", ""): method for key, method in keys.items()}
    for key in keys:
        if text.startswith(key) and not text[len(key) :][:1].isalpha() and len(key) > len(best):
            best = key
    return LOOKS[keys[best]] if best else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9+]+", " ", str(name).lower().replace("³", "3")).strip()


def smallest(figure) -> float:
    """The font size that a page shows as 11 pt: a figure wider than the page is shrunk to fit."""
    width = figure.get_figwidth() * figure.dpi  # pixels
    shrunk = min(1.0, PAGE / width)
    return SMALLEST * CSS / (figure.dpi * shrunk)


def readable(figure) -> None:
    """Enlarge every text of a figure that would be shown in less than 11 pt."""
    from matplotlib.text import Text

    size = smallest(figure)
    for axes in figure.axes:
        for which in ("x", "y"):
            ticks = getattr(axes, f"{which}axis").get_ticklabels()
            now = max((text.get_fontsize() for text in ticks), default=size)
            axes.tick_params(axis=which, labelsize=max(size, now))
    for text in figure.findobj(Text):
        text.set_fontsize(max(size, text.get_fontsize()))


def figure(
    columns: int = 1, rows: int = 1, width: float | None = None, height: float = 3.4, **options
):
    """A figure of the course and its axes: (figure, axes), axes as `pyplot.subplots` gives them.

    width: in inches; at most 9 are shown without being made smaller.  height: of one row.
    """
    from matplotlib import pyplot

    width = width or (6.4 if columns == 1 else 9.2)
    return pyplot.subplots(
        *(rows, columns), figsize=(width, height * rows), dpi=CSS, layout="constrained", **options
    )


def finish(
    axes,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    *,
    limits: tuple[float, float] | None = None,
    chance: float | None = None,
    legend: bool = True,
    legend_title: str = "",
    caption: str = "",
):
    """Labels with units, the legend under the data and never on it, no frame, readable text.

    Args:
        limits: the possible range of y, such as (0, 1) for shares: the axis shows it with a margin.
        chance: height of a grey line, what guessing gets.
        legend: one legend under the figure, for the labels of all its axes.
        caption: the sentence that the reader should keep, under the figure (see `add_caption`).
    """
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(ylabel) == 1:  # an i that lies on its side is a dash
        axes.yaxis.label.set(rotation=0, ha="right", va="center")
    axes.spines[["top", "right"]].set_visible(False)
    if chance is not None:
        axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, label="chance", zorder=0)
    if limits is not None:
        margin = 0.05 * (limits[1] - limits[0])
        axes.set_ylim(limits[0] - margin, limits[1] + margin)
    readable(axes.figure)
    if legend:
        legend_below(axes.figure, legend_title)
    if caption:
        add_caption(axes.figure, caption)
    return axes


def legend_below(figure, title: str = "") -> None:
    """One legend for all axes of a figure, under them; called again it takes the place of it."""
    handles: dict = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for old in list(figure.legends):
        old.remove()
    if not handles:
        return
    size = smallest(figure)
    column = 0.55 * size * max(map(len, handles)) + 4 * size  # points, about
    columns = max(1, min(len(handles), int(72 * figure.get_figwidth() / column)))
    rows = -(-len(handles) // columns) + bool(title)
    room = _room(figure)
    figure.legend(
        *(list(handles.values()), list(handles)),
        **dict(loc="lower center", ncols=columns, frameon=False, title=title or None),
        **dict(fontsize=size, title_fontsize=size),
        bbox_to_anchor=(0.5, room / figure.get_figheight()),
    )
    _constrain(figure, room + size * (1.75 * rows + 0.8) / 72)


def add_caption(figure, sentence: str) -> None:
    """A sentence under a figure: what to remember of it. A second one takes the first one's place.

    The figure grows by the height of the caption, so that the axes keep theirs.
    """
    height = figure.get_figheight() - _room(figure)
    for old in [text for text in figure.texts if text.get_gid() == "caption"]:
        old.remove()
    size = smallest(figure)
    letters = max(20, int(72 * figure.get_figwidth() / (0.56 * size)))
    figure.text(
        *(0.01, 0.0, textwrap.fill(sentence, letters)),
        **dict(va="bottom", ha="left", fontsize=size, color=INK, gid="caption"),
    )
    figure.set_figheight(height + _room(figure))
    _constrain(figure, _room(figure))
    if figure.legends:
        legend_below(figure, figure.legends[0].get_title().get_text())


def _room(figure) -> float:
    """Inches that the caption takes."""
    captions = [text for text in figure.texts if text.get_gid() == "caption"]
    if not captions:
        return 0.0
    return (captions[0].get_text().count("\n") + 1.6) * 1.25 * captions[0].get_fontsize() / 72


def _constrain(figure, room: float) -> None:
    """Let matplotlib arrange the axes above that many inches for legend and caption."""
    share = room / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, share, 1, 1 - share))


def clipped(
    means: Sequence[float],
    halves: Sequence[float],
    limits: tuple[float, float] | None,
    log: bool = False,
) -> tuple[list[float], list[float]]:
    """How far intervals reach down and up, none of them beyond what is possible.

    log: the axis is logarithmic, and one that reaches 0 or less is drawn upwards only.

    Raises:
        ValueError: a mean lies outside the limits.
    """
    low, high = limits or (-math.inf, math.inf)
    for mean in means:
        if mean < low - 1e-6 or mean > high + 1e-6:
            raise ValueError(
                f"A value of {mean:.3g} lies outside of {limits}: give limits=None, or the range "
                "that is possible."
            )
    halves = [0.0 if math.isnan(half) else half for half in halves]
    down = [min(half, mean - low) for mean, half in zip(means, halves, strict=True)]
    up = [min(half, high - mean) for mean, half in zip(means, halves, strict=True)]
    if log:
        down = [0.0 if reach >= mean else reach for reach, mean in zip(down, means, strict=True)]
    return [max(0.0, reach) for reach in down], [max(0.0, reach) for reach in up]
