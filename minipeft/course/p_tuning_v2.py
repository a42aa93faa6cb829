"""Lesson 09: tasks made of tags, what a deep prompt costs at its start, five prompts, four ill.

mentions("food")                    # does a sentence name a food? yes or no, from the task "tags"
said_at_the_mask(model, .., task)   # how likely every word is as an answer
start_table(names, task, lengths)   # what a prompt that has learnt nothing does to a model
patients_table(model, batch)        # what can be seen of every patient from outside
side_by_side_settings()             # the settings of prefix-tuning beside those of P-Tuning v2
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from minipeft.contexts import evaluating
from minipeft.course.experiments import Difference
from minipeft.course.prefix import prefix_share
from minipeft.course.runs import attached, base
from minipeft.methods.p_tuning_v2 import PTuningV2
from minipeft.methods.prefix import Prefix
from minipeft.model.kind import kind_of
from minipeft.report import Table
from minipeft.tasks.tasks import SPLITS, Task, load, make
from minipeft.training.loop import train
from minipeft.training.loss import loss_of
from minipeft.training.warm_up import warm_up
from minipeft.tuner import Tuner


def mentions(tag: str, yes: str = "yes", no: str = "no") -> Task:
    """The sentences of the task "tags", with one question each: does it hold a word with this tag?

    yes, no: the labels, which are the words of a verbalizer.

    Raises:
        ValueError: no such tag.
    """
    tags = load("tags")
    if tag not in tags.labels:
        raise ValueError(f"tag is one of {', '.join(tags.labels)}, not {tag!r}.")
    splits = {
        split: [
            (example.input, yes if tag in example.target.split() else no)
            for example in tags.examples(split)
        ]
        for split in SPLITS
    }
    return make(f"mentions-{tag}", "classify", labels=(yes, no), **splits)


@torch.no_grad()
def said_at_the_mask(model: nn.Module, tokenizer, task: Task, rows: int = 64) -> dict[str, float]:
    """What an encoder says at the mask behind a text: word -> log10 of its mean probability.

    The likeliest word first.
    """
    feed = task.batches("train", tokenizer, "encoder", batch_size=rows, head="language")
    batch = feed(0)
    with evaluating(model):
        spoken = model(**batch).logits[batch["labels"] != -100]  # (rows, V)
    mean = spoken.double().softmax(dim=-1).mean(dim=0).log10()  # (V,)
    said: dict[str, float] = {}
    for i in mean.argsort(descending=True).tolist():
        said.setdefault(tokenizer.decode([i]).strip(), mean[i].item())
    return said


def differences(
    title: str, columns: Sequence[str], rows: Mapping[str, Sequence[Difference]]
) -> Table:
    """Differences with their verdicts: a row for each comparison, a column for each condition."""
    cells = [(name, *(one.text for one in row)) for name, row in rows.items()]
    return Table(title, ("", *columns), cells)


def side_by_side_settings() -> Table:
    """Every setting of `Prefix` and of `PTuningV2` with its default."""
    left, right = ({f.name: repr(f.default) for f in fields(kind)} for kind in (Prefix, PTuningV2))
    rows = [
        (name, left.get(name, "-"), right.get(name, "-")) for name in dict.fromkeys([*left, *right])
    ]
    return Table("The two files, setting by setting", ("", "06: Prefix", "09: PTuningV2"), rows)


# ---- the start ----


class AtItsStart(PTuningV2):
    """A deep prompt that stays as it was drawn: only what stands beside it is trained."""

    def install(self, tuner: Tuner) -> None:
        before = len(tuner.patches)
        super().install(tuner)
        for _, patch in tuner.patches[before:]:
            patch.requires_grad_(False)


@torch.no_grad()
def what_the_head_reads(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What enters a tagging head at the words that have a tag, (words, C)."""
    seen: list[Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda head, arguments: seen.append(arguments[0]))
    try:
        with evaluating(model):
            model(**batch)
    finally:
        hook.remove()
    return seen[0][batch["labels"] != -100]


