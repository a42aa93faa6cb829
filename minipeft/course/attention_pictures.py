"""Pictures of lesson 01."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minipeft.analysis import plots

KEYS = ("#d97706", "#2563a8", "#15803d")
FRAMES = ("#d97706", "#c026d3")


def lookup(random_keys: Mapping[str, Sequence[float]]) -> None:
    """Three keys and queries of several lengths; then the largest weight of random keys by D.

    random_keys: what `attention.largest_weights` gives.
    """
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # (S, D)
    query = torch.tensor([math.cos(math.radians(35)), math.sin(math.radians(35))])  # (D,)
    lengths = (0, 1, 3, 10)
    figure, (plane, shares, random) = plots.figure(3, height=2.9)
    style = {"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0, "lw": 2}
    for number, key in enumerate(keys):
        plane.annotate("", key.tolist(), (0, 0), arrowprops={**style, "color": KEYS[number]})
        side = ("left", "center", "right")[number]
        x, y = (1.1 * key).tolist()
        va = "bottom" if side == "center" else "center"
        plane.text(x, y, f"key {number}", ha=side, va=va, color=KEYS[number])
    plane.annotate("", query.tolist(), (0, 0), arrowprops={**style, "color": "black"})
    plane.text(*(1.1 * query).tolist(), "query", ha="left", va="bottom")
    plane.set(xlim=(-1.9, 1.9), ylim=(-0.3, 1.6), aspect="equal")
    plane.axis("off")
    weights = torch.stack([(n * keys @ query / math.sqrt(2)).softmax(-1) for n in lengths])
    bottom = torch.zeros(len(lengths))
    for number, share in enumerate(weights.T):
        shares.bar(
            range(len(lengths)), share, bottom=bottom, color=KEYS[number], label=f"key {number}"
        )
        bottom += share
    shares.set_xticks(range(len(lengths)), lengths)
    widths, *both = random_keys
    for name, colour, marker in zip(both, ("#b91c1c", "#1f2937"), "os", strict=True):
        random.plot(random_keys[widths], random_keys[name], color=colour, marker=marker, label=name)
    random.set_xscale("log")
    plots.finish(plane, title="three keys, one query", legend=False)
    plots.finish(shares, "length of the query", "attention weight", "who gets it", limits=(0, 1))
    wide, calm = (random_keys[name][-1] for name in both)
    plots.finish(
        random, "D", "its weight", "best of 16 random keys", limits=(0, 1),
        caption=f"The zero query asks all alike; a long one gives {weights[-1].max():.0%} to "
        f"the best key. Undivided, the best of 16 random keys gets {wide:.0%} in a head of width "
        f"{random_keys[widths][-1]}, divided by √D {calm:.0%}.",
    )  # fmt: skip


def leak(losses: Mapping[str, Sequence[Sequence[float]]], ninth: Mapping[str, float]) -> None:
    """Training losses of an honest and a leaking decoder on texts of random words."""
    figure, axes = plots.figure(height=3.2, width=7.5)
    plots.curves(losses, axes=axes)
    end = sum(run[-1] for run in losses["leaking"]) / len(losses["leaking"])
    axes.axhline(math.log(16), color=plots.GREY, ls="--", label="log 16: nothing can be known")
    plots.finish(
        axes, "step", "training loss (nats per word)", "texts of random words", limits=(0, 4),
        caption=f"In training the leaking model comes down to {end:.1f} nats, below what can be "
        f"known. For a word that is not there yet it pays {ninth['leaking']:.1f}, the honest model "
        f"{ninth['honest']:.1f}.",
    )  # fmt: skip


def heads(
    weights: Tensor,
    labels: Sequence[str],
    chosen: Mapping[str, tuple[int, int]],
    shares: tuple[float, float],
) -> None:
    """Attention weights of two heads, name -> (layer, head), with the words at both axes.

    shares: how much weight the first gives to the task's word, the second to the word it needs.
    """
    figure, panels = plots.figure(len(chosen), height=4.4)
    for panel, (name, place), colour in zip(panels, chosen.items(), FRAMES, strict=True):
        image = panel.imshow(weights[place], cmap="viridis", vmin=0, vmax=1)
        panel.set_xticks(range(len(labels)), labels, rotation=90)
        panel.set_yticks(range(len(labels)), labels)
        panel.set(xlabel="token that is looked at", ylabel="token that asks")
        panel.set_title(f"block {place[0]}, head {place[1]}: {name}", color=colour)
    figure.colorbar(image, ax=panels, label="attention weight", shrink=0.8)
    plots.readable(figure)
    plots.add_caption(
        figure,
        f"While it writes, one head gives {shares[0]:.0%} of its weight to the word that names the "
        f"task, another {shares[1]:.0%} to the word that is needed or to its neighbour.",
    )


def missed(tables: Mapping[str, Tensor], chosen: Mapping[str, tuple[int, int]]) -> None:
    """Per cent still right without each head, (L, H) for each task; chosen heads are framed."""
    from matplotlib.patches import Rectangle

    figure, panels = plots.figure(len(tables), height=3.0)
    for panel, (name, table) in zip(panels, tables.items(), strict=True):
        L, H = table.shape
        blocks, names = [f"block {i}" for i in range(L)], [f"head {i}" for i in range(H)]
        plots.heat(
            (100 * table).round(),
            blocks,
            names,
            panel,
            "head taken out",
            title=name,
            limits=(0, 100),
            unit="% right without it",
        )
        for (layer, head), colour in zip(chosen.values(), FRAMES, strict=True):
            frame = Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, ec=colour, lw=3)
            panel.add_patch(frame)
    said = [f"{(table > 0.9).float().mean():.0%} for {name}" for name, table in tables.items()]
    plots.add_caption(
        figure,
        f"Heads that can go alone, with more than 90 % still right: {', '.join(said)}. "
        "Framed: the two heads of the last picture.",
    )


def seen(maps: Mapping[str, Tensor], caption: str, source: int = 0) -> None:
    """Who influences whom, one panel for each map (T, S); the first `source` columns of the last
    are tokens of its source."""
    widths = [m.shape[1] for m in maps.values()]
    figure, panels = plots.figure(len(maps), height=2.9, gridspec_kw={"width_ratios": widths})
    for panel, (name, moved) in zip(panels, maps.items(), strict=True):
        T, S = moved.shape
        panel.imshow(moved, cmap="Blues", vmin=-0.3, vmax=1.3)
        panel.set_xticks(torch.arange(0.5, S - 1).tolist(), minor=True)
        panel.set_yticks(torch.arange(0.5, T - 1).tolist(), minor=True)
        panel.grid(which="minor", color="white", lw=1.5)
        panel.tick_params(which="minor", length=0)
        named = [f"s{j}" for j in range(source)] + list(range(S - source)) if S > T else range(S)
        panel.set_xticks(range(S), named)
        panel.set_yticks(range(T))
        panel.set(xlabel="token changed", title=name)
    panels[0].set_ylabel("state")
    plots.readable(figure)
    plots.add_caption(figure, f"Dark: the state moves with this token. {caption}")


def print_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    """Bars: what tells the model -> function -> share of rows that are right."""
    figure, axes = plots.figure(height=3.2, width=8.4)
    colours = (plots.GREY, plots.COLOURS["prefix"], plots.COLOURS["written prompt"])
    for place, ((name, values), colour) in enumerate(zip(scores.items(), colours, strict=True)):
        at = [x + 0.27 * (place - 1) for x in range(len(values))]
        axes.bar(at, [100 * value for value in values.values()], 0.26, label=name, color=colour)
        for x, value in zip(at, values.values(), strict=True):
            axes.text(x, 100 * value + 1, f"{100 * value:.0f}", ha="center", va="bottom")
    axes.set_xticks(range(len(values)), list(values))
    mean = {name: sum(values.values()) / len(values) for name, values in scores.items()}
    bare, memory, word = mean.values()
    compared = "and not as well as the word does" if memory < word - 0.05 else "as the word does"
    plots.finish(
        axes, "", "% of rows right", "what tells the model which function is wanted",
        limits=(0, 110),
        caption=f"Copied pairs steer the model, {compared}: on average {memory:.0%} of the rows, "
        f"{bare:.0%} without them, {word:.0%} with the word.",
    )  # fmt: skip
