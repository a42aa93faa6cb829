"""Lesson 18: questions that every method must answer, six VeRAs of which five are ill, variations.

examine(method)      # a table: identity, first gradients, base, merging, seeds, files
faults(method)       # the same as sentences, for a check
patients_table()     # what can be seen of every patient from outside
OnlyB, OnlyD, Unshared   # VeRAs that lack a part, for an ablation
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import tiny_transformer as tt
from minipeft.analysis import plots
from minipeft.contexts import seeded
from minipeft.course.pictures import EDGE, FROZEN
from minipeft.files.saving import fill
from minipeft.methods.method import Method
from minipeft.methods.vera import SharedMatrices, VeRA, VeRAPatch
from minipeft.model.fingerprint import fingerprint
from minipeft.report import Table
from minipeft.tuner import Tuner, attach

NEAR = 1e-9  # two ways of computing one thing differ by less, in float64


def small_model(seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """A decoder of two layers and eight features in float64, and a batch for it."""
    with seeded(seed):
        config = tt.TransformerConfig.gpt2(
            vocab_size=13, width=8, layers=2, heads=2, positions=8, dropout=0.0
        )
        model = tt.Decoder(config).double().eval()
        ids = torch.randint(0, 13, (2, 6))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).logits.clone()


def loudly(tuner: Tuner, seed: int = 1) -> None:
    """Give every trained number another value, so that nothing is at its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuner.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter), alpha=0.5)


def gradients(model: nn.Module, tuner: Tuner, batch: dict[str, Tensor]) -> dict[str, float]:
    """Name of what is trained -> length of its gradient now."""
    model.zero_grad(set_to_none=True)
    loss = model(**batch).loss
    if loss.requires_grad:  # not where forward uses nothing that is trained
        loss.backward()
    lengths = {}
    for place, patch in tuner.patches:
        for name, parameter in patch.named_parameters():
            gradient = parameter.grad
            lengths[f"{place.path}.{name}"] = 0.0 if gradient is None else gradient.norm().item()
    return lengths


@dataclass(frozen=True)
class Answer:
    """question: what was asked.  seen: in words.  fault: one sentence; None where all is well."""

    question: str
    seen: str
    fault: str | None = None


def answers(method: Method) -> list[Answer]:
    """What a method with patches in the weights door shows on a small decoder.

    Raises what `attach` raises, where the method cannot be attached.
    """
    model, batch = small_model()
    base, mark = logits(model, batch), fingerprint(model)
    tuner = attach(model, method, seed=0)
    given: list[Answer] = []

    def answer(question: str, seen: str, right: bool, fault: str) -> None:
        given.append(Answer(question, seen, None if right else fault))

    start = (logits(model, batch) - base).abs().max().item()
    answer(
        "Is the model itself at the start?",
        f"logits differ by {start:.1g}",
        start == 0,
        "the model is another one before training: one factor of the detour must be 0 at the start",
    )
    trained = [parameter for parameter in tuner.parameters() if parameter.requires_grad]
    answer(
        "How many numbers are trained?",
        f"{sum(p.numel() for p in trained):,} in {len(trained)} tensors",
        bool(trained),
        "nothing is trained: what learns is an nn.Parameter of a patch",
    )
    if not trained:
        tuner.detach()
        return given
    first = gradients(model, tuner, batch)
    ends = sorted({name.rpartition(".")[2] for name, length in first.items() if length == 0})
    moving = any(first.values())
    answer(
        "Which have no gradient at the first step?",
        ", ".join(ends) or "none",
        moving,
        "no tensor has a gradient at the first step, so nothing ever moves: not all factors of a "
        "product may be 0",
    )
    optimizer = torch.optim.SGD(trained, 0.1)
    optimizer.step()
    second = gradients(model, tuner, batch)
    still = sorted({name.rpartition(".")[2] for name, length in second.items() if length == 0})
    answer(
        "And at the second?",
        ", ".join(still) or "none",
        not still,
        f"{', '.join(still)} has no gradient at the second step either: it never learns",
    )
    touched = [p for p in tuner.anatomy.parameters() if p.grad is not None]
    answer(
        "Does the base get gradients?",
        "yes" if touched else "no",
        not touched,
        "a weight of the base gets a gradient: only what is in the patches is trained",
    )
    loudly(tuner)
    changed = logits(model, batch)
    moved = (changed - base).abs().max().item()
    answer(
        "Do other values give other answers?",
        f"logits differ by {moved:.1g}",
        moved > 1e-6,
        "other values of what is trained change nothing: forward does not use it",
    )
    given.append(_merged(tuner, model, batch, changed))
    given.append(_file(tuner, method, changed))
    given.append(_seeds(method))
    tuner.detach()
    same = fingerprint(model) == mark and torch.equal(logits(model, batch), base)
    answer(
        "Is the base back when it is gone?",
        "to the last bit" if same else "no",
        same,
        "the base is not the same afterwards: nothing of it may be changed",
    )
    return given


