"""Lesson 11: every method as a change of h, UniPELT's gates held or left out, five with a fault.

changes_table()                         # each method's dh by its formula, and by the package
moved(task, 2)                          # every word gets the tag of the word two further on
drawn(task, 32, seed)                   # 32 examples to learn from, others for every seed
Fixed(gate=1.0), without_gates(method)  # UniPELT with constant gates; its parts with none
gate_values(model, tuner, batch)        # what every gate said to every text
with held(tuner, 0.0): ..               # all gates at one number
patients_table(model, batch)            # what can be seen of every patient
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tiny_transformer as tt
from minipeft.contexts import evaluating
from minipeft.course.experiments import Outcome
from minipeft.course.p_tuning_v2 import what_the_head_reads
from minipeft.course.runs import attached
from minipeft.doors.patch import Patch
from minipeft.methods.adapter import Adapter
from minipeft.methods.bitfit import BitFit
from minipeft.methods.combined import Combined
from minipeft.methods.ia3 import IA3
from minipeft.methods.lora import LoRA
from minipeft.methods.method import Method
from minipeft.methods.parts.gates import GatedMemory, GatedPatch, gates
from minipeft.methods.prefix import Prefix
from minipeft.methods.unipelt import Gate, UniPELT
from minipeft.report import Table
from minipeft.tasks.tasks import Task, make
from minipeft.training.loop import train
from minipeft.training.loss import loss_of
from minipeft.tuner import Tuner

# ---- every method as a change of h ----

FORMULAS = {  # method: (what h is, dh)
    "prefix": ("what attention's heads give", "lambda (softmax(Q P_k^T / sqrt D) P_v - h)"),
    "LoRA": ("query, W0 x", "s B A x"),
    "adapter": ("feed-forward output", "W_up phi(W_down h)"),
    "parallel adapter": ("feed-forward output", "s W_up phi(W_down x)"),
    "IA3": ("key, W0 x", "(l - 1) * h"),
    "BitFit": ("query, W0 x", "d"),
}


@torch.no_grad()
def changes() -> dict[str, tuple[Tensor, Tensor]]:
    """Method -> (dh by its formula, dh of the package), in layer 0 of an encoder, in float64.

    Every trained number is drawn anew first, since most methods begin with dh = 0. The biases of
    adapters are in both. The prefix is compared behind attention's output map, which is linear.
    """
    model, _ = tt.load("tiny-encoder")
    model.double().eval()
    block, pairs = model.blocks[0], {}
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(2, 5, model.config.width)  # (B, T, C)

    @contextmanager
    def drawn_anew(method: Method) -> Iterator[Patch]:
        """The method's patch in layer 0, the last one where it has several."""
        with attached(model, method, seed=0) as tuner:
            for parameter in tuner.parameters():
                parameter.add_(0.3 * normal(*parameter.shape))
            yield [patch for place, patch in tuner.patches if place.layer == 0][-1]

    def measured(name: str, method: Method, run, formula) -> None:
        before = run()
        with drawn_anew(method) as patch:
            pairs[name] = formula(patch, before), run() - before

    def adapter(patch, given: Tensor) -> Tensor:
        low = F.gelu(given @ patch.down.weight.T + patch.down.bias)  # (B, T, m)
        return patch.scale * (low @ patch.up.weight.T + patch.up.bias)

    def prefix(patch, _: Tensor) -> Tensor:
        layer, H = model.blocks[0].attention.base, model.config.heads
        Q, K, V = (
            map_(x).unflatten(-1, (H, -1)).transpose(1, 2)  # (B, H, T, D)
            for map_ in (layer.query, layer.key, layer.value)
        )
        P_k, P_v = patch(x)  # (1, H, P, D)
        scores, of_words = (Q @ k.mT / Q.shape[-1] ** 0.5 for k in (P_k, K))
        share = torch.sigmoid(scores.logsumexp(-1, True) - of_words.logsumexp(-1, True))  # lambda
        dh = share * (scores.softmax(-1) @ P_v - of_words.softmax(-1) @ V)  # (B, H, T, D)
        return dh.transpose(1, 2).flatten(2) @ layer.output.weight.T  # (B, T, C)

    measured("prefix", Prefix(3, None), lambda: block.attention(x), prefix)
    measured(
        "LoRA",
        LoRA(rank=4, targets=("query",)),
        lambda: block.attention.query(x),
        lambda patch, _: patch.scale * (x @ patch.A.T @ patch.B.T),
    )
    ffn = lambda: block.feed_forward(x)  # noqa: E731
    measured("adapter", Adapter(4, placement="pfeiffer"), ffn, adapter)
    parallel = Adapter(4, placement="parallel", scale=4.0)
    measured("parallel adapter", parallel, ffn, lambda patch, _: adapter(patch, x))
    measured(
        "IA3",
        IA3(targets=("key",)),
        lambda: block.attention.key(x),
        lambda patch, h: (patch.l - 1) * h,
    )
    measured(
        "BitFit",
        BitFit(targets=("query",)),
        lambda: block.attention.query(x),
        lambda patch, h: patch.d.expand_as(h),
    )
    return pairs


