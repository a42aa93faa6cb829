"""How many bytes a training step needs at 70 B parameters: counted, on a device without memory.

    python -m minipeft.analysis.sizes          prints the table of docs/at_70b.md

torch's "meta" device knows shapes only. A model with one layer and one with two are built there,
LoRA is attached, a forward pass is run, and what autograd keeps for the backward pass is counted.
All of it grows in a straight line with the layers, so the line goes on to the 80th.

Shapes: L layers, T tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from minipeft.report import Table

LAYERS, TOKENS, CARD = 80, 2048, 80e9  # CARD: bytes of memory of one accelerator
SHAPE = dict(  # of Llama 3 70B
    **dict(vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_attention_heads=64),
    **dict(num_key_value_heads=8, max_position_embeddings=8192, tie_word_embeddings=False),
)
TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8  # bytes per number: 4 bits, blocks of 64, scales quantized


@dataclass(frozen=True)
class Counts:
    """Of one model. linear: numbers in the maps inside layers.  kept: bytes for the backward."""

    base: int
    linear: int
    trained: int
    tensors: int
    kept: int

    def at(self, other: Counts, layers: int) -> Counts:
        """self has one layer and other two: the same for any number of layers."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Counts(*(one + (layers - 1) * (two - one) for one, two in pairs))


def count(layers: int, rank: int | None, shape: dict = SHAPE, tokens: int = TOKENS) -> Counts:
    """Counts of a Llama with LoRA of that rank on all linear maps; None: all of it is trained."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from minipeft.methods.lora import LoRA
    from minipeft.tuner import attach

    config = LlamaConfig(num_hidden_layers=layers, **shape)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    base = sum(p.numel() for p in model.parameters())
    maps = [m for m in model.model.layers.modules() if isinstance(m, nn.Linear)]
    linear = sum(m.weight.numel() for m in maps)
    if rank is not None:
        attach(model, LoRA(rank=rank, targets=TARGETS))
    trained = [p for p in model.parameters() if p.requires_grad]
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    # without a cache transformers looks for packed rows, by values that are not there
    activations = kept(model, lambda: model.train()(input_ids=ids, labels=ids, use_cache=True))
    return Counts(base, linear, sum(map(torch.numel, trained)), len(trained), activations)


def kept(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps of what `run` computes: every storage once, the model's own not."""
    held = [*model.parameters(), *model.buffers()]
    known = {t.untyped_storage()._cdata for t in held}
    seen: dict[int, torch.UntypedStorage] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            seen[storage._cdata] = storage  # holding it, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()  # noqa: F841  its graph lives until here
    return sum(storage.nbytes() for storage in seen.values())


def columns(
    layers: int = LAYERS, rank: int = 16, shape: dict = SHAPE, tokens: int = TOKENS
) -> dict[str, dict[str, float]]:
    """Way of training -> what -> bytes (numbers in training and cards: how many)."""
    by_way = {}
    for name, r, bits in (("full", None, 16), ("LoRA", rank, 16), ("QLoRA", rank, 4)):
        one, two = count(1, r, shape, tokens), count(2, r, shape, tokens)
        n = one.at(two, layers)
        inputs = layers * tokens * shape["hidden_size"] * 2  # (L, T, C) in bf16
        base = 2 * n.base if bits == 16 else 2 * (n.base - n.linear) + NF4 * n.linear
        patches = 0 if r is None else 4 * n.trained  # patches are float32
        rows = {
            "weights, frozen and new": base + patches,
            "numbers in training": n.trained,
            "gradients": (2 if r is None else 4) * n.trained,
            # AdamW's two moments in float32; full training in bf16 adds a float32 copy
            "optimizer": (12 if r is None else 8) * n.trained,
            "activations, all kept": n.kept,
            "activations, layers run again": one.kept + inputs,
        }
        rows["sum, layers run again"] = sum(
            rows[key] for key in rows if key[:4] in ("weig", "grad", "opti") or "run again" in key
        )
        rows["cards of 80 GB, at least"] = -(-rows["sum, layers run again"] // CARD)
        # what `distributed.MultiProcess.reduce` sums; in full training the engines sum bf16
        rows["summed over processes per step"] = (
            2 * n.trained if r is None else 4 * (n.trained + n.tensors + 2)
        )
        rows["fetched per step, base sharded on 8"] = 2 * base * 7 / 8  # forward and backward
        rows["a checkpoint of what is trained"] = (2 if r is None else 4) * n.trained
        by_way[name] = rows
    return by_way


def text(what: str, value: float) -> str:
    """A number as the table shows it."""
    if "cards" in what:
        return f"{value:.0f}"
    if "numbers" in what:
        return f"{value / 1e6:,.1f} M"
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"


def table() -> Table:
    """The table of docs/at_70b.md."""
    by_way = columns()
    rows = [(what, *(text(what, by_way[way][what]) for way in by_way)) for what in by_way["full"]]
    title = f"Llama 3 70B, {TOKENS} tokens a process (GB = 10^9 bytes)"
    return Table(title, ("", "full, bf16", "LoRA r=16, bf16", "LoRA r=16 on NF4"), rows)


if __name__ == "__main__":
    print(table())