def start_table(names: Sequence[str], task: Task, lengths: Sequence[int]) -> Table:
    """What a deep prompt does before its first step, on models with a tagging head.

    The share of attention that falls on it (the mean of lambda over layers and heads), and how far
    what the head reads is moved: the length of the change to the length of what it read before.
    """
    rows = []
    for name in names:
        model, tokenizer = base(name, "tagging", len(task.labels))
        feed = task.batches("dev", tokenizer, kind_of(model), batch_size=64, head="tagging")
        batch = feed(0)
        before, cells = what_the_head_reads(model, batch), []
        for P in lengths:
            with attached(model, PTuningV2(P), seed=0) as tuner:
                share = prefix_share(model, tuner, batch).mean().item()
                moved = (what_the_head_reads(model, batch) - before).norm() / before.norm()
            cells += [f"{100 * share:.0f} %", f"{100 * moved.item():.0f} %"]
        rows.append((name, *cells))
    head = [words for P in lengths for words in (f"attention, P = {P}", f"moved, P = {P}")]
    return Table("A deep prompt that has learnt nothing", ("", *head), rows)


# ---- several tasks ----


def warmed_up(
    model: nn.Module,
    tokenizer,
    method: PTuningV2,
    tasks: Sequence[Task],
    steps: tuple[int, int],
    rate: float,
    seed: int,
    rows: int = 100,
) -> list[float]:
    """Accuracy on the test split of each task, after a warm-up on all of them together.

    The tasks need equally many labels, since they share a head while they warm up.

    Args:
        steps: of the warm-up, all tasks together; of each task afterwards.
    """
    feeds = [
        task.batches("train", tokenizer, "encoder", batch_size=16, seed=seed, head="classification")
        for task in tasks
    ]
    shared = {
        task.name: [feed(i) for i in range(40)] for task, feed in zip(tasks, feeds, strict=True)
    }
    tuners = warm_up(model, method, shared, steps[0], rate, seed=seed, progress=False)
    scores = []
    try:
        for task, feed in zip(tasks, feeds, strict=True):
            tuners[task.name].enable()
            train(model, feed, steps[1], rate, seed=seed, progress=False)
            scores.append(task.score(model, tokenizer, "test", limit=rows)["accuracy"])
            tuners[task.name].disable()
    finally:
        for tuner in tuners.values():
            tuner.detach()
    return scores


# ---- patients ----

CAUSES = {
    "head": "the head stays as it was drawn: it is not trained",
    "late": "every word has the tag of the word before it",
    "layers": "only the highest layer has a prompt",
    "size": "the numbers of the prompts are far too large at the start",
    "healthy": "nothing is wrong",
}
PATIENTS = {"A": "late", "B": "head", "C": "healthy", "D": "size", "E": "layers"}


def one_late(labels: Tensor) -> Tensor:
    """Labels (B, T) moved to the next word; the first word of a row has none."""
    return labels.roll(1, dims=1).masked_fill(labels == -100, -100)


def examine(model: nn.Module, batch: dict[str, Tensor], patient: str, steps: int = 40) -> dict:
    """A deep prompt with a fault, trained on one batch of a tagging task and seen from outside.

    patient: one of PATIENTS. The model has a tagging head and is the same afterwards.

    Returns:
        "trained": how many numbers.  "prompts", "head": lengths of the first gradients.  "loss":
        after training, on what it was trained on.  "right": share of words with their tag.
        "late": share of words that get the tag of the word before them.
    """
    fault = PATIENTS[patient]
    top = len(list(model.blocks)) - 1
    method = PTuningV2(
        8, layers=(top,) if fault == "layers" else None, std=300.0 if fault == "size" else 0.02
    )
    labels = batch["labels"]
    given = batch | {"labels": one_late(labels)} if fault == "late" else batch
    with attached(model, method, head=fault != "head", seed=0) as tuner:
        prompts = {p for _, patch in tuner.patches for p in patch.parameters()}
        trained = list(tuner.parameters())
        with evaluating(model):
            gradients = torch.autograd.grad(loss_of(model, given), trained)
        lengths = {"prompts": 0.0, "head": 0.0}
        for parameter, gradient in zip(trained, gradients, strict=True):
            lengths["prompts" if parameter in prompts else "head"] += gradient.square().sum().item()
        train(model, [given], steps, 3e-2, progress=False)
        with evaluating(model), torch.no_grad():
            output = model(**given)
        said = output.logits.argmax(dim=-1)  # (B, T)
        before = one_late(labels)
        return {
            "trained": sum(parameter.numel() for parameter in trained),
            **{name: square**0.5 for name, square in lengths.items()},
            "loss": output.loss.item(),
            "right": (said == labels)[labels != -100].float().mean().item(),
            "late": (said == before)[before != -100].float().mean().item(),
        }


