"""Section `savings`: work that `minipeft.train` leaves out because it changes nothing.

The modules of minipeft/training/savings: the language head at labelled tokens only
(labelled_positions.py), what all rows begin with run once (shared_prompt.py), and, if asked, the
frozen blocks below what is trained from the second epoch on (kept_trunk.py). All exact, tested to
1e-6. Measured with and without, on the same model and batch; without is `model(**batch).loss`.
"""

from __future__ import annotations

from collections.abc import Callable

import minipeft as mp
from minipeft.routing import wrap
from minipeft.training.savings.kept_trunk import Trunk
from minipeft.training.savings.labelled_positions import labelled_loss
from minipeft.training.savings.shared_prompt import shared_loss

from .bases import Size, batch_of, gpt2, trained
from .measuring import HOW, Sheet, bars, busy, flops, milliseconds, ratio, spread, take_turns


def trunk_kept() -> Callable:
    """The loss as in all epochs after the first."""
    made: list[Trunk] = []

    def loss(model, batch):
        if not made:
            made.append(Trunk(model, [batch], dict))
        with made[0].of(0):
            return model(**batch).loss

    return loss


def run(options) -> list[Sheet]:
    """A sheet with every saving; --quick takes a tiny model."""
    size = Size.of(options)
    T = size.tokens
    cases = {  # name: (method, tokens that are not asked, the loss that leaves work out)
        "LoRA, labels on the last half": (mp.LoRA(rank=8), T // 2, labelled_loss),
        "LoRA, labels on the last eighth": (mp.LoRA(rank=8), T - T // 8, labelled_loss),
        "PromptTuning, labels on all": (mp.PromptTuning(20), 0, shared_loss),
        "PromptTuning, labels on the last eighth": (mp.PromptTuning(20), T - T // 8, shared_loss),
        "PTuning, labels on all": (mp.PTuning(20), 0, shared_loss),
        "TopLayers(1), trunk kept": (mp.TopLayers(1), 0, trunk_kept()),
        "LoRA on the upper half, trunk kept": (
            mp.LoRA(rank=8, layers=tuple(range(size.layers // 2, size.layers))),
            *(0, trunk_kept()),
        ),
    }
    results = {}
    for name, (method, question, short) in cases.items():
        batch = batch_of(size)
        labels = batch["labels"].clone()
        labels[:, :question] = -100
        batch = batch | {"labels": labels}
        model = gpt2(size)
        mp.attach(model.train(), method, seed=0)
        steps = {
            "with": trained(
                model, lambda m=model, b=batch, short=short: short(m, wrap(m, b)).backward()
            ),
            "without": trained(model, lambda m=model, b=batch: m(**b).loss.backward()),
        }
        difference = abs(short(model, wrap(model, batch)).item() - model(**batch).loss.item())
        counts = [flops(step) for step in steps.values()]
        results[name] = take_turns(steps, 2 if options.quick else 8, label=name), counts, difference
    ratios = {name: ratio(t["with"], t["without"]) for name, (t, _, _) in results.items()}
    sheet = Sheet(
        "savings",
        f"Work that is left out because it changes nothing ({size})",
        ["case", "with ms", "without ms", "with / without", "processor", "FLOPs", "losses apart"],
        options.threads,
        lambda axes: bars(axes, {"": ratios}, "time of a step with / without the saving", 1.0),
        (8, 3),
    )
    for name, (times, counts, difference) in results.items():
        saving, plain = times["with"], times["without"]
        sheet.rows.append(
            [
                name,
                milliseconds(saving),
                milliseconds(plain),
                spread(ratios[name]),
                f"{busy(saving, plain):.2f}",
                f"{counts[0] / counts[1]:.3f}",
                f"{difference:.0e}",
            ]
        )
    sheet.notes.append(HOW)
    return [sheet]
