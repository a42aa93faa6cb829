"""Lesson 13: where the bytes of a training step are, predicted from shapes and then measured.

predicted(model, "LoRA", rows, tokens)    # "weights", "activations", "peak", ..: from shapes alone
watch(model, batch)                       # the same from a real step, and from torch's allocator
runs_of_one_step()                        # five ways to compute layers again, some of them broken

Shapes: B rows, T tokens, C width, H heads, I inner width, L layers, V words, r rank.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.checkpoint import checkpoint

import tiny_transformer as tt
from minipeft.analysis.sizes import SHAPE, columns, kept, text
from minipeft.contexts import seeded
from minipeft.course.runs import attached
from minipeft.course.transfer import training_bytes
from minipeft.methods.lora import LoRA
from minipeft.methods.method import Method
from minipeft.report import Table
from minipeft.routing import wrap
from minipeft.training.optimizer import adamw, trainable
from minipeft.training.precision import Precision
from minipeft.tuner import attach
from tiny_transformer.layers import Block
from tiny_transformer.models import Output

PHASES = ("forward", "backward", "optimizer")

# -- predicted -------------------------------------------------------------------------------------


def numbers_kept(config, way: str, rank: int = 8) -> int:
    """Numbers that one token leaves behind in one block of tiny_transformer for the backward pass.

    way: "full" (everything is trained), "frozen" (nothing in the block is), "LoRA" (beside query
    and value) or "LoRA on all maps".

    A linear map y = W x needs x for dL/dW alone; dL/dx needs W, which is in memory anyway. So a
    frozen map keeps nothing. LayerNorm, attention and the activation keep theirs either way.
    """
    C, H, inner = config.width, config.heads, config.inner_width
    # two norms; q, k, v and their mix; its softmax; before the activation
    always = 2 * (C + 2) + 4 * C + H + inner
    before_the_maps = {
        "frozen": 0,
        "LoRA": C,  # what query and value read
        "LoRA on all maps": 2 * C + inner,  # before q k v, before up, before down
        "full": 2 * C + inner,
    }[way]
    behind_A = {"LoRA": 2 * rank, "LoRA on all maps": 6 * rank}.get(way, 0)
    return always + before_the_maps + behind_A


def activations(config, way: str, rows: int, tokens: int, rank: int = 8) -> int:
    """Bytes that autograd keeps of a forward pass in float32, every token labelled, no padding."""
    C, V, L = config.width, config.vocab_size, config.layers
    per_token = L * numbers_kept(config, way, rank) + C + 2 + V  # the last norm, the softmax
    per_token += C if way == "full" else 0  # what the words' matrix reads at the end
    per_token -= C + 2 if way.startswith("LoRA") else 0  # below the first patch nothing is needed
    ids = 8 * (3 if way == "full" else 1)  # words, positions; the labels
    return rows * tokens * (4 * per_token + ids) + 4


def predicted(model: nn.Module, way: str, rows: int, tokens: int, rank: int = 8) -> dict[str, int]:
    """Bytes by part, and their "peak".

    Weights and means are there all the time. On top of them come either the gradients, or what the
    forward kept, with two tensors (B, T, V) while the loss is differentiated: the widest ones that
    there are as long as V is larger than 2 I.
    """
    parts = training_bytes(model)
    parts["activations"] = activations(model.config, way, rows, tokens, rank)
    loss = 2 * 4 * rows * tokens * model.config.vocab_size
    step = max(parts["activations"] + loss, parts["gradients"])
    return parts | {"peak": parts["weights"] + parts["adam"] + step}


# -- measured --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Footprint:
    """Bytes of one step. levels: phase -> what is allocated on top of weights and Adam's means,
    after every allocation and release of the phase."""

    weights: int
    gradients: int
    adam: int
    activations: int
    levels: dict[str, list[int]]

    @property
    def peak(self) -> int:
        return self.weights + self.adam + max(max(row) for row in self.levels.values() if row)

    @property
    def summit(self) -> str:
        """Where in the step the peak lies, in words."""
        phase = max(self.levels, key=lambda name: max(self.levels[name], default=0))
        row = self.levels[phase]
        place = row.index(max(row)) / len(row)
        where = "beginning" if place < 0.1 else "end" if place > 0.9 else "middle"
        return f"at the {where} of the {phase} {'step' if phase == 'optimizer' else 'pass'}"


def watch(model: nn.Module, batch: dict[str, Tensor]) -> Footprint:
    """Take two steps of AdamW and look at the second, when its means exist.

    Weights, gradients and means are tensors that are added up; "activations" is what autograd
    keeps; the levels come from torch's allocator, which knows nothing of these names.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=False)
    model.train()
    model(**batch).loss.backward()
    optimizer.step()
    gradients = sum(p.grad.nbytes for p in trained if p.grad is not None)
    optimizer.zero_grad()
    activations = kept(model, lambda: model(**batch).loss)
    with recorded() as record:
        with record_function("forward"):
            loss = model(**batch).loss
        with record_function("backward"):
            loss.backward()
        with record_function("optimizer"):
            optimizer.step()
        optimizer.zero_grad()
        del loss
    means = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    return Footprint(
        sum(p.nbytes for p in model.parameters()),
        gradients,
        sum(t.nbytes for t in means),
        activations,
        levels(record),
    )


