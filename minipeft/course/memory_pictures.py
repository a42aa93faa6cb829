"""Lesson 13's pictures: a step as a mountain, bytes by part, shares of full, levels, fates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minipeft.analysis import plots
from minipeft.course.four_bits import NAMES
from minipeft.course.memory import PHASES, Footprint
from minipeft.methods.parts.quantization import levels

PARTS = {"weights": "#6b7280", "adam": "#7c3aed", "gradients": "#b91c1c", "activations": "#2563a8"}
LABELS = {"adam": "Adam's means"}
KINDS = {"nf4": "#14532d", "fp4": "#d97706", "int4": "#2563a8", "fp4-e3m0": "#c026d3"}
MB = 1e6


def mountain(footprints: Mapping[str, Footprint], caption: str):
    """What is allocated from a step's first operation to its last, for each way of training."""
    figure, axes = plots.figure(width=8.0, height=3.8)
    for number, (name, seen) in enumerate(footprints.items()):
        x, y = [], []
        for phase, row in enumerate(seen.levels.values()):
            x += [phase + (i + 1) / len(row) for i in range(len(row))]
            y += [(seen.weights + seen.adam + level) / MB for level in row]
        colour, _ = plots.look(name) or (plots.GREY, "")
        style = ("-", "-", "--", ":")[number % 4]
        axes.plot(x, y, style, color=colour, label=name, linewidth=2)
    for border in (1, 2):
        axes.axvline(border, color=plots.GREY, linewidth=0.8, linestyle=":")
    axes.set_xticks([0.5, 1.5, 2.5], PHASES)
    axes.set_ylim(bottom=0)
    plots.finish(axes, "", "MB in memory", "One training step", caption=caption)
    return figure


def parts(footprints: Mapping[str, Footprint], guesses: Mapping[str, dict], caption: str):
    """Measured bytes by part as bars, the predicted ones as marks."""
    figure, axes = plots.figure(width=8.4, height=4.2)
    for row, (name, seen) in enumerate(footprints.items()):
        measured, guess = vars(seen), guesses[name]
        left = predicted_left = 0.0
        for part, colour in PARTS.items():
            label = LABELS.get(part, part) if not row else None
            axes.barh(row, measured[part] / MB, left=left, color=colour, alpha=0.75, label=label)
            left += measured[part] / MB
            predicted_left += guess[part] / MB
            mark = "predicted" if not row and part == "weights" else None
            axes.plot([predicted_left] * 2, [row - 0.42, row + 0.42], "k-", lw=1.6, label=mark)
        axes.plot(seen.peak / MB, row, "wD", markeredgecolor="k", markersize=8,
                  label=None if row else "peak, measured")  # fmt: skip
    axes.set_yticks(range(len(footprints)), list(footprints))
    axes.invert_yaxis()
    plots.finish(axes, "MB", "", "Bytes of one step", caption=caption)
    return figure


def shares(sizes: Sequence[int], peaks: Mapping[str, Sequence[float]], caption: str):
    """The peak of every way as a share of full fine-tuning's, by tokens of the batch."""
    figure, axes = plots.figure(width=8.0, height=3.8)
    for name, values in peaks.items():
        colour, marker = plots.look(name) or (plots.GREY, "o")
        style = "--" if "again" in name else ":" if "all maps" in name else "-"
        axes.plot(sizes, values, style, color=colour, marker=marker, label=name)
    axes.axhline(1, color=plots.COLOURS["full"], linewidth=1.5, label="full")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0, 1.25)
    plots.finish(axes, "tokens in the batch", "share of full's bytes", "Peak of a step",
                 caption=caption)  # fmt: skip
    return figure


def level_picture(weights: Tensor, errors: Mapping[str, Mapping[str, list[float]]], caption: str):
    """Left: where the weights lie, divided by their block's largest, and the levels of each kind.
    Right: the relative error of each kind, on weights from several sources."""
    figure, (left, right) = plots.figure(columns=2, height=4.0)
    density, edges = torch.histogram(weights.float(), 60, range=(-1.0, 1.0), density=True)
    top = density.max().item()
    middles = (edges[1:] + edges[:-1]) / 2
    left.fill_between(middles, density, color=plots.GREY, alpha=0.35, linewidth=0)
    for row, (kind, colour) in enumerate(KINDS.items()):
        height = -top * (0.14 + 0.16 * row)
        left.plot(levels(kind), [height] * len(levels(kind)), "|", color=colour, markersize=13,
                  markeredgewidth=2)  # fmt: skip
    left.set_yticks([])
    for row, by_kind in enumerate(errors.values()):
        for shift, (kind, colour) in enumerate(KINDS.items()):
            mean, half = plots.interval(by_kind[kind])
            label = NAMES[kind] if not row else None
            right.errorbar(row + 0.16 * (shift - 1.5), 100 * mean, 100 * half, fmt="o", capsize=3,
                           color=colour, label=label)  # fmt: skip
    right.set_xticks(range(len(errors)), list(errors))
    right.set_ylim(bottom=0)
    plots.finish(left, "weight / largest of its block", "how many", "weights and levels",
                 legend=False)  # fmt: skip
    plots.finish(right, "", "error (% of a weight's size)", "64 weights share a scale",
                 caption=caption)  # fmt: skip
    return figure


def fates(values: Mapping[str, Mapping[str, list[float]]], names: Mapping[str, str], caption: str):
    """Exact match by what became of a tuned model, for each method."""
    figure, axes = plots.figure(width=8.4, height=3.8)
    for shift, (method, by_fate) in enumerate(values.items()):
        places = [i + 0.16 * (shift - 0.5) for i, fate in enumerate(names) if fate in by_fate]
        rows = [by_fate[fate] for fate in names if fate in by_fate]
        plots.whiskers(axes, places, rows, method, linestyle="none")
    axes.set_xticks(range(len(names)), list(names.values()))
    plots.finish(axes, "", "exact match (share)", "reverse-rotate, test", limits=(0, 1),
                 caption=caption)  # fmt: skip
    return figure


def dearer(losses: Mapping[str, Mapping[str, list[float]]], caption: str):
    """By how many nats per token each kind is worse than the base: mean over pieces of text."""
    figure, axes = plots.figure(width=7.6, height=3.8)
    for row, by_kind in enumerate(losses.values()):
        for shift, (kind, values) in enumerate(by_kind.items()):
            mean, half = plots.interval(values)
            label = None if row else NAMES[kind]
            axes.errorbar(row + 0.14 * (shift - 1.5), mean, half, fmt="o", capsize=3,
                          color=KINDS[kind], label=label)  # fmt: skip
    axes.axhline(0, color=plots.GREY, linewidth=1, linestyle=":")
    axes.set_xticks(range(len(losses)), list(losses))
    axes.set_xlim(-0.5, len(losses) - 0.5)
    plots.finish(axes, "", "nats per token above the base", "SmolLM2 in four bits",
                 caption=caption)  # fmt: skip
    return figure
