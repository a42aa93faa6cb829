"""Section `side_by_side`: eight LoRAs trained in one pass, against one after another.

tiny-decoder, two learning rates and four seeds. Both ways see the same batches and reach the same
losses up to rounding (checked here, tested in tests/minipeft/test_side_by_side.py).
"""

from __future__ import annotations

from functools import partial

import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft.training.sweep import Run, train_side_by_side

from .measuring import HOW, Sheet, bars, flops, milliseconds, ratio, spread, take_turns

SHAPES = ((2, 24), (4, 24), (16, 24), (16, 64))  # rows, tokens of each run's batch


def run(options) -> list[Sheet]:
    """The gain at several sizes of a run's own batch."""
    model, _ = tt.load("tiny-decoder")
    method, steps = mp.LoRA(rank=4), 2 if options.quick else 8
    runs = [Run(method, rate, seed) for seed in range(4) for rate in (3e-3, 1e-2)]
    shapes = SHAPES[:1] if options.quick else SHAPES
    timed, counts = {}, {}
    for rows, tokens in shapes:
        generator = torch.Generator().manual_seed(0)
        batches = torch.randint(14, 800, (4, steps, rows, tokens), generator=generator)

        def batch_of(seed, step, batches=batches) -> dict:
            ids = batches[seed, step]
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

        losses: dict[str, list] = {}

        def together(batch_of=batch_of, losses=losses) -> None:
            results = train_side_by_side(model, runs, batch_of, steps, progress=False)
            losses["together"] = [result.losses for result in results]

        def one_after_another(batch_of=batch_of, losses=losses) -> None:
            losses["one after another"] = []
            for one in runs:
                tuner = mp.attach(model, one.method, head=False, seed=one.seed)
                history = mp.train(
                    model,
                    partial(batch_of, one.seed),
                    steps,
                    one.learning_rate,
                    progress=False,
                )
                losses["one after another"].append(history.losses)
                tuner.detach()

        both = {"one after another": one_after_another, "together": together}
        counts[rows, tokens] = {name: flops(step) for name, step in both.items()}
        pair = [torch.tensor(losses[name]) for name in both]
        far = (pair[0] - pair[1]).abs().max().item()
        if far > 1e-3:
            raise SystemExit(f"side by side: the runs learn something else ({far:.1e} apart).")
        rounds = 2 if options.quick else 5
        timed[rows, tokens] = take_turns(both, rounds, warmup=1, label=f"{rows} x {tokens}"), far
    sheet = Sheet(
        "side_by_side",
        f"{len(runs)} LoRAs trained side by side and one after another (tiny-decoder)",
        ["batch of a run", "together, ms a step", "gain", "goal", "GFLOPs together / apart"]
        + ["losses apart"],
        options.threads,
        lambda axes: bars(
            axes,
            {"": {f"{b} x {t}": ratio(*times.values()) for (b, t), (times, _) in timed.items()}},
            "time one after another / time together",
            2.0,
        ),
        (8, 3),
    )
    for (rows, tokens), (times, far) in timed.items():
        gain = ratio(times["one after another"], times["together"])
        per_step = times["together"]
        per_step.wall = [seconds / steps for seconds in per_step.wall]
        count = counts[rows, tokens]
        sheet.rows.append(
            [
                f"{rows} x {tokens}",
                milliseconds(per_step),
                spread(gain),
                ">= 2 " + ("met" if gain[1] >= 2 else "missed"),
                f"{count['together'] / count['one after another']:.2f}",
                f"{far:.0e}",
            ]
        )
    sheet.notes.append(HOW.partition(" processor:")[0])
    sheet.notes.append(
        "Where a goal is missed: the arithmetic is the same either way (GFLOPs). What one pass "
        "saves is the cost of starting many small operations, and with larger batches that is no "
        "longer what takes the time."
    )
    return [sheet]
