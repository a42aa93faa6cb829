"""Pictures of lesson 17: one base for many users, who is answered by whom, times, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from minipeft.analysis import plots
from minipeft.analysis.figures import readable
from minipeft.course.pictures import DOORS, EDGE, FROZEN, INK
from minipeft.course.serving_times import WAYS, middle

LOOKS = dict(zip(WAYS, (("#15803d", "D"), ("#2563a8", "^"), ("#b91c1c", "o")), strict=True))
USERS = {"ann": "#15803d", "bob": "#7c3aed", "cyd": "#d97706"}


def picture(width: float = 9.2):
    """A batch whose rows belong to three users and to nobody, the base, and a shelf of adapters."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    figure, axes = plt.subplots(figsize=(width, 4.2), dpi=96)

    def box(x, y, wide, high, text, colour, ink="white"):
        shape = "round,pad=0,rounding_size=0.1"
        patch = FancyBboxPatch((x, y), wide, high, boxstyle=shape, fc=colour, ec=EDGE)
        axes.add_patch(patch)
        axes.text(x + wide / 2, y + high / 2, text, ha="center", va="center", color=ink)

    def arrow(x, y, to_x, to_y, colour=INK):
        axes.annotate("", (to_x, to_y), (x, y), arrowprops=dict(arrowstyle="->", color=colour))

    box(4.2, 0.4, 2.4, 3.3, "$W_0 x$\n\nfrozen,\none for all", FROZEN, INK)
    rows = ["ann", "cyd", None, "bob", "ann"]
    for place, user in enumerate(rows):
        y, colour = 3.1 - 0.65 * place, USERS.get(user, "#6b7280")
        box(1.2, y, 2.2, 0.5, "cat sun tree =>", FROZEN, INK)
        axes.text(1.05, y + 0.25, user or "nobody", ha="right", va="center", color=colour)
        arrow(3.45, y + 0.25, 4.15, y + 0.25)
        arrow(6.65, y + 0.25, 7.15, y + 0.25)
        if user:
            box(7.2, y, 1.95, 0.5, f"+ $s\\,B A$ of {user}", colour)
            arrow(9.2, y + 0.25, 9.65, y + 0.25, colour)
        else:
            arrow(7.15, y + 0.25, 9.65, y + 0.25, colour)
        axes.text(9.75, y + 0.25, f"answer for {user}" if user else "the base's answer",
                  va="center", color=colour)  # fmt: skip
    axes.text(8.2, 3.85, "weights door", ha="center", color=DOORS["weights"])
    axes.text(2.3, 3.85, "one batch", ha="center", color=INK)
    axes.set(xlim=(0, 12.0), ylim=(0.1, 4.2))
    axes.axis("off")
    readable(figure)
    return figure


def matrix_chart(words: Tensor, functions: Sequence[str], caption: str):
    """(N, N): share of right words of user i (a row) with the adapter of user j (a column)."""
    axes = plots.new_axes(width=6.6, height=5.2)
    image = axes.imshow(words.tolist(), vmin=0, vmax=1, cmap="viridis")
    axes.figure.colorbar(image, ax=axes, label="share of right words")
    each = len(words) // len(functions)
    middles = [each * (number + 0.5) - 0.5 for number in range(len(functions))]
    axes.set_xticks(middles, functions, rotation=30, ha="right")
    axes.set_yticks(middles, functions)
    for number in range(1, len(functions)):
        axes.axhline(each * number - 0.5, color="w", lw=0.8)
        axes.axvline(each * number - 0.5, color="w", lw=0.8)
    plots.finish(axes, f"whose adapter ({each} customers of each function)", "whose rows",
                 "Every customer's rows, every customer's adapter", legend=False)  # fmt: skip
    plots.add_caption(axes.figure, caption)
    return axes.figure


def drift_chart(drifts: Mapping[str, Sequence[float]], caption: str):
    """How far a weight is from what it was, by number of adapters that were added and taken out."""
    axes = plots.new_axes(width=7.0)
    styles = {"bfloat16": ("#b91c1c", ":"), "float32": ("#2563a8", "--")}
    for name, values in drifts.items():
        colour, style = styles.get(name, (plots.COLOURS["LoRA"], "-"))
        axes.plot(range(1, len(values) + 1), values, style, color=colour, lw=2.2, label=name)
    axes.set_yscale("symlog", linthresh=1e-9)
    axes.set_ylim(bottom=-1e-10)
    plots.finish(axes, "adapters that were merged and taken out again",
                 "change of W / length of W", "What is left in the base")  # fmt: skip
    plots.add_caption(axes.figure, caption)
    return axes.figure


def times_chart(panels: Mapping[str, Mapping[int, Mapping[str, Sequence[float]]]], caption: str):
    """For each panel (its title): time over the base's by number of users, a line for each way."""
    figure, axes = plots.figure(len(panels), height=3.8, sharey=True)
    axes = [axes] if len(panels) == 1 else list(axes)
    for place, (title, measured) in zip(axes, panels.items(), strict=True):
        for way, (colour, marker) in LOOKS.items():
            points = [middle(measured[users][way]) for users in measured]
            down = [median - low for median, low, _ in points]
            up = [high - median for median, _, high in points]
            medians = [median for median, _, _ in points]
            place.errorbar(list(measured), medians, [down, up], color=colour, marker=marker,
                           capsize=3, lw=1.8, label=way)  # fmt: skip
        place.set_xscale("log", base=2)
        place.set_yscale("log", base=2)
        place.set_xticks(list(measured), list(map(str, measured)))
        place.axhline(1, color=plots.GREY, linestyle=":", linewidth=1.2, label="bare base")
        plots.finish(place, "users in the batch", "time / time of the bare base", title)
    low, high = axes[0].get_ylim()
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128) if low <= tick <= high]
    axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    plots.add_caption(figure, caption)
    return figure
