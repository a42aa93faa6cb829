"""Pictures of lesson 02."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minipeft.analysis import plots
from minipeft.course.pretraining import wilson

KIND_COLOURS = {"facts": "#7c3aed", "strings": "#d97706"}
SKILL_COLOURS = ("#2563a8", "#15803d", "#b91c1c", "#0891b2", "#db2777", "#4b5563")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), "-")


def puzzle(words: Sequence[str], floor: Sequence[float], paid: Sequence[float]) -> None:
    """What each token of a puzzle must cost and what a model pays."""
    figure, axes = plots.figure(height=3.2, width=8.6)
    axes.bar(range(len(words)), floor, color="0.75", label="floor")
    axes.plot(paid, "o", color="#2563a8", label="what the model pays")
    axes.set_xticks(range(len(words)), words, rotation=40, ha="right")
    dice = words.index("=") + 1
    plots.finish(
        axes, "token that must be said", "price (nats)", "what a puzzle costs",
        caption=f"Question: floor {sum(floor[:dice]):.1f}, paid {sum(paid[:dice]):.1f} nats. "
        f"Answer: floor {sum(floor[dice:]):.1f}, paid {sum(paid[dice:]):.1f}.",
    )  # fmt: skip


def on_the_way(seen: Mapping[int, Mapping], floors: Mapping[str, float]) -> None:
    """Losses beside their floors, and what the model can do, by training step."""
    figure, (left, right) = plots.figure(2, height=3.6)
    steps, last = list(seen), list(seen.values())[-1]
    for kind, floor in floors.items():
        curve = [result["loss"][kind] for result in seen.values()]
        left.plot(steps, curve, ".-", color=KIND_COLOURS[kind], label=f"loss of {kind}")
        left.axhline(floor, color=KIND_COLOURS[kind], ls="--", label=f"floor of {kind}")
    capitals = [100 * result["capitals"] for result in seen.values()]
    right.plot(steps, capitals, ".-", color=KIND_COLOURS["facts"], lw=3, label="capitals")
    for name, style, colour in zip(last["puzzles"], LINES, SKILL_COLOURS, strict=True):
        curve = [100 * result["puzzles"][name] for result in seen.values()]
        right.plot(steps, curve, marker=".", color=colour, ls=style, label=name)
    curves = {"capitals": [result["capitals"] for result in seen.values()]}
    curves |= {n: [result["puzzles"][n] for result in seen.values()] for n in last["puzzles"]}
    reached = [
        f"{name} at step {next(step for step, s in zip(steps, shares, strict=True) if s >= 0.9):,}"
        for name, shares in curves.items()
        if max(shares) >= 0.9
    ] or ["nothing yet"]
    missing = [name for name, shares in curves.items() if max(shares) < 0.9]
    never = f" Not in {steps[-1]:,} steps: {', '.join(missing)}." if missing else ""
    above = ", ".join(f"{kind} {last['loss'][kind] - floors[kind]:.2f}" for kind in floors)
    plots.finish(left, "step", "nats per token", "texts it has not read", limits=(0, 4))
    plots.finish(
        right, "step", "% exact", "what it can do", limits=(0, 100),
        caption=f"90 % are right: {', '.join(reached)}.{never} At the end above the floor: "
        f"{above} nats.",
    )  # fmt: skip


def readers(table, rows: Sequence[str], kinds: Sequence[str]) -> None:
    """Nats per token, a reader in each row, a kind of text in each column."""
    figure, axes = plots.figure(height=3.0, width=9.2)
    plots.heat(table, rows, kinds, axes, title="nats per token", unit="nats", digits=2)
    pairs, model = table[rows.index("counts pairs")], table[rows.index("tiny-decoder")]
    ratio = (pairs / model).tolist()
    near, far = ratio.index(min(ratio)), ratio.index(max(ratio))
    plots.add_caption(
        figure,
        f"Pairs cost {ratio[near]:.1f} times what the transformer pays for {kinds[near]}, and "
        f"{ratio[far]:.1f} times for {kinds[far]}.",
    )


def sizes(results: Mapping[str, Mapping], counts: Mapping[str, int], early: Sequence[int]) -> None:
    """Loss after equally many steps; what the finished models can do, with intervals.

    counts: how many questions of each kind were asked.
    """
    figure, (left, right) = plots.figure(2, height=4.0)
    x = [result["parameters"] for result in results.values()]
    for shade, step in enumerate(early):
        losses = [result["losses"][step] for result in results.values()]
        grey = str(0.75 - 0.75 * shade / max(1, len(early) - 1))
        left.plot(x, losses, ".-", color=grey, label=f"loss at step {step:,}")
    looks = zip(("#2563a8", "#d97706", "#15803d", "#b91c1c"), "o^sD", strict=True)
    kinds = ("capitals", "capitals, wordings never read", "headlines", "follows (read)")
    for what, (colour, marker) in zip(kinds, looks, strict=True):
        shares = [result["right"][what] for result in results.values()]
        ends = [wilson(share, counts[what]) for share in shares]
        error = [
            [100 * (s - low) for s, (low, _) in zip(shares, ends, strict=True)],
            [100 * (high - s) for s, (_, high) in zip(shares, ends, strict=True)],
        ]
        right.errorbar(
            x, [100 * s for s in shares], error, color=colour, marker=marker, capsize=3, label=what
        )
    right.axhline(100 / 3, color=plots.GREY, ls=":", label="chance for follows")
    for axes in (left, right):
        axes.set_xscale("log")
    first, *_, last = (result["losses"][early[-1]] for result in results.values())
    plots.finish(left, "parameters", "training loss (nats per token)", "equally many steps")
    plots.finish(
        right, "parameters", "% exact", "when finished", limits=(0, 100),
        caption=f"After {early[-1]:,} steps the smallest model's loss is {first:.2f}, the "
        f"largest's {last:.2f}. One training run for each size; intervals are over questions.",
    )  # fmt: skip


def asked(
    named: Mapping[str, float], bare: Mapping[str, float], joined: Mapping[str, float]
) -> None:
    """Skills with and without the word that asks; the combination of two skills."""
    figure, (left, right) = plots.figure(2, height=3.4)
    for place, (label, scores, colour) in enumerate(
        (("with its word", named, "#15803d"), ("without", bare, "#b91c1c"))
    ):
        at = [x + 0.4 * place - 0.2 for x in range(len(scores))]
        left.bar(at, [100 * s for s in scores.values()], 0.38, color=colour, label=label)
        for x, share in zip(at, scores.values(), strict=True):
            left.text(x, 100 * share + 1, f"{100 * share:.0f}", ha="center", va="bottom")
    left.set_xticks(range(len(named)), list(named), rotation=30)
    colours = ["#15803d", "#15803d", *["#b91c1c"] * (len(joined) - 2)]
    shares = [100 * share for share in joined.values()]
    right.barh(list(joined), shares, color=colours)
    for y, share in enumerate(shares):
        right.text(share + 1, y, f"{share:.0f}", va="center")
    right.invert_yaxis()
    right.set_xlim(0, 115)
    plots.finish(left, "", "% exact", "asked and not asked", limits=(0, 110))
    right.spines[["top", "right"]].set_visible(False)
    right.set(xlabel="% exact", title="two skills, and reverse of rotate")
    mean = [sum(scores.values()) / len(scores) for scores in (named, bare)]
    plots.readable(figure)
    plots.legend_below(figure)
    plots.add_caption(
        figure,
        f"With its word a skill scores {mean[0]:.0%} on average, without it {mean[1]:.0%}; the "
        f"best prompt for the combination {max(shares[2:]):.0f}%.",
    )


def wordings(scores: Sequence[tuple[float, str, str]], countries: int) -> None:
    """Share of the capitals for each wording, best first: (share, wording, read or not)."""
    figure, axes = plots.figure(height=0.3 * len(scores) + 1, width=9.2)
    colours = [plots.GREY if kind != "never read" else "#ca8a04" for _, _, kind in scores]
    axes.barh(range(len(scores)), [100 * share for share, _, _ in scores], color=colours)
    for y, (share, _, kind) in enumerate(scores):
        axes.text(100 * share + 1, y, f"{100 * share:.0f}   {kind}", va="center")
    axes.set_yticks(range(len(scores)), [w.replace(" {y} .", " ...") for _, w, _ in scores])
    axes.invert_yaxis()
    axes.set_xlim(0, 150)
    axes.set_xticks(range(0, 101, 20))
    unread = [share for share, _, kind in scores if kind == "never read"]
    plots.finish(
        axes, f"% of {countries} capitals", title="one fact in different words", legend=False,
        caption=f"Wordings that were never read: {min(unread):.0%} to {max(unread):.0%} of the "
        "same capitals.",
    )  # fmt: skip