def patients_table(model: nn.Module, batch: dict[str, Tensor], steps: int = 40) -> Table:
    """What can be seen of every patient, see `examine`."""
    rows = []
    for who in PATIENTS:
        seen = examine(model, batch, who, steps)
        rows.append(
            (
                who,
                f"{seen['trained']:,}",
                f"{seen['prompts']:.2g}",
                f"{seen['head']:.2g}" if seen["head"] else "-",
                f"{seen['loss']:.2f}",
                f"{100 * seen['right']:.0f} %",
                f"{100 * seen['late']:.0f} %",
            )
        )
    head = (
        *("", "numbers trained", "gradient of the prompts", "of the head", "loss afterwards"),
        *("words right", "words that got the tag of the word before"),
    )
    return Table(f"Five deep prompts, {steps} steps on one batch", head, rows)


# ---- pictures ----


def room_for(rows: Iterable[Sequence[float]]) -> tuple[float, float]:
    """Limits of an axis of shares: from the lowest value, a tenth below it and rounded, to 1."""
    lowest = min(value for row in rows for value in row)
    return max(0.0, math.floor(10 * lowest) / 10 - 0.1), 1.0


def picture():
    """Prompts in every layer, and a linear head on [CLS] or on every word."""
    from matplotlib.patches import Rectangle

    from minipeft.analysis import plots
    from minipeft.course.pictures import DOORS, EDGE, FROZEN

    figure, axes = plots.figure(width=8.4, height=4.0)
    door = DOORS["memory"]

    def box(x, y, width, text, colour):
        axes.add_patch(Rectangle((x, y), width, 0.85, facecolor=colour, edgecolor=EDGE))
        ink = "w" if colour == door else "k"
        axes.text(x + width / 2, y + 0.42, text, ha="center", va="center", color=ink)

    words = ("[CLS]", "the", "soup", "left")
    for layer in range(3):
        y = 1.2 * layer
        for i in range(2):
            box(0.9 * i, y, 0.8, f"$k_{i}v_{i}$", door)
        for i in range(len(words)):
            box(2.2 + 1.25 * i, y, 1.1, "k, v", FROZEN)
        axes.text(7.4, y + 0.42, f"layer {layer}", va="center")
    box(2.2, 3.7, 1.1, "head", door)
    for i in range(1, len(words)):
        box(2.2 + 1.25 * i, 3.7, 1.1, "(head)", door)
    axes.text(7.4, 4.12, "a class at [CLS],\nor a tag at each word", va="center")
    for i, word in enumerate(words):
        axes.text(2.75 + 1.25 * i, -0.3, word, ha="center", va="top")
        axes.annotate("", (2.75 + 1.25 * i, 3.65), (2.75 + 1.25 * i, 3.3),
                      arrowprops={"arrowstyle": "->"})  # fmt: skip
    axes.text(0.85, -0.3, "no words", ha="center", va="top", color=door)
    axes.set(xlim=(-0.2, 10.2), ylim=(-0.9, 4.7))
    axes.axis("off")
    plots.finish(
        axes,
        legend=False,
        caption="Blue is trained: in every layer other pairs, of free numbers, and a linear head.",
    )
    return figure
