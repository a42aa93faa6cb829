"""Section `growth`: how the cost of a training step grows; straight lines, drawn.

Over the rank, the prompt's length, the tokens of a row, the layers that are tuned (from the top:
nothing is done backward below the lowest door in use), and the adapters that are attached while one
of them is trained.
"""

from __future__ import annotations

from collections.abc import Callable

import minipeft as mp
from minipeft.training.loss import loss_of

from .bases import Size, batch_of, gpt2, trained
from .measuring import HOW, Sheet, flops, quartiles, spread, take_turns


def step(size: Size, method, tokens: int | None = None, others: int = 0) -> Callable[[], None]:
    """A training step; `others` tuners more are attached and disabled."""
    base, batch = gpt2(size), batch_of(size, tokens=tokens)
    for number in range(others):
        mp.attach(base, method, name=f"other{number}", seed=number).disable()
    mp.attach(base.train(), method, seed=0)
    return trained(base, lambda: loss_of(base, batch).backward())


def families(size: Size) -> dict[str, dict[int, Callable]]:
    """What grows -> how much -> the settings of the step to measure."""
    T, L = size.tokens, size.layers
    whole = dict(targets=("qkv",))
    return {
        "LoRA's rank": {r: (mp.LoRA(rank=r, **whole), None, 0) for r in (1, 8, 32, 64, 128)},
        "prefix length": {n: (mp.Prefix(n, hidden=None), None, 0) for n in (5, 20, 40, 80)},
        "prompt length": {n: (mp.PromptTuning(n), None, 0) for n in (5, 20, 40, 80)},
        "tokens of a row": {
            n: (mp.LoRA(rank=8, **whole), n, 0) for n in (T // 4, T // 2, T, 2 * T)
        },
        "layers tuned, from the top": {
            n: (mp.LoRA(rank=8, layers=tuple(range(L - n, L)), **whole), None, 0)
            for n in range(1, L + 1)
        },
        "other adapters attached": {n: (mp.LoRA(rank=8, **whole), None, n) for n in (0, 4, 16, 32)},
    }


def run(options) -> list[Sheet]:
    """A table and a picture of how a step grows; --quick measures two tiny sizes of each."""
    size = Size.of(options)
    if not options.quick:
        size = Size(rows=4)
    results: dict[str, dict[int, tuple]] = {}
    for name, members in families(size).items():
        members = dict(list(members.items())[:2]) if options.quick else members
        steps = {str(n): step(size, *settings) for n, settings in members.items()}
        counts = {n: flops(one) for n, one in steps.items()}
        times = take_turns(steps, 2 if options.quick else 6, warmup=1, label=name)
        results[name] = {int(n): (times[n], counts[n]) for n in steps}

    def draw(axes) -> None:
        for panel, (name, members) in zip(axes, results.items(), strict=True):
            x = list(members)
            y = [[1000 * q for q in quartiles(t.wall)] for t, _ in members.values()]
            middle = [m for _, m, _ in y]
            error = [[m - low for low, m, _ in y], [high - m for _, m, high in y]]
            panel.errorbar(x, middle, error, marker="o", capsize=2)
            panel.set_ylim(0, 1.15 * max(high for _, _, high in y))
            panel.set_xlabel(name)
            twin = panel.twinx()
            work = [count / 1e9 for _, count in members.values()]
            twin.plot(x, work, "s--", color="tab:orange", markersize=4)
            twin.set_ylim(0, 1.15 * max(work))
            if panel is axes[0]:
                panel.set_ylabel("ms a step (line)")
            if panel is axes[-1]:
                twin.set_ylabel("GFLOPs (dashed)")

    sheet = Sheet(
        "growth",
        f"How a training step grows ({size})",
        ["what", "how much", "ms", "GFLOPs"],
        options.threads,
        draw,
        (18, 3.5),
        len(results),
    )
    for name, members in results.items():
        for n, (times, count) in members.items():
            milliseconds = spread(tuple(1000 * q for q in quartiles(times.wall)), 1)
            sheet.rows.append([name, str(n), milliseconds, f"{count / 1e9:.2f}"])
    sheet.notes.append(HOW.partition(" processor:")[0])
    return [sheet]