def _merged(tuner: Tuner, model: nn.Module, batch: dict, changed: Tensor) -> Answer:
    question = "Does merging give the same answers?"
    try:
        tuner.merge()
    except ValueError as error:
        return Answer(question, "it cannot be merged", str(error))
    off = (logits(model, batch) - changed).abs().max().item()
    tuner.unmerge()
    fault = "merging changes the answers: `delta` must be the matrix that `forward` adds"
    return Answer(question, f"logits differ by {off:.1g}", None if off < NEAR else fault)


def _file(tuner: Tuner, method: Method, changed: Tensor) -> Answer:
    """What is saved, put into a fresh model."""
    question = "Does a file give the same answers?"
    model, batch = small_model()
    stored = {name: tensor.clone() for name, tensor in method.export_state(tuner).items()}
    opened, values = method.import_state(stored)
    again = attach(model, opened, seed=5)
    try:
        fill(again, values)
    except ValueError as error:
        return Answer(question, "it does not open", str(error))
    off = (logits(model, batch) - changed).abs().max().item()
    again.detach()
    fault = (
        "a saved file gives other answers: everything that is random and not stored must come "
        "from a seed in the settings"
    )
    size = sum(tensor.numel() for tensor in stored.values())
    return Answer(
        question, f"logits differ by {off:.1g}; {size:,} stored", None if off < NEAR else fault
    )


def _seeds(method: Method) -> Answer:
    """The same seed of `attach` twice."""
    twice = []
    for _ in range(2):
        tuner = attach(small_model()[0], method, seed=3)
        twice.append({name: t.clone() for name, t in tuner.named_tensors().items()})
        tuner.detach()
    same = twice[0].keys() == twice[1].keys() and all(
        torch.equal(tensor, twice[1][name]) for name, tensor in twice[0].items()
    )
    fault = "the same seed gives other numbers: draw them from torch's generators"
    said = "the same numbers" if same else "other numbers"
    return Answer("The same seed again?", said, None if same else fault)


def faults(method: Method) -> list[str]:
    """What is wrong, a sentence each; empty where all is well."""
    return [answer.fault for answer in answers(method) if answer.fault]


def examine(method: Method) -> Table:
    """Questions and answers for any method in the weights door, to look at."""
    rows = [
        (one.question, one.seen, "✓" if one.fault is None else one.fault) for one in answers(method)
    ]
    return Table(f"{method.describe()} on a small decoder", ("", "seen", ""), rows)


# ---- variations ----


class Unshared(VeRA):
    """Every map draws an A and a B of its own."""

    def install(self, tuner: Tuner) -> None:
        for i, place in enumerate(tuner.find(self.targets, self.layers)):
            size = (place.in_features, place.out_features)
            matrices = SharedMatrices(*size, self.rank, self.seed + i, self.store_matrices)
            tuner.add(place, VeRAPatch(*size, matrices, self.initial, self.dropout))


class OnlyB(VeRA):
    """d stays as it is: how much of each row of B, and nothing else."""

    def install(self, tuner: Tuner) -> None:
        super().install(tuner)
        for _, patch in tuner.patches:
            patch.d.requires_grad_(False)


class OnlyD(VeRA):
    """b is 1 and stays so, d starts at 0: how much of each row of A, and nothing else."""

    def install(self, tuner: Tuner) -> None:
        super().install(tuner)
        for _, patch in tuner.patches:
            with torch.no_grad():
                patch.b.fill_(1.0), patch.d.zero_()
            patch.b.requires_grad_(False)


# ---- patients ----

CAUSES = {
    "unshared": "every map has an A and a B of its own",
    "zero": "d is 0 at the start, as b is",
    "loud": "b is 1 at the start",
    "trained": "A and B are trained as well",
    "merge": "delta forgets d",
    "healthy": "nothing is wrong",
}
PATIENTS = {
    "A": "merge",
    "B": "unshared",
    "C": "zero",
    "D": "healthy",
    "E": "trained",
    "F": "loud",
}


class ForgetsD(VeRAPatch):
    """Its delta is diag(b) B A."""

    def delta(self) -> Tensor:
        return self.b[:, None] * self.B @ self.A


