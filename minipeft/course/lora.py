"""Lesson 10: a detour by hand, a teacher of known rank, facts to be memorised.

lora_gradients(x, A, B, scale, upstream)    # dL/dA and dL/dB, by hand
Merge(linear, A, B, scale).merge()          # the detour written into the weight, and taken out
recover(delta, r, seed)                     # what a student of rank r leaves of a known change
"""

from __future__ import annotations

import copy
import random
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from minipeft.contexts import evaluating
from minipeft.course.experiments import Outcome, failure
from minipeft.course.passport_facts import shake
from minipeft.course.runs import Known, attached
from minipeft.course.transfer import training_bytes
from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.method import Method
from minipeft.report import Table
from minipeft.tasks.tasks import Task, load, make
from minipeft.training.gradients import Diverged


def lora_gradients(
    x: Tensor, A: Tensor, B: Tensor, scale: float, upstream: Tensor
) -> tuple[Tensor, Tensor]:
    """What A and B learn from a batch, without autograd.

        h = W0 x + s B A x

    Args:
        x: what the frozen map reads, (N, T, in).
        A, B: the detour's matrices, (r, in) and (out, r).
        scale: s.
        upstream: dL/dh, what comes back from the layers above, (N, T, out).

    Returns:
        dL/dA (r, in) and dL/dB (out, r).
    """
    x, g = x.flatten(0, 1), upstream.flatten(0, 1)  # (N T, in), (N T, out)
    of_A = scale * (g @ B).T @ x  # (r, N T) (N T, in) -> (r, in)
    of_B = scale * g.T @ (x @ A.T)  # (out, N T) (N T, r) -> (out, r)
    return of_A, of_B


class Merge:
    """A detour that is written into the weight of a linear map, and taken out again.

    Args:
        linear: the map, an nn.Linear whose weight is W0 (out, in).
        A, B: (r, in) and (out, r), of the dtype of the weight; they are left alone.
        scale: s.
    """

    def __init__(self, linear: nn.Linear, A: Tensor, B: Tensor, scale: float) -> None:
        self.linear = linear
        self.A, self.B, self.scale = A, B, scale
        self.original: Tensor | None = None  # W0, while the detour is merged

    @torch.no_grad()
    def merge(self) -> None:
        """Make the weight W0 + s B A, in place. A second call changes nothing."""
        if self.original is None:
            self.original = self.linear.weight.clone()
            self.linear.weight += self.scale * (self.B @ self.A)  # (out, r) (r, in) -> (out, in)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Make the weight W0 again, in place and to the last bit. Not merged: nothing happens."""
        if self.original is not None:
            self.linear.weight.copy_(self.original)
            self.original = None


# -- the start -------------------------------------------------------------------------------------


def _random(matrix: Tensor) -> None:
    nn.init.kaiming_uniform_(matrix, a=5**0.5)  # the same recipe for A and for B


def _b_random(patch: LoRAPatch) -> None:
    nn.init.zeros_(patch.A)
    _random(patch.B)


STARTS: dict[str, Callable[[LoRAPatch], None] | None] = {
    "A random, B = 0 (the paper)": None,
    "A = 0, B random": _b_random,
    "both zero": lambda patch: nn.init.zeros_(patch.A),
    "both random": lambda patch: _random(patch.B),
}


def first_steps(model: nn.Module, method: LoRA, batch: dict[str, Tensor]) -> Table:
    """Of every one of STARTS: how far logits move, and the gradients at steps 1 and 2 (SGD)."""
    rows = []
    with evaluating(model), torch.no_grad():
        bare = model(**batch).logits
    for name, start in STARTS.items():
        with attached(model, method, seed=0) as tuner:
            for _, patch in tuner.patches:
                if start:
                    start(patch)
            with evaluating(model), torch.no_grad():
                moved = (model(**batch).logits - bare).abs().max().item()
            optimizer = torch.optim.SGD(tuner.parameters(), lr=0.1)
            lengths = []
            for _ in range(2):
                optimizer.zero_grad()
                model(**batch).loss.backward()
                for which in ("A", "B"):
                    parts = [getattr(patch, which).grad.norm() for _, patch in tuner.patches]
                    lengths.append(torch.stack(parts).norm().item())
                optimizer.step()
        rows.append((name, f"{moved:.2g}", *(f"{length:.3g}" for length in lengths)))
    head = ("start", "logits moved", "step 1: A", "step 1: B", "step 2: A", "step 2: B")
    return Table("Four starts and the lengths of their gradients", head, rows)


# -- a teacher whose rank is known -----------------------------------------------------------------


def teacher(width: int, rank: int, seed: int) -> Tensor:
    """A change (width, width) of exactly this rank, whose singular values fall from 2 to 1."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(width, rank, generator=generator))[0] for _ in range(2))
    return u @ torch.diag(torch.linspace(2, 1, rank)) @ v.T  # (C, k) (k, k) (k, C) -> (C, C)


def recover(delta: Tensor, rank: int, seed: int) -> float:
    """Train A and B towards a known change; the share of ||delta||^2 that is left.

    Inputs are white noise, so that the error is ||delta - B A||^2. LBFGS, until nothing moves.
    """
    torch.manual_seed(seed)
    C = delta.shape[1]
    patch = LoRAPatch(C, delta.shape[0], rank=rank, alpha=rank).to(delta.dtype)
    x = torch.eye(C, dtype=delta.dtype)
    optimizer = torch.optim.LBFGS(
        patch.parameters(), max_iter=300, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def error() -> Tensor:
        optimizer.zero_grad()
        loss = (delta.T - patch(x, torch.zeros_like(x))).square().sum()
        loss.backward()
        return loss

    optimizer.step(error)
    return error().item() / delta.square().sum().item()


# -- runs ------------------------------------------------------------------------------------------


@contextmanager
def changed(model: nn.Module, deltas: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with these changes added to its weights, path of a linear map -> (out, in).

    As if they were merged; at the end of the block the weights have their old bits.
    """
    weights = {path: model.get_submodule(path).weight for path in deltas}
    originals = {path: weight.detach().clone() for path, weight in weights.items()}
    try:
        with torch.no_grad():
            for path, delta in deltas.items():
                weights[path] += delta
        yield
    finally:
        with torch.no_grad():
            for path, original in originals.items():
                weights[path].copy_(original)