@contextmanager
def recorded() -> Iterator[profile]:
    """torch's profiler with its eyes on memory; what its native code says to stderr is dropped."""
    sys.stderr.flush()
    kept_open, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            yield record
    finally:
        os.dup2(kept_open, 2)
        os.close(kept_open)
        os.close(nowhere)


def levels(record: profile) -> dict[str, list[int]]:
    """Phase -> allocated bytes after every event of torch's allocator."""
    events = sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    begins = {event.name(): event.start_ns() for event in events if event.name() in PHASES}
    rows: dict[str, list[int]] = {phase: [] for phase in PHASES}
    now = 0
    for event in events:
        if event.name() != "[memory]":
            continue
        now += event.nbytes()
        reached = [phase for phase in PHASES if event.start_ns() >= begins[phase]]
        rows[(reached or ["forward"])[-1]].append(now)
    return rows


def footprint(
    model: nn.Module, method: Method, rows: int, tokens: int, again: bool = False
) -> Footprint:
    """`watch` with a method attached for the time being; the model is the same afterwards.

    again: with gradient checkpointing.
    """
    batch = random_batch(model.config, rows, tokens)
    model.gradient_checkpointing = again
    try:
        with attached(model, method, seed=0):
            return watch(model, wrap(model, batch))
    finally:
        model.gradient_checkpointing = False
        model.eval()


