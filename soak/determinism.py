"""The same seed gives the same bits: tuners, training, generation, files, DataLoaders."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import minipeft as mp
import tiny_transformer as tt
from soak import small
from soak.kills import bits
from soak.ledger import Clock, Line
from tiny_transformer.pretraining import pretrain

COUNT = 96
LOADERS = 8  # kinds of DataLoader, at most


def run(layout: str, name: str, seed: int, noise: int, folder: Path) -> tuple:
    """Train a tuner, write with it, save it; noise: where torch's own generator stands before."""
    torch.manual_seed(noise)
    model = small.base(layout, dropout=0.1)
    tuner = mp.attach(model, small.METHODS[name], seed=seed)
    batches = [small.batch(number) for number in range(3)]
    losses = mp.train(model, batches, 3, 1e-2, seed=seed, progress=False).losses
    ids = None
    if layout != "bert":
        options = dict(max_new_tokens=4, sample=True, temperature=2.0, seed=seed)
        ids = mp.generate(model, small.batch(rows=1)["input_ids"], **options).tolist()
    tuner.save(folder)
    return losses, ids, bits(folder)


class Examples:
    """A dataset of twelve rows, as a user would write one."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> dict:
        batch = small.batch(seed=number, rows=1)
        return {key: value[0] for key, value in batch.items()}


def loaded(workers: int, seed: int, shuffle: str) -> tuple:
    """Train on what a DataLoader gives, through more than one epoch of it: losses and weights."""
    generator = torch.Generator().manual_seed(seed) if shuffle == "a seeded generator" else None
    options = {"shuffle": shuffle != "no order", "generator": generator}
    loader = DataLoader(Examples(), 4, num_workers=workers, **options)
    model = small.base(dropout=0.1)
    tuner = mp.attach(model, mp.LoRA(rank=2, dropout=0.1), seed=0)
    losses = mp.train(model, loader, 5, 1e-2, seed=seed, progress=False).losses
    return losses, [parameter.tolist() for parameter in tuner.parameters()]


def loaders(count: int, clock: Clock) -> Line:
    """The batches of a DataLoader with 0, 1 and 2 workers."""
    line = Line("same bits with 0, 1, 2 workers")
    begun = time.monotonic()
    shuffles = ("a seeded generator", "train's seed", "no order")
    for number in range(min(count, LOADERS)):
        if clock.over():
            break
        shuffle = shuffles[number % len(shuffles)]
        wanted = loaded(0, number, shuffle)
        for workers in (1, 2):
            if loaded(workers, number, shuffle) != wanted:
                line.fail(f"{workers} workers, shuffled by {shuffle}, seed {number}", "it differs")
            else:
                line.worked += 1
    line.seconds = time.monotonic() - begun
    return line


def soak(count: int | None, clock: Clock) -> list[Line]:
    """Every method twice with one seed and once with another; pretraining twice; DataLoaders."""
    line, other = Line("same seed, same bits"), Line("another seed, other bits")
    begun = time.monotonic()
    kinds = [(layout, name) for name in small.METHODS for layout in small.LAYOUTS]
    with tempfile.TemporaryDirectory() as place:
        for number in range(COUNT if count is None else count):
            if clock.over():
                break
            layout, name = kinds[number % len(kinds)]
            folders = [Path(place) / f"{number}-{i}" for i in range(3)]
            one = run(layout, name, number, 1, folders[0])
            two = run(layout, name, number, 2, folders[1])
            three = run(layout, name, number + 1, 1, folders[2])
            if one != two:
                parts = ("losses", "generated ids", "files")
                odd = [p for p, a, b in zip(parts, one, two, strict=True) if a != b]
                line.fail(f"{name} on {layout}", f"{', '.join(odd)} differ")
            else:
                line.worked += 1
            if one[0] == three[0]:
                other.fail(f"{name} on {layout}", "the losses are the same")
            else:
                other.worked += 1
        for layout in small.LAYOUTS:
            made = []
            for number in range(2):
                model = small.base(layout, dropout=0.1)
                losses = pretrain(model, small.batch, 4, warmup=1, seed=3, progress=False)
                tt.save(model, None, Path(place) / f"{layout}-{number}")
                made.append((losses, bits(Path(place) / f"{layout}-{number}")))
            if made[0] != made[1]:
                line.fail(f"pretraining on {layout}", "it differs")
            else:
                line.worked += 1
    line.seconds = time.monotonic() - begun
    return [line, other, loaders(COUNT if count is None else count, clock)]