def forgotten_by(model: nn.Module, known: Known, outcome: Outcome) -> list[float]:
    """What is forgotten by every run of an arm: measured in the run, or with its changes merged."""
    shares = []
    for run in outcome.runs:
        if "forgotten" in run:
            shares.append(run["forgotten"])
            continue
        with changed(model, run["deltas"]):
            shares.append(known.forgotten(model)["forgotten"])
    return shares


def remembered(
    together: Callable[[list[tuple]], list[dict]], names: Collection[str], alone: Callable
) -> Callable[[list[tuple]], list[dict]]:
    """A run for `contest(.., together=True)` that runs nothing twice.

    Args:
        together: runs a list of jobs (name, rate, seed) in one pass, for the arms that can.
        names: of those arms.
        alone: (name, rate, seed) -> dict, for all others.
    """
    kept: dict[tuple, dict] = {}

    def run(jobs: list[tuple]) -> list[dict]:
        new = [job for job in dict.fromkeys(jobs) if job not in kept]
        side = [job for job in new if job[0] in names]
        kept.update(zip(side, together(side) if side else [], strict=True))
        for job in tqdm([job for job in new if job[0] not in names], leave=False):
            try:
                kept[job] = alone(*job)
            except Diverged as error:
                kept[job] = failure(str(error))
        return [kept[job] for job in jobs]

    return run


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at the lowest point of a parabola through the best three losses, over log rate.

    The best rate itself where it is at an edge. Losses are compared by their logarithms.
    """
    x = torch.tensor(rates, dtype=torch.float64).log()
    y = torch.tensor(losses, dtype=torch.float64).nan_to_num(99.0, posinf=99.0).log()
    i = int(y.argmin())
    if i in (0, len(y) - 1):
        return float(rates[i])
    powers = torch.stack([x[i - 1 : i + 2] ** n for n in range(3)], dim=1)  # (3, 3)
    c = torch.linalg.solve(powers, y[i - 1 : i + 2])
    return float((-c[1] / (2 * c[2])).exp())


# -- facts to be memorised -------------------------------------------------------------------------


def random_facts(count: int, seed: int) -> Task:
    """So many pairs of nouns, each with a noun that belongs to it by chance alone.

    All three splits hold the same rows: what is asked is what was learnt by heart.
    """
    nouns = sorted(
        {
            word
            for example in load("reverse").train
            for word in example.target.split()
            if word.isalpha()
        }
    )
    generator = random.Random(seed)
    pairs = generator.sample([(a, b) for a in nouns for b in nouns], count)
    rows = [(f"{a} {b} =>", generator.choice(nouns)) for a, b in pairs]
    return make("random facts", "generate", train=rows, dev=rows, test=rows)


# -- what it weighs and costs ----------------------------------------------------------------------


def weigh(model: nn.Module, methods: Mapping[str, Method]) -> tuple[dict[str, int], Table]:
    """Numbers that every method trains; and a table of bytes in training and on the disk."""
    trained, rows = {}, []
    for name, method in methods.items():
        with attached(model, method, seed=0) as tuner:
            trained[name] = sum(parameter.numel() for parameter in tuner.parameters())
            memory = training_bytes(model)
            stored = sum(tensor.nbytes for tensor in method.export_state(tuner).values())
        kilo = [round(part / 1000) for part in (memory["weights"], sum(memory.values()), stored)]
        rows.append((name, trained[name], *kilo))
    head = ("", "trained", "weights, kB", "with gradients and Adam, kB", "stored per task, kB")
    return trained, Table("What it weighs", head, rows, ["Activations are left out."])


@torch.no_grad()
def operations(model: nn.Module, batch: dict[str, Tensor]) -> int:
    """Multiplications and additions of one forward pass."""
    with FlopCounterMode(display=False) as counter, evaluating(model):
        model(**batch)
    return counter.get_total_flops()


def opened_elsewhere(model: nn.Module, tokenizer, method: Method, task: Task) -> None:
    """Save a shaken adapter, open the file in PEFT, and print how far the logits lie apart."""
    try:
        from peft import PeftModel
    except ImportError:
        print("PEFT is not installed, so it was not asked to open the file.")
        return
    texts = [example.input for example in task.test[:8]]
    words = tokenizer(texts, return_tensors="pt", padding=True)
    theirs = copy.deepcopy(model)
    with attached(model, method, seed=0) as tuner, tempfile.TemporaryDirectory() as folder:
        shake(tuner, seed=0)
        tuner.save(folder)
        with warnings.catch_warnings(), torch.no_grad(), evaluating(model):
            warnings.simplefilter("ignore")
            ours = model(**words).logits
            opened = PeftModel.from_pretrained(theirs, folder).eval()(**words).logits
        disk = sum(file.stat().st_size for file in Path(folder).iterdir())
    distance = (ours - opened).abs().max().item()
    print(f"{disk:,} bytes stored; opened by PEFT, logits differ by at most {distance:.1g}")