def random_batch(config, rows: int, tokens: int) -> dict[str, Tensor]:
    """Random words, all of them labelled, none of them padding: ids (rows, tokens)."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (rows, tokens), generator=generator)
    return {"input_ids": ids, "labels": ids.clone()}


def mixed_precision(model: nn.Module, method: Method, batch: dict[str, Tensor]) -> dict[str, int]:
    """Bytes of one step on a bfloat16 model, as `mp.train` takes it: every tensor is added up.

    "weights" and "gradients" are the model's; "float32 copies" and "Adam's means" the optimizer's;
    "activations" are what autograd keeps.
    """
    with attached(model, method, seed=0):
        activations = kept(model.train(), lambda: model(**wrap(model, batch)).loss)
        precision = Precision(model, trainable(model))
        optimizer = adamw(model, precision, 1e-3, (0.9, 0.999), 0.0)
        model.train()(**wrap(model, batch)).loss.backward()
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        precision.gather()
        optimizer.step()
        means = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
        copies = [precision.parameters[name] for name in precision.half]
        result = {
            "weights": sum(p.nbytes for p in model.parameters()),
            "gradients": gradients,
            "float32 copies": sum(p.nbytes for p in copies),
            "Adam's means": sum(t.nbytes for t in means),
            "activations": activations,
        }
        precision.clear()
    model.eval()
    return result


def large_ledger(config, rows: int, tokens: int, rank: int = 16) -> Table:
    """Bytes of a step of a model of the Llama kind, predicted on torch's device without memory.

    config: transformers' LlamaConfig. Weights are bfloat16, LoRA stands beside all linear maps;
    attention is counted with its scores kept.
    """
    shape = {name: getattr(config, name) for name in SHAPE}
    ways = columns(config.num_hidden_layers, rank, shape, tokens)
    names = list(ways["full"])
    names = names[: names.index("activations, all kept") + 2]
    lines = []
    for name in names:
        times = rows if name.startswith("activations") else 1
        lines.append((name, *(text(name, times * way[name]) for way in ways.values())))
    header = ("", "full", f"LoRA r={rank}", f"LoRA r={rank} on NF4")
    return Table(f"Predicted bytes: {rows} rows of {tokens} tokens", header, lines)


# -- layers computed again: five runs --------------------------------------------------------------

CHECKPOINTED = {
    **{"A": "one piece", "B": "reentrant", "C": "healthy", "D": "random", "E": "unread"},
}


class Tower(nn.Module):
    """A small classifier of its own kind; `again`: how its layers are computed again.

    "healthy": each layer by itself.  "one piece": all layers together.  "reentrant": each layer, in
    torch's older way.  "random": each layer, with dropout drawn anew.  "unread" and "": not at all.
    """

    def __init__(self, again: str = "", words: int = 64, classes: int = 2) -> None:
        super().__init__()
        numbers = dict(vocab_size=words, width=64, layers=4, heads=4, positions=64)
        config = tt.TransformerConfig.gpt2(**numbers, dropout=0.3)
        self.words = nn.Embedding(words, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.out = nn.Linear(config.width, classes)
        self.again = again

    def all_layers(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        """Ids (B, T), labels (B,)."""
        x = self.words(input_ids)  # (B, T, C)
        if self.again == "one piece":
            x = checkpoint(self.all_layers, x, use_reentrant=False)
        elif self.again in ("healthy", "random", "reentrant"):
            settings = dict(use_reentrant=self.again == "reentrant")
            if self.again == "random":
                settings["preserve_rng_state"] = False
            for layer in self.layers:
                x = checkpoint(layer, x, **settings)
        else:
            x = self.all_layers(x)
        logits = self.out(x.mean(dim=1))  # (B, classes)
        return Output(logits, F.cross_entropy(logits, labels), x)


def tower_run(again: str, rows: int = 16, tokens: int = 32) -> dict:
    """One step of a LoRA beside query and value, and a fresh head, on a frozen Tower."""
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the older way, which would tell
        model = Tower(again)
        targets = ("layers.*.attention.query", "layers.*.attention.value")
        tuner = attach(model, LoRA(rank=4, alpha=8, targets=targets), head=("out",), seed=0)
        with torch.no_grad():
            for _, patch in tuner.patches:
                nn.init.normal_(patch.B, std=0.02)  # so that A has a gradient at the first step
        ids = torch.randint(64, (rows, tokens))
        batch = {"input_ids": ids, "labels": ids[:, 0] % 2}
        calls: list[int] = []
        model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(1)
        seen = watch_once(model, batch)
    new = tuner.parameters()
    gradients = {i: p.grad.clone() for i, p in enumerate(new) if p.grad is not None}
    return seen | {"calls": len(calls), "tensors": len(new), "gradients": gradients}


def watch_once(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, int]:
    """Bytes of a forward and a backward pass: "behind": when the forward is over; "peak"."""
    model.train()
    with recorded() as record:
        with record_function("forward"):
            loss = model(**batch).loss
        with record_function("backward"):
            loss.backward()
        with record_function("optimizer"):
            pass
    rows = levels(record)
    return {
        "loss": loss.item(),
        "behind": rows["forward"][-1],
        "peak": max(rows["forward"] + rows["backward"]),
    }


def runs_of_one_step(runs: Mapping[str, str] = CHECKPOINTED) -> Table:
    """What can be seen from outside of each run, and of the run that computes nothing again."""
    plain = tower_run("")
    rows = []
    for name, how in {**runs, "without": ""}.items():
        seen = tower_run(how)
        gradients = seen["gradients"]
        missing = seen["tensors"] - len(gradients)
        pairs = [(plain["gradients"][i], gradient) for i, gradient in gradients.items()]
        distance = sum((a - b).square().sum() for a, b in pairs).sqrt()
        size = sum(a.square().sum() for a, _ in pairs).sqrt()
        rows.append(
            (
                name,
                f"{seen['loss']:.4f}",
                f"{seen['behind'] / 1e6:.1f}",
                f"{seen['peak'] / 1e6:.1f}",
                seen["calls"],
                f"{missing} of {seen['tensors']}",
                f"{100 * distance / size:.0f} %",
            )
        )
    head = ("run", "loss", "MB behind the forward", "MB at the peak", "calls of the first layer",
            "tensors without a gradient", "gradients off by")  # fmt: skip
    return Table("One step: LoRA beside query and value, and a fresh head", head, rows)
