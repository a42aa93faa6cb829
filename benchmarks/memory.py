"""Section `memory`: where the bytes of a training step are, predicted and measured.

    weights        of the base and what is added to it
    gradients      one number for every number in training
    optimizer      AdamW keeps two numbers for each, and a step count for every tensor
    activations    what autograd keeps from the forward for the backward pass, counted with
                   torch.autograd.graph.saved_tensors_hooks: every storage once, weights left out

The prediction: the first three from shapes alone. What autograd keeps grows in a straight line with
the rows of the batch, and the line is drawn through one row and two, so that a small batch tells
what a large one will need.
"""

from __future__ import annotations

import torch

import minipeft as mp
from minipeft.analysis.sizes import kept

from .bases import Size, batch_of, gpt2, trainable
from .measuring import Sheet

METHODS = {
    "FullFineTuning": mp.FullFineTuning(),
    "TopLayers": mp.TopLayers(1),
    "BitFit": mp.BitFit(),
    "LoRA": mp.LoRA(rank=8, targets=("qkv",)),
    "LoRA, last third of the layers": None,  # filled in by the number of layers
    "DoRA": mp.DoRA(rank=8, targets=("qkv",)),
    "AdaLoRA": mp.AdaLoRA(targets=("qkv",)),
    "IA3": mp.IA3(),
    "Adapter": mp.Adapter(bottleneck=16),
    "Prefix": mp.Prefix(length=20, hidden=None),
    "PromptTuning": mp.PromptTuning(length=20),
    "PTuning": mp.PTuning(length=20),
    "UniPELT": mp.UniPELT(),
}
PARTS = ("weights", "gradients", "optimizer", "activations")


def bytes_of(tensors) -> int:
    """How many bytes the numbers in these tensors take."""
    return sum(t.numel() * t.element_size() for t in tensors)


def predicted(size: Size, method) -> dict[str, int]:
    """The ledger from the numbers in training, and from batches of one row and of two."""
    model = gpt2(size)
    mp.attach(model.train(), method, seed=0)
    parameters = trainable(model)
    numbers = bytes_of(parameters)
    batches = [batch_of(size, rows) for rows in (1, 2)]
    lines = [kept(model, lambda batch=batch: model(**batch).loss) for batch in batches]
    return {
        "weights": bytes_of(model.parameters()),
        "gradients": numbers,
        "optimizer": 2 * numbers + 4 * len(parameters),
        "activations": lines[0] + (size.rows - 1) * (lines[1] - lines[0]),
    }


def measured(size: Size, method) -> dict[str, int]:
    """The ledger of a step that is really taken."""
    model, batch = gpt2(size), batch_of(size)
    mp.attach(model.train(), method, seed=0)
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-3)
    activations = kept(model, lambda: model(**batch).loss)
    model(**batch).loss.backward()
    gradients = bytes_of(p.grad for p in model.parameters() if p.grad is not None)
    optimizer.step()
    states = [t for state in optimizer.state.values() for t in state.values()]
    return {
        "weights": bytes_of(model.parameters()),
        "gradients": gradients,
        "optimizer": bytes_of(states),
        "activations": activations,
    }


def run(options) -> list[Sheet]:
    """A sheet with the predicted and the measured ledger of every method."""
    size = Size.of(options)
    top = tuple(range(size.layers - max(1, size.layers // 3), size.layers))
    few = mp.LoRA(rank=8, targets=("qkv",), layers=top)
    ledgers = {}
    for name, method in METHODS.items():
        ledgers[name] = predicted(size, method or few), measured(size, method or few)

    def draw(axes) -> None:
        left = [0.0] * len(ledgers)
        for part in PARTS:
            values = [real[part] / 2**20 for _, real in ledgers.values()]
            axes.barh(list(ledgers), values, left=left, label=part)
            left = [a + b for a, b in zip(left, values, strict=True)]
        totals = [sum(guess.values()) / 2**20 for guess, _ in ledgers.values()]
        axes.plot(totals, range(len(ledgers)), "k|", markersize=12, label="predicted")
        axes.invert_yaxis()
        axes.set_xlabel("MiB")
        axes.legend(fontsize=8)

    sheet = Sheet(
        "memory",
        f"Bytes of a training step, in MiB: predicted / measured ({size})",
        ["method", *PARTS, "sum", "of full", "prediction off by"],
        options.threads,
        draw,
        (8, 5),
    )
    whole = sum(ledgers["FullFineTuning"][1].values())
    for name, (guess, real) in ledgers.items():
        pairs = [(guess[part], real[part]) for part in PARTS]
        pairs.append((sum(guess.values()), sum(real.values())))
        cells = [f"{a / 2**20:.2f} / {b / 2**20:.2f}" for a, b in pairs]
        off = 100 * (pairs[-1][0] / pairs[-1][1] - 1)
        sheet.rows.append([name, *cells, f"{pairs[-1][1] / whole:.2f}", f"{off:+.2f} %"])
    sheet.notes.append(
        "activations: what autograd keeps between the passes, with model(**batch).loss. Frozen "
        "weights need no gradient, and inputs of frozen maps are not kept; a method saves all that "
        "lies below its lowest patch."
    )
    return [sheet]
