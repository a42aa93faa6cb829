"""Lesson 10b: singular values, shared directions, amplification and rotation of an update.

A set of changes is a dict, path of a linear map -> what is added to its weight (out, in), as
`minipeft.course.runs.side_by_side` gives it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from minipeft.analysis import spectra
from minipeft.course.runs import attached
from minipeft.methods.finetuning import FullFineTuning
from minipeft.tasks.tasks import Task
from minipeft.training.loop import train

Changes = Mapping[str, Tensor]


def full_changes(
    model: nn.Module,
    tokenizer,
    task: Task,
    rate: float,
    steps: int,
    seed: int,
    maps: Sequence[str],
    batch_size: int = 8,
) -> dict[str, Tensor]:
    """Full fine-tuning once; what it added to these maps. The model is the old one afterwards."""
    before = {path: model.get_submodule(path).weight.detach().clone() for path in maps}
    with attached(model, FullFineTuning(), seed=seed):
        batches = task.batches("train", tokenizer, batch_size=batch_size, seed=seed)
        train(model, batches, steps, rate, seed=seed, progress=False)
        return {path: model.get_submodule(path).weight.detach() - before[path] for path in maps}


def conclude(*sentences: str) -> None:
    """Print what a part of the lesson has shown, in lines that a page shows whole."""
    print(textwrap.fill(f"Conclusion: {' '.join(sentences)}", 92))


def over_maps(measure: Callable[[Tensor], float | Tensor], changes: Changes) -> Tensor:
    """The mean of something over all changed maps."""
    values = [torch.as_tensor(measure(change), dtype=torch.float64) for change in changes.values()]
    return torch.stack(values).mean(dim=0)


def energies(changes: Changes) -> Tensor:
    """Share of ||change||^2 in the strongest 1, 2, .. directions, mean over maps: (C,)."""
    return over_maps(spectra.energy, changes)


def similarities(one: Changes, other: Changes, count: int, side: str) -> Tensor:
    """phi(i, j) of `spectra.similarity` for i, j = 1 to count, mean over maps: (count, count)."""
    sizes = torch.arange(1, count + 1, dtype=torch.float64)
    tables = []
    for path in one:
        u, v = (spectra.directions(change[path], count, side) for change in (one, other))
        squares = (u.T @ v) ** 2  # (count, count)
        smaller = torch.minimum(sizes[:, None], sizes[None])  # min(i, j)
        tables.append(squares.cumsum(0).cumsum(1) / smaller)
    return torch.stack(tables).mean(dim=0)


def amplification(changes: Changes, weights: Changes, rank: int, seed: int = 0) -> dict[str, float]:
    """Section 7.3 of the paper, mean over maps.

    Returns:
        "update": ||dW||.  "by update", "by base", "by noise": ||U^T W0 V||, with U, V the strongest
        `rank` directions of dW, of W0 and of noise.  "factor": mean of ||dW|| / ||U^T W0 V||.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = dict.fromkeys(("update", "by update", "by base", "by noise", "factor"), 0.0)
    for path, change in changes.items():
        W, D = weights[path].double(), change.double()
        noise = torch.randn(D.shape, generator=generator, dtype=torch.float64)
        sums["update"] += D.norm().item()
        for name, by in (("by update", D), ("by base", W), ("by noise", noise)):
            u, v = spectra.directions(by, rank, "out"), spectra.directions(by, rank, "in")
            sums[name] += (u.T @ W @ v).norm().item()
        sums["factor"] += spectra.amplification(D, W, rank)
    return {name: total / len(changes) for name, total in sums.items()}


def rotation(changes: Changes, weights: Changes, rank: int, seed: int = 0) -> dict[str, float]:
    """Is the update a rotation of W0, and does it read W0's strong directions? Mean over maps.

    Returns:
        "left": share of the update's length that no rotation explains; "left of noise": of a random
        update of the same rank and length; "along": phi(rank, rank) of the update's input
        directions and W0's.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {"left": 0.0, "left of noise": 0.0, "along": 0.0}
    for path, change in changes.items():
        W, D = weights[path].double(), change.double()
        out, inside = D.shape
        u = torch.randn(out, rank, generator=generator, dtype=torch.float64)
        v = torch.randn(rank, inside, generator=generator, dtype=torch.float64)
        noise = u @ v  # (out, rank) (rank, in) -> (out, in)
        sums["left"] += spectra.rotation_residual(D, W)
        sums["left of noise"] += spectra.rotation_residual(noise * (D.norm() / noise.norm()), W)
        sums["along"] += spectra.similarity(D, W, rank, rank)
    return {name: total / len(changes) for name, total in sums.items()}
