"""Lesson 14: what can be seen of a broken run from outside, without asking the doctor.

chart_one(FIRST)     # two rooms: what training did to the new tensors
chart_two(SECOND)    # what became of the answers on the way out of training
gaps(dtype, values)  # the distance from a number to the next one that a dtype has
answers_of(kinds)    # what the doctor finds, before and after mending
steps_that_move(rates), who_sees_what(kinds)    # pictures
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

import minipeft as mp
import tiny_transformer as tt
from minipeft.analysis import plots
from minipeft.course.museum import Exhibit, exhibit
from minipeft.doors.layers import is_map
from minipeft.report import Table

STEPS = 20


def chart_one(kinds: Mapping[str, str], steps: int = STEPS) -> Table:
    """Of every run: loss, labels, and what the steps did to the tensors that are to be trained."""
    rows = [first_row(name, exhibit(kind), steps) for name, kind in kinds.items()]
    rows.append(first_row("healthy", exhibit("zero start", mended=True), steps))
    header = ("run", "loss at first", "and last", "labels not -100", "dtype", "places called",
              "tensors to train", "no gradient", "gradient all 0", "numbers moved")  # fmt: skip
    return Table(f"Room one: {steps} steps on one batch", header, rows)


def first_row(name: str, run: Exhibit, steps: int) -> tuple:
    trained = run.tuner.parameters()
    before = [p.detach().clone() for p in trained]
    losses = run.train(steps)
    none = sum(p.grad is None for p in trained)
    zero = sum(p.grad is not None and not bool(p.grad.any()) for p in trained)
    moved = sum(int((p != old).sum()) for p, old in zip(trained, before, strict=True))
    every = sum(p.numel() for p in trained)
    labels = run.batch["labels"]
    asked = f"{int((labels != -100).sum())} of {labels.numel()}"
    dtype = str(trained[0].dtype).removeprefix("torch.")
    return (name, f"{losses[0]:.2f}", f"{losses[-1]:.2f}", asked, dtype, called(run), len(trained),
            none, zero, f"{100 * moved / every:.0f} %")  # fmt: skip


def called(run: Exhibit) -> str:
    """At how many of the places of the patches does a pass call the layer?"""
    doors, calls = run.tuner.doors(), set()
    hooks = [
        door.register_forward_pre_hook(lambda *_, n=n: calls.add(n)) for n, door in enumerate(doors)
    ]
    logits(run.model, run.batch)
    for hook in hooks:
        hook.remove()
    return f"{len(calls)} of {len(doors)}" if doors else "-"


def chart_two(kinds: Mapping[str, str], steps: int = STEPS) -> Table:
    """Of every run: where its patches stand, and whether its answers survive what comes next."""
    rows = [second_row(name, exhibit(kind), steps) for name, kind in kinds.items()]
    rows.append(second_row("healthy", exhibit("targets", mended=True), steps))
    header = ("run", "loss at first", "and last", "blocks with a patch", "merged by hand",
              "saved and loaded", "padding taken off", "largest weight with no patch")  # fmt: skip
    return Table(f"Room two: {steps} steps, then the answers again", header, rows)


def second_row(name: str, run: Exhibit, steps: int) -> tuple:
    losses = run.train(steps)
    answers = logits(run.model, run.batch)
    cells = [blocks_with_a_patch(run)]
    for other in (merged_by_hand(run), saved_and_loaded(run), without_padding(run)):
        cells.append("-" if other is None else moved(answers, other))
    return (name, f"{losses[0]:.2f}", f"{losses[-1]:.2f}", *cells, largest_without(run))


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model.eval()(**batch).logits.clone()


def moved(before: Tensor, after: Tensor) -> str:
    """How far the answers are moved, as a share of their size; "same" where only by rounding."""
    if after.shape != before.shape:
        before = before[:1, -after.shape[1] :]
    change = float((after - before).abs().max() / before.abs().max())
    return "same" if change < 1e-4 else f"{100 * change:.0f} % off"


def blocks_with_a_patch(run: Exhibit) -> str:
    anatomy = run.tuner.anatomy
    stack = "blocks" if "blocks" in anatomy.modules else "layers"
    have = {place.path.split(".")[1] for place, _ in run.tuner.patches if stack in place.path}
    return f"{len(have)} of {len(anatomy.modules[stack])}" if have else "-"


def largest_without(run: Exhibit) -> str:
    """The largest weight of a map, or of experts, that has no patch."""
    modules = run.tuner.anatomy.modules
    paths = {place.path for place, _ in run.tuner.patches}
    weights = {
        f"{path}.{key}": parameter
        for path, module in modules.items()
        if path not in paths and (is_map(module) or path.endswith("experts"))
        for key, parameter in module._parameters.items()
        if parameter is not None
    }
    name = max(weights, key=lambda name: weights[name].numel())
    return f"{name.removesuffix('.weight')} {tuple(weights[name].shape)}"


@torch.no_grad()
def merged_by_hand(run: Exhibit) -> Tensor | None:
    """W + s B A written into the weights, as a program does that does not ask who shares them."""
    patches = run.tuner.patches
    if not all(isinstance(place.module, nn.Linear) for place, _ in patches):
        return None
    kept = [(place.module.weight, place.module.weight.detach().clone()) for place, _ in patches]
    with run.tuner.disabled():
        for place, patch in patches:
            place.module.weight += patch.delta()
        answers = logits(run.model, run.batch)
        for weight, value in kept:
            weight.copy_(value)
    return answers


def saved_and_loaded(run: Exhibit) -> Tensor:
    """The answers of the next process: the base as loaded, a head as it is drawn, the file."""
    base = copy.deepcopy(run.model)
    for tuner in mp.tuners(base).values():
        tuner.detach()
    head = base._modules.get("head")
    if isinstance(head, tt.ClassificationHead):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            nn.init.normal_(head.classes.weight, std=0.02)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prompt of this model is not in PEFT's layout
        run.tuner.save(folder)
        mp.load(base, folder, name="again", any_base=True, family=run.tuner.anatomy.family)
    return logits(base, run.batch)


def without_padding(run: Exhibit) -> Tensor | None:
    """The first row by itself, its padding taken off; None where it has none."""
    mask = run.batch["attention_mask"][0] == 1
    if bool(mask.all()):
        return None
    row = {key: value[:1, mask] for key, value in run.batch.items()}
    return logits(run.model, row)[:, -int(mask.sum()) :]


# ---- half precision ----


def gaps(dtype: torch.dtype, values: Sequence[float]) -> list[float]:
    """From each number to the next larger one that the dtype has."""
    numbers = torch.tensor(values, dtype=dtype)
    bits = numbers.view(torch.int16 if dtype.itemsize == 2 else torch.int32)
    return ((bits + 1).view(dtype).double() - numbers.double()).tolist()


def share_moved(rates: Sequence[float], dtype: torch.dtype, seed: int = 0) -> list[float]:
    """Of the numbers of a weight matrix drawn with 0.02: which share does one step move?"""
    weight = 0.02 * torch.randn(256, 256, generator=torch.Generator().manual_seed(seed))
    weight = weight.to(dtype)
    return [float((weight + rate != weight).float().mean()) for rate in rates]


# ---- the doctor ----


def answers_of(kinds: Mapping[str, str]) -> Table:
    """What the doctor finds in each run, and in the run as it should have been."""
    rows = []
    for name, kind in kinds.items():
        (finding,) = examined(exhibit(kind)).findings
        healthy = examined(exhibit(kind, mended=True))
        after = "nothing found" if healthy.passed else ", ".join(healthy.kinds)
        rows.append((name, finding.kind, finding.place, after))
    return Table("What the doctor says", ("run", "kind", "place", "once mended"), rows)


def examined(run: Exhibit) -> mp.Diagnosis:
    """The doctor's table for a run."""
    return mp.doctor(run.model, run.batch, run.rate)


