"""Section `inference`: what tuners cost when nothing is trained, and many of them in one batch.

`inference` has a forward pass without gradients, each method against the plain base. Merged, a
tuner is the base: the same operations, no door in the way.

`mixed_batch` has 16 rows, each with a LoRA of its own (`minipeft.route`), against 16 passes of one
row, against one LoRA for all rows, and against 🤗 PEFT's mixed batch (`adapter_names`). With one
token per row it is a step of generation, where a pass reads all weights for little arithmetic. With
more, arithmetic takes the time, and 16 passes of the base alone, without any LoRA, are not
4 times one pass of 16 rows either: that ratio, the most that batching can give, stands beside.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import minipeft as mp

from .bases import Size, batch_of, gpt2, with_peft
from .measuring import HOW, Sheet, bars, busy, flops, milliseconds, ratio, spread, take_turns

TENANTS = 16
METHODS = {
    "merged LoRA": mp.LoRA(rank=8, targets=("qkv",)),
    "LoRA": mp.LoRA(rank=8, targets=("qkv",)),
    "Adapter": mp.Adapter(bottleneck=16),
    "IA3": mp.IA3(),
    "Prefix": mp.Prefix(length=20, hidden=None),
    "PromptTuning": mp.PromptTuning(length=20),
}


def passing(model: nn.Module, batch: dict, **options) -> Callable[[], None]:
    """A forward pass without labels and without gradients."""
    model.eval().requires_grad_(False)
    inputs = {key: value for key, value in batch.items() if key != "labels"} | options

    def step() -> None:
        with torch.no_grad():
            model(**inputs)

    return step


def lora():
    """The LoRA of METHODS as a config of PEFT."""
    import peft

    return peft.LoraConfig(
        r=8, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )


def one_at_a_time(options) -> Sheet:
    """Every method, at batch 1 and 32."""
    size, tokens = Size.of(options), 8 if options.quick else 64
    models = {"base": gpt2(size)}
    for name, method in METHODS.items():
        models[name] = gpt2(size)
        tuner = mp.attach(models[name], method, seed=0)
        if name.startswith("merged"):
            tuner.merge()
    models["LoRA, PEFT"] = with_peft(gpt2(size), lora())
    merged = [type(module) for module in models["merged LoRA"].modules()]
    same = merged == [type(module) for module in models["base"].modules()]
    results = {}
    for rows, rounds in ((1, 30), (32, 8)):
        batch = batch_of(size, rows, tokens)
        steps = {name: passing(model, batch) for name, model in models.items()}
        results[rows] = (
            take_turns(steps, 2 if options.quick else rounds, label=f"batch {rows}"),
            {name: flops(step) for name, step in steps.items()},
        )

    def draw(axes) -> None:
        groups = {
            f"batch {rows}": {name: ratio(t, times["base"]) for name, t in times.items()}
            for rows, (times, _) in results.items()
        }
        bars(axes, groups, "time of a forward pass / of the base", 1.0)

    sheet = Sheet(
        "inference",
        f"A forward pass, {tokens} tokens a row ({str(size).rpartition(', batch')[0]}, fp32)",
        ["method", "batch", "ms", "to the base", "processor", "FLOPs to the base"],
        options.threads,
        draw,
        device=size.device,
    )
    for rows, (times, counts) in results.items():
        for name in models:
            sheet.rows.append(
                [
                    name,
                    str(rows),
                    milliseconds(times[name]),
                    spread(ratio(times[name], times["base"])),
                    f"{busy(times[name], times['base']):.2f}",
                    f"{counts[name] / counts['base']:.3f}",
                ]
            )
    sheet.notes.append(HOW)
    words = "the same modules and the same operations" if same else "NOT the same modules"
    sheet.notes.append(f"merged: {words} as the base.")
    return sheet


def mixed(options) -> Sheet:
    """A LoRA for every row, in one pass."""
    size = Size.of(options)
    names = [f"tenant{number}" for number in range(TENANTS)]
    base, one, plain = gpt2(size), gpt2(size), gpt2(size)
    for number, name in enumerate(names):
        mp.attach(base, mp.LoRA(rank=8, targets=("qkv",)), name=name, seed=number)
    mp.attach(one, mp.LoRA(rank=8, targets=("qkv",)), seed=0)
    theirs = with_peft(gpt2(size), lora())
    for name in names:
        theirs.add_adapter(name, lora())
    results = {}
    for tokens, rounds in ((1, 25), (16, 20), (64, 10)):
        batch = batch_of(size, TENANTS, tokens)
        whole = passing(base, batch)
        single = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(TENANTS)]
        rows = [passing(base, row) for row in single]
        bare = [passing(plain, row) for row in single]

        def together(whole=whole) -> None:
            with mp.route(base, names):
                whole()

        def separately(rows=rows) -> None:
            for name, row in zip(names, rows, strict=True):
                with mp.route(base, [name]):
                    row()

        def without(rows=bare) -> None:
            for row in rows:
                row()

        steps = {
            "base": passing(plain, batch),
            "base separate": without,
            "mixed": together,
            "separate": separately,
            "one tuner": passing(one, batch),
            "PEFT mixed": passing(theirs, batch, adapter_names=names),
        }
        rounds = 2 if options.quick else rounds
        results[tokens] = take_turns(steps, rounds, label=f"{tokens} tokens")

    def draw(axes) -> None:
        groups = {
            f"{tokens} tokens": {
                name: ratio(t, times["one tuner"])
                for name, t in times.items()
                if "separate" not in name
            }
            for tokens, times in results.items()
        }
        bars(axes, groups, "time / one LoRA for all rows", 1.0)

    sheet = Sheet(
        "mixed_batch",
        f"{TENANTS} rows with {TENANTS} different LoRAs in one pass "
        f"({str(size).rpartition(', batch')[0]}, fp32)",
        ["tokens", "mixed ms", "16 passes / mixed", "goal", "the base: 16 passes / one"]
        + ["mixed / one LoRA", "goal ", "PEFT's mixed / one LoRA", "ours / PEFT's"],
        options.threads,
        draw,
        device=size.device,
    )
    for tokens, times in results.items():
        faster = ratio(times["separate"], times["mixed"])
        slower = ratio(times["mixed"], times["one tuner"])
        sheet.rows.append(
            [
                str(tokens),
                milliseconds(times["mixed"]),
                spread(faster, 1),
                ">= 4 " + ("met" if faster[1] >= 4 else "missed"),
                spread(ratio(times["base separate"], times["base"]), 1),
                spread(slower),
                "<= 1.3 " + ("met" if round(slower[1], 2) <= 1.3 else "missed"),
                spread(ratio(times["PEFT mixed"], times["one tuner"])),
                spread(ratio(times["mixed"], times["PEFT mixed"])),
            ]
        )
    sheet.notes.append(HOW.partition(" processor:")[0])
    sheet.notes.append(
        "Where a goal is missed: 16 passes of the base are no more than so many times one pass of "
        "16 rows (its column), and no adapter can be batched better than its base. With one token "
        "a row the pass is short, and putting 16 pairs of matrices together in each layer is not."
    )
    return sheet


def run(options) -> list[Sheet]:
    """A sheet for one method at a time, and one for a batch with many tuners."""
    return [one_at_a_time(options), mixed(options)]