class Ill(VeRA):
    """A VeRA with a fault of CAUSES."""

    fault = "healthy"

    def install(self, tuner: Tuner) -> None:
        before = len(tuner.patches)
        (Unshared if self.fault == "unshared" else VeRA).install(self, tuner)
        for _, patch in tuner.patches[before:]:
            if self.fault == "merge":
                patch.__class__ = ForgetsD
            elif self.fault == "zero":
                nn.init.zeros_(patch.d)
            elif self.fault == "loud":
                nn.init.ones_(patch.b)
            elif self.fault == "trained" and "A" not in patch.matrices._parameters:
                for name in ("A", "B"):
                    matrix = patch.matrices._buffers.pop(name)
                    patch.matrices.register_parameter(name, nn.Parameter(matrix))


def ill(cause: str, rank: int) -> VeRA:
    """The method with this fault. rank: r."""
    return type("VeRA", (Ill,), {"fault": cause})(rank=rank)


def patients_table(rank: int = 12) -> Table:
    """What can be seen of six VeRAs on a small decoder: see `answers`."""
    rows = []
    for who, cause in PATIENTS.items():
        model, batch = small_model()
        base = logits(model, batch)
        tuner = attach(model, ill(cause, rank), seed=0)
        start = (logits(model, batch) - base).abs().max().item()
        lengths = gradients(model, tuner, batch)
        of = {
            name: sum(v**2 for k, v in lengths.items() if k.endswith(f".{name}")) ** 0.5
            for name in ("d", "b")
        }
        trained = sum(p.numel() for p in tuner.parameters())
        frozen = {
            id(p.matrices): p.matrices.A.numel() + p.matrices.B.numel() for _, p in tuner.patches
        }
        loudly(tuner)
        changed = logits(model, batch)
        tuner.merge()
        off = (logits(model, batch) - changed).abs().max().item()
        tuner.detach()
        rows.append(
            (
                who,
                f"{trained:,}",
                f"{sum(frozen.values()):,}",
                f"{start:.1g}",
                *(f"{of[name]:.1g}" for name in ("d", "b")),
                f"{off:.0e}" if off > NEAR else "0",
            )
        )
    head = (
        *("", "numbers trained", "numbers in all A and B", "logits moved at the start"),
        *("gradient of d, step 1", "of b", "logits moved by merging"),
    )
    return Table(f"Six VeRAs of rank {rank}, query and value of 2 layers, width 8", head, rows)


# ---- pictures ----


def picture():
    """Two layers that share A and B, each with two vectors of its own."""
    from matplotlib.patches import Polygon, Rectangle

    figure, axes = plots.figure(width=8.6, height=3.6)
    colour = plots.COLOURS["VeRA"]

    def vector(x: float, y: float, width: float, name: str) -> None:
        axes.add_patch(Rectangle((x - width / 2, y), width, 0.28, facecolor=colour, edgecolor=EDGE))
        axes.text(x + width / 2 + 0.1, y + 0.14, name, va="center", color=colour)

    for place, layer in ((0.0, 1), (6.2, 2)):
        axes.add_patch(Rectangle((place, 1), 2, 2.6, facecolor=FROZEN, edgecolor=EDGE))
        axes.text(place + 1, 2.3, f"$W_{layer}$\nfrozen", ha="center", va="center")
        x = place + 3.6
        for name, y, flip in (("$A$", 0.9, False), ("$B$", 2.75, True)):
            wide, narrow = (1.0, 0.7) if not flip else (0.7, 1.0)
            corners = [(x - wide, y), (x + wide, y), (x + narrow, y + 0.8), (x - narrow, y + 0.8)]
            axes.add_patch(Polygon(corners, facecolor=FROZEN, edgecolor=EDGE, hatch="//"))
            axes.text(x, y + 0.4, name, ha="center", va="center")
        vector(x, 2.05, 1.4, f"$d_{layer}$")
        vector(x, 3.7, 2.0, f"$b_{layer}$")
        foot, top = (place + 2.3, 0.35), (place + 2.3, 4.7)
        steps = [(foot, (place + 1, 1)), (foot, (x, 0.9)), ((x, 1.7), (x, 2.05))]
        steps += [((x, 2.33), (x, 2.75)), ((place + 1, 3.6), top), ((x, 3.98), top)]
        for start, end in steps:
            axes.annotate("", end, start, arrowprops={"arrowstyle": "->"})
        axes.text(*foot, "x", ha="center", va="top")
        axes.text(*top, "h, the sum", ha="center", va="bottom")
    axes.set(xlim=(-0.2, 12.2), ylim=(0, 5.1))
    axes.axis("off")
    plots.finish(
        axes,
        legend=False,
        caption="Hatched: the same two random matrices in every layer, frozen. Violet: all that is "
        "trained.",
    )
    return figure
