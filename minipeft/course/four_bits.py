"""Lesson 13: what four bits do to weights, to a tuned model, to a real language model, to time.

errors(sources)                  # kind -> source -> relative error of every matrix
file_bits(weights, "nf4", folder)    # what a file of four bits takes
tuned(pair, method, task, ..)    # train, then merge, round, quantise again: exact match of each
piece_losses(model, pieces)      # nats per token of pieces of text
"""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.analysis.drift import full_precision
from minipeft.contexts import evaluating
from minipeft.course.claim_texts import TEXTS
from minipeft.course.runs import attached, loss_and_exact, quality, rows_of
from minipeft.doors.layers import is_map
from minipeft.methods.parts.quantization import Quantized
from minipeft.methods.qlora import QLoRA, quantized_patches, weight_of
from minipeft.tasks.tasks import Task
from minipeft.training.loop import train

NAMES = {"nf4": "NF4", "fp4": "FP4 (E2M1)", "int4": "int4", "fp4-e3m0": "FP4 (E3M0)"}
DOCUMENTED = ("argparse", "statistics", "difflib", "decimal", "threading", "tokenize")


def relative_error(weight: Tensor, kind: str, block: int = 64) -> float:
    """Root of the mean squared error of four bits, divided by that of the weights."""
    weight = weight.detach().float()
    rounded = Quantized(weight, kind, block).weight(torch.float32)
    return ((rounded - weight).square().mean() / weight.square().mean()).sqrt().item()


def block_maps(model: nn.Module) -> dict[str, Tensor]:
    """Path -> W (out, in) of every linear map inside a numbered block."""
    return {
        path: weight_of(module)
        for path, module in model.named_modules()
        if is_map(module) and any(part.isdigit() for part in path.split("."))
    }


def drawn(shape: str, seed: int, rows: int = 256) -> Tensor:
    """A matrix (rows, rows) of "normal" or "uniform" numbers."""
    generator = torch.Generator().manual_seed(seed)
    if shape == "uniform":
        return 2 * torch.rand(rows, rows, generator=generator) - 1
    return torch.randn(rows, rows, generator=generator)