def changes_table() -> Table:
    """He's table, and how far the package is from each formula."""
    rows = [
        (name, *FORMULAS[name], f"{(dh - ours).abs().max() / ours.abs().max():.0e}")
        for name, (dh, ours) in changes().items()
    ]
    head = ("", "h", "dh: what is added to h", "package - formula, relative")
    return Table("Every method as a change of h", head, rows)


# ---- tasks ----


def moved(task: Task, by: int) -> Task:
    """A tagging task in which every word gets the tag of the word `by` places further on.

    Behind the last word comes the first one.
    """
    splits = {}
    for split in task.splits:
        splits[split] = []
        for example in task.examples(split):
            tags = example.target.split()
            further = (tags[(i + by) % len(tags)] for i in range(len(tags)))
            splits[split].append((example.input, " ".join(further)))
    return make(f"{task.name}-moved", task.kind, labels=task.labels, **splits)


def drawn(task: Task, K: int, seed: int) -> Task:
    """The task with K examples to learn from, drawn anew for every seed; K = 0 leaves all."""
    rows = {split: task.examples(split) for split in task.splits}
    if K:
        rows["train"] = random.Random(seed).sample(list(rows["train"]), K)
    return make(task.name, task.kind, labels=task.labels, **rows)


def edges(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A note for a table: in which arms a better rate may lie beyond those that were tried."""
    names = [name for name, outcome in outcomes.items() if outcome.edge]
    return [f"The best rate lies at an edge in: {'; '.join(names)}."] if names else []


# ---- gates held, and left out ----


class ConstantGate(nn.Module):
    """A gate that says the same number to every text, and is not trained."""

    mode, mask = "alone", None

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number, self.value = number, None

    def forward(self, x: Tensor) -> Tensor:
        self.value = x.new_full((1, 1, 1), self.number)
        return self.value


def gated(tuner: Tuner) -> list[GatedPatch | GatedMemory]:
    """The patches of a UniPELT that stand behind a gate."""
    return [patch for _, patch in tuner.patches if isinstance(patch, GatedPatch | GatedMemory)]


@dataclass(frozen=True)
class Fixed(UniPELT):
    """UniPELT with all gates at one number for ever.

    gate: that number.
    """

    gate: float = 1.0

    def install(self, tuner: Tuner) -> None:
        super().install(tuner)
        constant = {gate: ConstantGate(self.gate) for gate in gates(tuner).values()}
        for patch in gated(tuner):
            patch.gate = constant[patch.gate]


def without_gates(method: UniPELT, scale: float = 2.0) -> Combined:
    """The parts of a UniPELT as they are alone: LoRA with alpha / r = scale, prefix, adapter."""
    r, m = method.rank, method.bottleneck
    parts = (
        LoRA(rank=r, alpha=scale * r, targets=method.targets) if r else None,
        Prefix(method.length, method.hidden) if method.length else None,
        Adapter(m, placement="pfeiffer") if m else None,
    )
    return Combined(tuple(part for part in parts if part))


@torch.no_grad()
def gate_values(model: nn.Module, tuner: Tuner, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name of a gate, such as "LoRA 0" -> what it says to each text of a batch: (N,)."""
    with evaluating(model):
        model(**batch)
    N = len(batch["input_ids"])
    return {name: gate.value.flatten(1).mean(1).expand(N) for name, gate in gates(tuner).items()}


@contextmanager
def held(tuner: Tuner, number: float, part: str = "") -> Iterator[None]:
    """All gates of a UniPELT at one number, from 0 to 1, inside the block.

    part: "LoRA", "adapter" or "prefix" holds the gates of that part alone.
    """
    every = [
        gate
        for name, gate in gates(tuner).items()
        if isinstance(gate, Gate) and name.startswith(part)
    ]
    before = [[p.detach().clone() for p in gate.parameters()] for gate in every]
    try:
        with torch.no_grad():
            for gate in every:
                if gate.weight is not None:
                    gate.weight.zero_()
                gate.bias.copy_(torch.logit(torch.full((1,), number)))
        yield
    finally:
        with torch.no_grad():
            for gate, values in zip(every, before, strict=True):
                for parameter, value in zip(gate.parameters(), values, strict=True):
                    parameter.copy_(value)


def switched(values: dict[str, Tensor], edge: float = 0.1) -> float:
    """Share of what gates said, over all gates and texts, that is nearly shut or nearly open."""
    said = torch.cat([*values.values()])
    return ((said < edge) | (said > 1 - edge)).double().mean().item()


def level(values: dict[str, Tensor], part: str) -> float:
    """What the gates of a part, such as "LoRA", say on average over layers and texts."""
    return torch.cat([said for name, said in values.items() if name.startswith(part)]).mean().item()


# ---- patients ----

CAUSES = {
    "padding": "the mean of a gate counts padding",
    "detached": "the gates are cut off from the graph (detached)",
    "rounded": "the gates are rounded to 0 or 1",
    "outside": "the gate multiplies h and its change, g (h + dh), where h + g dh is right",
    "healthy": "nothing is wrong",
}
PATIENTS = {"A": "rounded", "B": "outside", "C": "healthy", "D": "padding", "E": "detached"}


class DetachedGate(Gate):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class RoundedGate(Gate):
    def forward(self, x: Tensor) -> Tensor:
        self.value = super().forward(x).round().detach()
        return self.value


class PaddingGate(Gate):
    def forward(self, x: Tensor) -> Tensor:
        self.mask = None
        return super().forward(x)


class OutsidePatch(GatedPatch):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        g = self.gate(x if self.tap is None else self.tap.saved_input)
        return (super().forward(x, y) - (1 - g) * y).to(y.dtype)  # g y + g dh


FAULTS = {"detached": DetachedGate, "rounded": RoundedGate, "padding": PaddingGate}


def examine(model: nn.Module, batch: dict[str, Tensor], patient: str, steps: int = 20) -> dict:
    """LoRA and adapter behind gates with a fault, trained on one batch and seen from outside.

    patient: one of PATIENTS. The model has a tagging head and is the same afterwards.

    Returns:
        "gates": the lowest and the highest number that a gate said to a text.  "gradient": length
        of the gates' gradient.  "padding": by how much the largest logit moves when 20 places of
        padding are added to every row.  "shut": with all gates held at 0, how far what the head
        reads is from what it reads of the base, relative to its length.
    """
    fault = PATIENTS[patient]
    real = batch["attention_mask"].bool()  # (B, T)
    longer = {
        name: F.pad(tensor, (0, 20), value=-100 if name == "labels" else 0)
        for name, tensor in batch.items()
    }

    def logits(given: dict) -> Tensor:
        with evaluating(model), torch.no_grad():
            return model(**given).logits[:, : real.shape[1]][real]  # (words, K)

    with attached(model, UniPELT(length=0), seed=0) as tuner:
        for patch in gated(tuner):
            patch.gate.__class__ = FAULTS.get(fault, Gate)
            if fault == "outside":
                patch.__class__ = OutsidePatch
        train(model, [batch], steps, 1e-2, progress=False)
        every = [p for gate in gates(tuner).values() for p in gate.parameters()]
        with evaluating(model):
            loss = loss_of(model, batch)
        gradients = torch.autograd.grad(loss, every, allow_unused=True)
        squares = sum(g.square().sum().item() for g in gradients if g is not None)
        said = torch.cat([*gate_values(model, tuner, batch).values()])
        moved_by = (logits(longer) - logits(batch)).abs().max().item()
        with held(tuner, 0.0):
            shut = what_the_head_reads(model, batch)
        with tuner.disabled():
            of_base = what_the_head_reads(model, batch)
    return {
        "gates": (said.min().item(), said.max().item()),
        "gradient": squares**0.5,
        "padding": moved_by,
        "shut": ((shut - of_base).norm() / of_base.norm()).item(),
    }


def patients_table(model: nn.Module, batch: dict[str, Tensor], steps: int = 20) -> Table:
    """What can be seen of every patient, see `examine`."""
    rows = []
    for who in PATIENTS:
        seen = examine(model, batch, who, steps)
        low, high = seen["gates"]
        numbers = (f"{seen[name]:.4f}" for name in ("gradient", "padding", "shut"))
        rows.append((who, f"{low:.2f} to {high:.2f}", *numbers))
    head = (
        *("", "gates say", "gradient of the gates", "logits moved by padding"),
        "all gates at 0: distance to the base",
    )
    return Table(f"Five unions, {steps} steps on one batch", head, rows)
