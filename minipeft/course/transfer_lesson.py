"""Lesson 03: what each method trains as a picture, four patients, and what lies in memory.

stacks(model, {"top 1": TopLayers(1)})      # the parts of a model, coloured by what is trained
patients_table(model, tokenizer, batch)     # five runs that meant to train the top two parts
ledger(model, methods, batch)               # bytes, predicted and added up
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path

import torch
from torch import Tensor, nn

import tiny_transformer as tt
from minipeft.course.runs import Known, attached
from minipeft.course.transfer import train_top, training_bytes
from minipeft.methods.method import Method
from minipeft.report import Table
from minipeft.training.loss import loss_of


def written(yours: Callable, ours: Callable) -> Callable:
    """Your function; ours in its place as long as its body is not written."""

    @wraps(ours)
    def either(*given, **named):
        try:
            return yours(*given, **named)
        except NotImplementedError:
            return ours(*given, **named)

    return either


def parts_of(model: nn.Module) -> list[nn.Module]:
    """A decoder's parts for `train_top`, from input to output: embeddings and L blocks.

    The last norm goes with the last block. The head is no part: it shares the embeddings' matrix.
    """
    last = nn.ModuleList([model.blocks[-1], model.norm])
    return [model.embeddings, *model.blocks[:-1], last]


# -- what is trained -------------------------------------------------------------------------------


def trained_parts(model: nn.Module, method: Method) -> dict[str, bool]:
    """For each part of a decoder, from the input on: does the method train it? Asked of the tuner.

    A part that is trained in a copy, as the head is by `HeadOnly`, counts as trained.
    """
    parts = {"embedding": ("embeddings", model.embeddings)}
    parts |= {f"block {i}": (f"blocks.{i}", block) for i, block in enumerate(model.blocks)}
    parts |= {"last norm": ("norm", model.norm), "head": ("head", model.head)}
    with attached(model, method, seed=0) as tuner:
        trained, copies = set(tuner.parameters()), set(tuner.copies)
        return {
            name: path in copies or any(p in trained for p in module.parameters())
            for name, (path, module) in parts.items()
        }


def stacks(model: nn.Module, methods: Mapping[str, Method]):
    """One stack of parts for every method, the input below; what it trains is red. The figure."""
    from minipeft.analysis import plots
    from minipeft.course.pictures import EDGE, FROZEN

    figure, axes = plots.figure(width=9.2, height=3.4)
    for x, (name, method) in enumerate(methods.items()):
        for y, (part, on) in enumerate(trained_parts(model, method).items()):
            colour = plots.COLOURS["full"] if on else FROZEN
            axes.barh(y, 0.86, 0.84, x - 0.43, color=colour, edgecolor=EDGE)
            axes.text(x, y, part, ha="center", va="center", color="w" if on else "k")
        axes.text(x, -0.7, name, ha="center", va="top", weight="bold")
    axes.set(xlim=(-0.5, len(methods) - 0.5), ylim=(-1.15, y + 0.5))
    axes.axis("off")
    plots.readable(figure)
    plots.add_caption(
        figure,
        "Red is trained, grey is frozen; the input is below. Head and embedding are one matrix: "
        "the top layers leave it alone, and head only trains a copy of it.",
    )
    return figure


def glyphs():
    """Ten digits and ten letters, as the network of part 1 gets them; the figure."""
    from minipeft.analysis import plots
    from minipeft.course import vision

    figure, panels = plots.figure(10, 2, width=9.2, height=0.95)
    for row, classes in zip(panels, (vision.DIGITS, vision.LETTERS), strict=True):
        images, labels = vision.draw(classes, 10, seed=1)  # (10, 1, 16, 16), (10,)
        for panel, image in zip(row, images[labels.argsort()], strict=True):
            panel.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
            panel.axis("off")
    caption = "16 by 16 points. Above: pretraining. Below: the new task."
    plots.add_caption(figure, caption)
    return figure


# -- patients --------------------------------------------------------------------------------------

CAUSES = {
    "lowest": "the two lowest parts were trained",
    "decay": "frozen numbers were given gradients of zero, and weight decay shrank them",
    "again": "an earlier run had not been undone",
    "idle": "the optimizer held the numbers of another copy of the model",
    "random": "the pretrained numbers were never loaded",
}
PATIENTS = {"A": "idle", "B": "again", "C": "lowest", "D": "decay"}


def examine(
    model: nn.Module, known: Known, batch: dict[str, Tensor], cause: str, steps: int = 30
) -> dict[str, float]:
    """Train the top two parts of a copy of the model on one batch, with a fault, and look at it.

    cause: one of CAUSES, or "healthy".

    Returns:
        "gradient": how many numbers are in tensors with a gradient that is not zero.  "changed": in
        tensors that changed.  "first", "last": loss before and after.  "before", "after": share of
        capitals that are right.
    """
    model = copy.deepcopy(model)
    if cause == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = tt.Decoder(model.config)
    parts = parts_of(model)
    if cause == "again":
        _steps(model, train_top(parts, 2), batch, steps)
    trained = train_top(parts[::-1] if cause == "lowest" else parts, 2)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    before, first = known.right(model, "facts"), _loss(model, batch)
    frozen = []
    if cause == "decay":
        frozen = [p for p in model.parameters() if not p.requires_grad]
        trained = list(model.requires_grad_(True).parameters())
    held = list(copy.deepcopy(model).parameters()) if cause == "idle" else trained
    _steps(model, held, batch, steps, frozen)
    gradients = [p for p in model.parameters() if p.grad is not None and p.grad.any()]
    changed = [p for name, p in model.named_parameters() if not torch.equal(p, start[name])]
    return {
        "gradient": sum(p.numel() for p in gradients),
        "changed": sum(p.numel() for p in changed),
        **{"first": first, "last": _loss(model, batch)},
        **{"before": before, "after": known.right(model, "facts")},
    }


def _steps(model, held: list[nn.Parameter], batch: dict, steps: int, zeroed=()) -> None:
    """AdamW on the numbers held; the gradients of those zeroed become zero in every step."""
    optimizer = torch.optim.AdamW(held, lr=3e-3, weight_decay=0.01)
    for _ in range(steps):
        model.zero_grad()
        loss_of(model, batch).backward()
        for parameter in zeroed:
            parameter.grad.zero_()
        optimizer.step()


@torch.no_grad()
def _loss(model: nn.Module, batch: dict[str, Tensor]) -> float:
    return loss_of(model, batch).item()


def patients_table(
    model: nn.Module, known: Known, batch: dict[str, Tensor], steps: int = 30
) -> Table:
    """What can be seen of a healthy run and of all PATIENTS, see `examine`."""
    rows = []
    for name, cause in {"healthy": "healthy", **PATIENTS}.items():
        seen = examine(model, known, batch, cause, steps)
        losses = f"{seen['first']:.2f} to {seen['last']:.2f}"
        right = f"{100 * seen['before']:.0f} to {100 * seen['after']:.0f} %"
        rows.append((name, f"{seen['gradient']:,}", f"{seen['changed']:,}", losses, right))
    head = ("", "numbers with a gradient", "numbers that changed", "loss", "capitals right")
    return Table(f"Top 2, {steps} steps on one batch: from before to after", head, rows)


# -- memory ----------------------------------------------------------------------------------------


def weigh(model: nn.Module, method: Method, batch: dict[str, Tensor]) -> dict[str, int]:
    """Bytes after one real step with Adam: every tensor that is there is added up.

    Returns:
        "weights", "gradients", "adam"; "kept": first values, for `detach`; "stored": the files that
        `save` writes, under runs/.  "predicted": the sum that `training_bytes` gives.
    """
    with attached(model, method, seed=0) as tuner:
        predicted = sum(training_bytes(model).values())
        optimizer = torch.optim.AdamW(tuner.parameters(), lr=1e-3)
        loss_of(model, batch).backward()
        optimizer.step()
        parameters = list(model.parameters())
        means = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
        folder = Path("runs", type(method).__name__)
        tuner.save(folder)
        result = {
            "weights": sum(p.nbytes for p in parameters),
            "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
            "adam": sum(t.nbytes for t in means),  # without its counters of steps, 4 bytes each
            "kept": sum(first.nbytes for first in tuner.base_values.values()),
            "stored": sum(file.stat().st_size for file in folder.iterdir()),
            "predicted": predicted,
        }
        model.zero_grad(set_to_none=True)
    return result


def ledger(model: nn.Module, methods: Mapping[str, Method], batch: dict[str, Tensor]) -> Table:
    """A row of `weigh` for each method."""
    rows = []
    for name, method in methods.items():
        w = weigh(model, method, batch)
        together = w["weights"] + w["gradients"] + w["adam"]
        cells = (w["weights"], w["gradients"], w["adam"], together, w["predicted"], w["stored"])
        rows.append((name, *(f"{cell:,}" for cell in cells)))
    head = ("", "weights", "gradients", "Adam", "together", "predicted", "a task on disk")
    return Table("Bytes of training", head, rows)
