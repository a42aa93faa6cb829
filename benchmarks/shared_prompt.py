"""Section `shared_prompt`: a step with a soft prompt; what rows share run once, or in every row.

minipeft/training/savings/shared_prompt.py runs it once where that pays: always on a processor, on
an accelerator from so many spared tokens on. Both ways are forced, and stand beside 🤗 PEFT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from unittest.mock import patch

import minipeft as mp
from minipeft.training.savings import shared_prompt

from .bases import Size, batch_of, gpt2
from .measuring import HOW, Sheet, bars, milliseconds, ratio, spread, take_turns
from .training_step import ours, theirs


def forced(step: Callable[[], None], once: bool) -> Callable[[], None]:
    """The step, its shared tokens run once or not, whatever pays."""

    def whole() -> None:
        with patch.object(shared_prompt, "pays", lambda device, spared: once):
            step()

    return whole


def run(options) -> list[Sheet]:
    """A sheet with every size of prompt, text and batch; --quick takes a tiny model."""
    import peft

    base = Size.of(options)
    on_device = options.device != "cpu" and not options.quick
    lengths, tokens, rows = (
        ((20, 100), (32, 128, 512), (4, 32)) if on_device else ((20,), (32,), (4, 16))
    )
    head = ["prompt", "tokens", "rows", "spared", "once ms", "per row ms", "PEFT ms"]
    head += ["once / PEFT", "per row / PEFT"]
    title = (
        f"What the rows share run once, or in every row ({base.layers} layers, width {base.width})"
    )
    results, lines = {}, []
    for P, T, B in product(lengths, tokens, rows):
        size = replace(base, rows=B, tokens=T)
        batch = batch_of(size)
        config = peft.PromptTuningConfig(num_virtual_tokens=P, task_type="CAUSAL_LM")
        steps = {
            "once": forced(ours(gpt2(size), mp.PromptTuning(P), batch), True),
            "per row": forced(ours(gpt2(size), mp.PromptTuning(P), batch), False),
            "PEFT": theirs(gpt2(size), config, batch),
        }
        times = take_turns(steps, 2 if options.quick else 8, label=f"{P}, {T}, {B}")
        ratios = {name: ratio(times[name], times["PEFT"]) for name in ("once", "per row")}
        spared = P * (B - 1)
        results[f"P {P}, T {T}, B {B}"] = ratios
        lines.append([*map(str, (P, T, B, spared)), *map(milliseconds, times.values())])
        lines[-1] += [spread(one) for one in ratios.values()]
    groups = {
        f"{way} / PEFT": {name: ratios[way] for name, ratios in results.items()}
        for way in ("once", "per row")
    }
    sheet = Sheet(
        "shared_prompt",
        title,
        head,
        options.threads,
        lambda axes: bars(axes, groups, "time of a training step", 1.0),
        (8, 1.5 + 0.55 * len(results)),
        device=base.device,
    )
    sheet.rows += lines
    sheet.notes += [
        HOW,
        "Running the shared tokens once is a second pass through the layers. An accelerator pays "
        f"for it in launches of kernels; there, `train` does it from {shared_prompt.WORTH:,} "
        "spared tokens on.",
    ]
    return [sheet]
