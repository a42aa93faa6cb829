"""Section `training_step`: one step of every method that 🤗 PEFT has too, against PEFT.

The same base, batch, dtype, threads and optimizer; a step is forward, backward and AdamW. Beside it
full fine-tuning, and the floor: the frozen base, forward and backward to its input, with a vector
added to the embeddings as the only thing that is trained. No method that reaches the first block
can do less, unless it leaves out work that changes nothing (section `savings`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import minipeft as mp
from minipeft.training.loss import loss_of

from .bases import Size, batch_of, gpt2, trained, with_peft
from .measuring import HOW, Sheet, Times, bars, busy, flops, milliseconds, ratio, spread, take_turns

STEPS = 10_000  # AdaLoRA's run, of which we see the part where ranks are chosen
PROMPT = 20


def methods(C: int) -> dict[str, tuple]:
    """Name -> (ours, PEFT's config, the goal for the ratio to PEFT)."""
    import peft

    task = dict(task_type="CAUSAL_LM")
    prompt = dict(num_virtual_tokens=PROMPT, **task)
    lora = dict(r=8, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True, **task)
    ada = dict(init_r=12, target_r=8, lora_alpha=16, target_modules=["c_attn"], tinit=1, deltaT=1)
    ada |= dict(tfinal=STEPS // 10, total_step=STEPS, fan_in_fan_out=True, **task)
    ia3 = dict(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"])
    ia3 |= dict(fan_in_fan_out=True, **task)
    whole = dict(rank=8, targets=("qkv",))
    flat, mlp = (dict(length=PROMPT, hidden=hidden) for hidden in (None, C))
    projected = dict(prefix_projection=True, encoder_hidden_size=C, **prompt)
    half = dict(encoder_reparameterization_type="LSTM", encoder_hidden_size=C // 2, **prompt)
    prune = dict(warmup=1, final=STEPS // 10, targets=("qkv",))
    return {
        "LoRA": (mp.LoRA(**whole), peft.LoraConfig(**lora), 1.0),
        "LoRA on query and value": (mp.LoRA(rank=8), peft.LoraConfig(**lora), 1.0),
        "rsLoRA": (
            mp.LoRA(rank_stabilized=True, **whole),
            peft.LoraConfig(use_rslora=True, **lora),
            1.0,
        ),
        "DoRA": (mp.DoRA(**whole), peft.LoraConfig(use_dora=True, **lora), 1.0),
        "AdaLoRA": (mp.AdaLoRA(12, 8, **prune), peft.AdaLoraConfig(**ada), 1.0),
        "IA3": (mp.IA3(targets=("qkv", "down")), peft.IA3Config(**ia3), 1.0),
        "Prefix": (mp.Prefix(**flat), peft.PrefixTuningConfig(**prompt), 1.0),
        "Prefix with MLP": (mp.Prefix(**mlp), peft.PrefixTuningConfig(**projected), 1.0),
        "PromptTuning": (mp.PromptTuning(PROMPT), peft.PromptTuningConfig(**prompt), 0.87),
        "PTuning, LSTM": (mp.PTuning(PROMPT), peft.PromptEncoderConfig(**half), 0.87),
    }


def ours(base: nn.Module, method: mp.methods.method.Method, batch: dict) -> Callable[[], None]:
    """A step as `minipeft.train` takes it."""
    tuner = mp.attach(base.train(), method, seed=0)
    method.begin(tuner, STEPS)
    number = iter(range(2, STEPS))
    step = trained(base, lambda: loss_of(base, batch).backward())

    def whole() -> None:
        step()
        method.after_step(tuner, next(number), STEPS)

    return whole


def theirs(base: nn.Module, config, batch: dict) -> Callable[[], None]:
    """A training step as PEFT takes it."""
    model = with_peft(base, config).train()
    number = iter(range(2, STEPS))
    step = trained(model, lambda: model(**batch).loss.backward())

    def whole() -> None:
        step()
        if config.peft_type == "ADALORA":
            model.base_model.update_and_allocate(next(number))

    return whole


def floor(base: nn.Module, batch: dict) -> Callable[[], None]:
    """The frozen base and one vector, added to every embedding."""
    base.train().requires_grad_(False)
    base.shift = nn.Parameter(torch.zeros(base.config.n_embd, device=base.device))
    rest = {key: value for key, value in batch.items() if key != "input_ids"}

    def backward() -> None:
        vectors = base.transformer.wte(batch["input_ids"]) + base.shift  # (B, T, C)
        base(inputs_embeds=vectors, **rest).loss.backward()

    return trained(base, backward)


def full(base: nn.Module, batch: dict) -> Callable[[], None]:
    """A training step of full fine-tuning, without any tuner."""
    base.train()
    return trained(base, lambda: base(**batch).loss.backward())


def run(options) -> list[Sheet]:
    """A sheet with a training step of every method; --quick takes a tiny model."""
    size = Size.of(options)
    batch, rounds = batch_of(size), 2 if options.quick else 8
    all_times: dict[str, dict[str, Times]] = {}
    counts: dict[str, dict[str, int]] = {}
    for name, (method, config, _) in methods(size.width).items():
        steps = {
            "full": full(gpt2(size), batch),
            "ours": ours(gpt2(size), method, batch),
            "PEFT": theirs(gpt2(size), config, batch),
            "floor": floor(gpt2(size), batch),
        }
        counts[name] = {key: flops(step) for key, step in steps.items()}
        all_times[name] = take_turns(steps, rounds, warmup=1, label=name)
    head = ["method", "ours ms", "to PEFT", "goal", "processor", "to full", "over the floor"]
    head += ["GFLOPs", "of PEFT's", "of full", "over the floor"]

    def draw(axes) -> None:
        groups = {
            f"{who} / full fine-tuning": {
                name: ratio(times[who], times["full"]) for name, times in all_times.items()
            }
            for who in ("ours", "PEFT", "floor")
        }
        bars(axes, groups, "time of a training step", 1.0)

    sheet = Sheet(
        "training_step",
        f"A training step of every method that PEFT has too ({size})",
        head,
        options.threads,
        draw,
        (8, 7),
        device=size.device,
    )
    for name, times in all_times.items():
        count = counts[name]
        to_peft = ratio(times["ours"], times["PEFT"])
        over = [100 * (v - 1) for v in ratio(times["ours"], times["floor"])]
        goal = methods(size.width)[name][2]
        sheet.rows.append(
            [
                name,
                milliseconds(times["ours"]),
                spread(to_peft),
                f"<= {goal:.2f} " + ("met" if round(to_peft[1], 2) <= goal else "missed"),
                f"{busy(times['ours'], times['PEFT']):.2f}",
                spread(ratio(times["ours"], times["full"])),
                spread(tuple(over), 0) + " %",
                f"{count['ours'] / 1e9:.1f}",
                f"{count['ours'] / count['PEFT']:.3f}",
                f"{count['ours'] / count['full']:.3f}",
                f"{100 * (count['ours'] / count['floor'] - 1):.1f} %",
            ]
        )
    floors = [ratio(times["floor"], times["full"])[1] for times in all_times.values()]
    sheet.notes += [
        HOW,
        f"floor: {sorted(floors)[len(floors) // 2]:.2f} of full fine-tuning; goal: at most 10 % "
        "over it for LoRA, IA3 and Prefix.",
        "All on c_attn as a whole, the only way that PEFT has there; LoRA on query and value is "
        "what minipeft does by itself, with an A of its own for each, compared with the same PEFT.",
        "Where a goal is missed: LoRA and rsLoRA, ours and PEFT's, run the same operations, so "
        "what their ratios differ by is the noise of the machine. LoRA on query and value has two "
        "detours where PEFT has one. Of prompts the FLOPs tell what is left out; a part of it goes "
        "to running the shared words apart, and to attention that reads them through a mask.",
    ]
    return [sheet]