def scaled(weights: Sequence[Tensor], block: int = 64) -> Tensor:
    """Every weight divided by the largest of its block: (n,), from -1 to 1."""
    blocks = torch.cat([w.detach().reshape(-1)[: w.numel() // block * block] for w in weights])
    blocks = blocks.view(-1, block)  # (blocks, block)
    return (blocks / blocks.abs().amax(dim=1, keepdim=True)).flatten()


def file_bits(weights: Mapping[str, Tensor], folder: str | Path, **settings) -> float:
    """Bits per weight of a safetensors file with these matrices in four bits; "kind", "double"."""
    tensors, numbers = {}, 0
    for path, weight in weights.items():
        quantized = Quantized(weight, **settings)
        numbers += quantized.numel()
        tensors |= {f"{path}.{name}": buffer for name, buffer in quantized.named_buffers()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = Path(folder) / "four_bits.safetensors"
    save_file(tensors, file)
    return 8 * file.stat().st_size / numbers


# -- time ------------------------------------------------------------------------------------------


@torch.no_grad()
def slower(rows: int, repeats: int, inside: int = 576, outside: int = 1536) -> list[float]:
    """Time of x W^T with W in NF4, divided by that in float32, measured in turns."""
    torch.manual_seed(0)
    weight, x = torch.randn(outside, inside), torch.randn(rows, inside)
    quantized = Quantized(weight)

    def seconds(multiply: Callable[[], Tensor]) -> float:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    seconds(lambda: quantized(x))  # the first pass is slow
    return [seconds(lambda: quantized(x)) / seconds(lambda: x @ weight.T) for _ in range(repeats)]


# -- after training --------------------------------------------------------------------------------


def tuned(
    pair: tuple[nn.Module, object], method, task: Task, rate: float, steps: int, seed: int,
    rows: int = 100, batch_size: int = 8,
) -> dict:  # fmt: skip
    """Train a LoRA or a QLoRA, then look at what becomes of it: exact match on test, by fate.

    "test": as it was trained.  "merged", "bf16": W + s B A, in float32 and rounded to bfloat16.
    "again": merged, then all maps in NF4.  "original": a QLoRA's A and B on the base in float32.
    """
    model, tokenizer = pair
    with attached(model, method, seed=seed) as tuner:
        batches = task.batches("train", tokenizer, batch_size=batch_size, seed=seed)
        train(model, batches, steps, rate, seed=seed, progress=False)

        def exact() -> float:
            return quality(model, tokenizer, task, "test", rows=rows)

        dev = loss_and_exact(model, rows_of(task, "dev", tokenizer, model, rows=rows))[0]
        result = {"dev": dev, "test": exact()}
        if quantized_patches(tuner):
            with full_precision(tuner):
                result["original"] = exact()
        tuner.merge()
        result["merged"] = exact()
        result["bf16"] = rounded(model, lambda w: w.bfloat16().float(), exact)
        result["again"] = rounded(model, lambda w: Quantized(w).weight(), exact)
        tuner.unmerge()
    return result


@torch.no_grad()
def rounded(model: nn.Module, rule: Callable[[Tensor], Tensor], then: Callable[[], float]) -> float:
    """What `then` gives while every map of the blocks holds rounded weights."""
    weights = block_maps(model)
    kept = {path: weight.clone() for path, weight in weights.items()}
    for weight in weights.values():
        weight.copy_(rule(weight))
    try:
        return then()
    finally:
        for path, weight in weights.items():
            weight.copy_(kept[path])


# -- a real language model -------------------------------------------------------------------------


def pieces(tokenizer, text: str, count: int, tokens: int = 96) -> Tensor:
    """The first pieces of a text: ids (count, tokens)."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
    count = min(count, len(ids) // tokens)
    return ids[: count * tokens].view(count, tokens)


def texts() -> dict[str, str]:
    """English that is on every machine: Python's own documentation, and the claims of this course,
    which are newer than the model."""
    documented = (importlib.import_module(name).__doc__ or "" for name in DOCUMENTED)
    return {
        "Python's documentation": " ".join(" ".join(text.split()) for text in documented),
        "the claims of this course": " ".join(text for text, *_ in TEXTS.values()),
    }


@torch.no_grad()
def piece_losses(model: nn.Module, ids: Tensor, at_once: int = 10) -> list[float]:
    """Nats per token of every piece (count, tokens); e to the mean of them is the perplexity."""
    losses = []
    with evaluating(model):
        for some in ids.split(at_once):
            logits = model(input_ids=some).logits[:, :-1]  # (n, tokens - 1, V)
            every = F.cross_entropy(logits.transpose(1, 2), some[:, 1:], reduction="none")
            losses += every.mean(dim=1).tolist()
    return losses


def perplexity(losses: Sequence[float]) -> float:
    """e to the mean of nats per token."""
    return math.exp(sum(losses) / len(losses))


def in_four_bits(model: nn.Module, kinds: Sequence[str], ids: Tensor) -> dict[str, dict]:
    """Kind -> losses of the pieces, and relative errors of some maps, all maps in four bits.

    The model is used as QLoRA would before its first step, and is the same afterwards.
    """
    results = {}
    few = [path for i, path in enumerate(block_maps(model)) if i % 10 == 0]
    for kind in kinds:
        with attached(model, QLoRA(rank=1, targets=("query",), quantize=kind), seed=0) as tuner:
            patches = quantized_patches(tuner)
            stored = sum(patch.replacement.stored_bytes() for patch in patches)
            results[kind] = {"losses": piece_losses(model, ids), "bytes": stored}
        weights = block_maps(model)
        results[kind]["errors"] = [relative_error(weights[path], kind) for path in few]
    return results
