"""Section `training_step`: one step of every method that 🤗 PEFT has too, against PEFT.

The same base, batch, dtype, threads and optimizer; a step is forward, backward and AdamW. Beside it
full fine-tuning, and the floor: the frozen base, forward and backward to its input, with a vector
added to the embeddings as the only thing that is trained. No method that reaches the first block
can do less, unless it leaves out work that changes nothing (section `savings`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    embedding = base.get_input_embeddings()
    base.shift = nn.Parameter(torch.zeros(embedding.embedding_dim, device=base.device))
    rest = {key: value for key, value in batch.items() if key != "input_ids"}

    def backward() -> None:
        vectors = embedding(batch["input_ids"]) + base.shift  # (B, T, C)
        base(inputs_embeds=vectors, **rest).loss.backward()

    return trained(base, backward)


def full(base: nn.Module, batch: dict) -> Callable[[], None]:
    """A training step of full fine-tuning, without any tuner."""
    base.train()
    return trained(base, lambda: base(**batch).loss.backward())


@dataclass
class Measured:
    """Of one method: the times of ours, PEFT's, full fine-tuning and the floor, and their FLOPs."""

    times: dict[str, Times]
    flops: dict[str, int]
    goal: float  # for the ratio to PEFT


def measure(
    cases: dict[str, tuple], base: Callable[[], nn.Module], batch: dict, rounds: int
) -> dict[str, Measured]:
    """Every case in turns with PEFT's, full fine-tuning and the floor.

    cases: as `methods` gives them.  base: makes the model, the same each time.
    """
    results = {}
    for name, (method, config, goal) in cases.items():
        steps = {
            "full": full(base(), batch),
            "ours": ours(base(), method, batch),
            "PEFT": theirs(base(), config, batch),
            "floor": floor(base(), batch),
        }
        counts = {key: flops(step) for key, step in steps.items()}
        times = take_turns(steps, rounds, warmup=1, label=name)
        results[name] = Measured(times, counts, goal)
    return results


def table(
    name: str, title: str, results: dict[str, Measured], options, device: str = "cpu"
) -> Sheet:
    """The sheet of these results."""
    head = ["method", "ours ms", "to PEFT", "goal", "processor", "to full", "over the floor"]
    head += ["GFLOPs", "of PEFT's", "of full", "over the floor"]

    def draw(axes) -> None:
        groups = {
            f"{who} / full fine-tuning": {
                name: ratio(one.times[who], one.times["full"]) for name, one in results.items()
            }
            for who in ("ours", "PEFT", "floor")
        }
        bars(axes, groups, "time of a training step", 1.0)

    height = 1.5 + 0.55 * len(results)  # inches
    sheet = Sheet(name, title, head, options.threads, draw, (8, height), device=device)
    for method, one in results.items():
        times, count = one.times, one.flops
        to_peft = ratio(times["ours"], times["PEFT"])
        over = [100 * (v - 1) for v in ratio(times["ours"], times["floor"])]
        sheet.rows.append(
            [
                method,
                milliseconds(times["ours"]),
                spread(to_peft),
                f"<= {one.goal:.2f} " + ("met" if round(to_peft[1], 2) <= one.goal else "missed"),
                f"{busy(times['ours'], times['PEFT']):.2f}",
                spread(ratio(times["ours"], times["full"])),
                spread(tuple(over), 0) + " %",
                f"{count['ours'] / 1e9:.1f}",
                f"{count['ours'] / count['PEFT']:.3f}",
                f"{count['ours'] / count['full']:.3f}",
                f"{100 * (count['ours'] / count['floor'] - 1):.1f} %",
            ]
        )
    floors = [ratio(one.times["floor"], one.times["full"])[1] for one in results.values()]
    rounds = {len(one.times["ours"].wall) for one in results.values()}
    sheet.notes += [
        f"{HOW} {'/'.join(map(str, rounds))} rounds.",
        f"floor: {sorted(floors)[len(floors) // 2]:.2f} of full fine-tuning; goal: at most 10 % "
        "over it for LoRA, IA3 and Prefix.",
    ]
    return sheet


def run(options) -> list[Sheet]:
    """A sheet with a training step of every method; --quick takes a tiny model."""
    size = Size.of(options)
    rounds = options.rounds or (2 if options.quick else 8)
    results = measure(methods(size.width), lambda: gpt2(size), batch_of(size), rounds)
    title = f"A training step of every method that PEFT has too ({size})"
    sheet = table("training_step", title, results, options, size.device)
    sheet.notes += [
        "All on c_attn as a whole, the only way that PEFT has there; LoRA on query and value is "
        "what minipeft does by itself, with an A of its own for each, compared with the same PEFT.",
        "On a processor the loss of every method is computed in the memory of the logits, where "
        "PEFT's fills three more tensors of their size (savings/cross_entropy.py): 3 to 5 % of "
        "the processors' time for a step of this size, most of it to get the memory.",
        "Of prompts the FLOPs tell what is left out; a part of it goes to running the shared words "
        "apart: a product with as few rows as they are does 0.6 times as much in a second as one "
        "with all the text.",
    ]
    return [sheet]
