"""Section `startup`: how long it takes to import the package, and to attach to a large model.

Importing is measured in fresh processes, in turns. Attaching is measured on a Llama shape of about
1 B parameters on the meta device, where tensors have no numbers, so that only our own work counts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import minipeft as mp

from .bases import with_peft
from .measuring import Sheet, bars, quartiles, spread

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {
    "torch": "import torch",
    "minipeft": "import minipeft",
    "peft": "import peft",
}
CODE = "import time; s = time.perf_counter(); {}; print(time.perf_counter() - s)"


def importing(rounds: int) -> dict[str, list[float]]:
    """Seconds of each import, in processes of their own; the files are in the disk cache."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for number in range(rounds):
        for name, line in IMPORTS.items():
            command = [sys.executable, "-c", CODE.format(line)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            if number or rounds == 1:  # the first round warms the cache
                seconds[name].append(float(done.stdout))
    return seconds


def llama(small: bool):
    """1.2 B parameters without numbers."""
    import transformers

    numbers = dict(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32)
    numbers |= dict(num_key_value_heads=8, intermediate_size=8192, vocab_size=128_256)
    if small:
        numbers |= dict(hidden_size=64, num_hidden_layers=2, intermediate_size=128, vocab_size=64)
    with torch.device("meta"):
        config = transformers.LlamaConfig(tie_word_embeddings=True, **numbers)
        return transformers.LlamaForCausalLM(config)


def attaching(small: bool, rounds: int) -> tuple[int, dict[str, list[float]]]:
    """The model's parameters, and the seconds of attach (and detach)."""
    import peft

    model = llama(small)
    count = sum(p.numel() for p in model.parameters())
    methods = {
        "LoRA on every linear map": mp.LoRA(targets=("all-linear",)),
        "Prefix": mp.Prefix(20, hidden=None),
        "PromptTuning": mp.PromptTuning(20),
        "IA3": mp.IA3(),
    }
    seconds: dict[str, list[float]] = {}

    def clock(name: str, call: Callable):
        start = time.perf_counter()
        result = call()
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    for _ in range(rounds):
        for name, method in methods.items():
            tuner = clock(f"attach {name}", lambda m=method: mp.attach(model, m, seed=0))
            clock(f"detach {name}", tuner.detach)
        config = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
        fresh = llama(small)
        clock("PEFT: LoRA on every linear map", lambda f=fresh, c=config: with_peft(f, c))
    return count, seconds


def run(options) -> list[Sheet]:
    """A sheet with the seconds of every import and of every attach."""
    rounds = 1 if options.quick else 4
    imports = importing(rounds)
    count, attached = attaching(options.quick, rounds)
    seconds = {f"import {name}": values for name, values in imports.items()} | attached
    sheet = Sheet(
        "startup",
        f"Seconds to import, and to attach to a Llama shape of {count / 1e9:.2f} B parameters",
        ["what", "seconds"],
        options.threads,
        lambda axes: bars(axes, {"": {n: quartiles(v) for n, v in seconds.items()}}, "seconds"),
        (8, 4),
    )
    sheet.rows = [[name, spread(quartiles(values), 3)] for name, values in seconds.items()]
    pairs = zip(imports["minipeft"], imports["torch"], strict=True)
    over = quartiles([a - b for a, b in pairs])
    sheet.rows.insert(2, ["minipeft over torch", spread(over, 3)])
    sheet.notes.append(
        "Medians, quartiles in brackets; imports in fresh processes in turns. Attaching makes the "
        "patches on the processor and moves them; the base is on the meta device."
    )
    return [sheet]