# ---- pictures ----


def steps_that_move(rates: Sequence[float]):
    """Which share of a weight matrix does one step move, in three dtypes?"""
    axes = plots.new_axes(width=7.0)
    styles = {
        "float32": ("-", "#2563a8"),
        "float16": ("--", "#7c3aed"),
        "bfloat16": (":", "#b91c1c"),
    }
    for name, (style, colour) in styles.items():
        shares = share_moved(rates, getattr(torch, name))
        axes.plot(rates, shares, style, color=colour, label=name, linewidth=2.5)
    axes.set_xscale("log")
    lost = 1 - share_moved([1e-5], torch.bfloat16)[0]
    plots.finish(axes, "size of the step", "share of the weights that move",
                 "One step, weights of standard deviation 0.02", legend="weights in")  # fmt: skip
    plots.add_caption(
        axes.figure, f"A step of 1e-05 is lost on {100 * lost:.0f} % of these weights in bfloat16."
    )
    return axes.figure


def who_sees_what(kinds: Mapping[str, str]):
    """Runs down, kinds of findings across: 1 where the doctor finds it."""
    names = list(kinds.values())
    tables = {name: examined(exhibit(kind)).kinds for name, kind in kinds.items()}
    matrix = torch.tensor([[float(kind in seen) for kind in names] for seen in tables.values()])
    axes = plots.new_axes(width=8.0, height=4.6)
    axes.imshow(matrix, aspect="auto", cmap="Greys", vmin=0, vmax=1.3)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(kinds)), list(kinds))
    every = int(matrix.sum())
    plots.finish(axes, "kind of the finding", "run", "What is found in which run", legend=False)
    once = every == len(kinds) and bool(matrix.diag().all())
    says = ": each fault once, under its right name." if once else ": not one for each fault."
    plots.add_caption(axes.figure, f"{len(kinds)} runs, {every} findings{says}")
    return axes.figure
