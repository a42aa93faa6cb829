"""What lesson 07 measures: prompts seen from outside, words near a prompt, votes, mixed batches.

examine(model, batch, "A")                       # what can be seen of a prompt that has a fault
vectors = trained_prompt(model, method, batches, rate, steps, seed=0)   # (P, C)
with prompts(model, {"a": vectors, "b": others}): ...             # attached, ready for route
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.contexts import evaluating
from minipeft.course.passport_facts import answers, largest_difference
from minipeft.course.runs import attached, loss_and_exact
from minipeft.doors.words import together
from minipeft.methods.prompt_tuning import Prompt, PromptTuning
from minipeft.report import Table
from minipeft.routing import route
from minipeft.tasks.metrics import exact, normal
from minipeft.tasks.tasks import Task
from minipeft.training.loop import train
from minipeft.tuner import Tuner

# ---- patients ----

CAUSES = {
    "labels": "the labels are 0 where the prompt stands, not -100",
    "padding": "the prompt is in front of the padding, the mask got its P ones at the right end",
    "mask": "the mask got P zeros for the prompt, not ones",
    "detached": "the prompt is cut off from the graph (detached) when it is looked up",
    "healthy": "nothing is wrong",
}
PATIENTS = {"A": "padding", "B": "detached", "C": "healthy", "D": "labels", "E": "mask"}


class DetachedPrompt(Prompt):
    """A prompt that nothing can reach."""

    def forward(self) -> Tensor:
        return self.vectors.detach()


def padded_left(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch that is padded on the right, padded on the left: each row moves to the end."""
    T = batch["input_ids"].shape[1]
    room = T - batch["attention_mask"].sum(dim=1, keepdim=True)  # (B, 1)
    columns = (torch.arange(T) - room) % T  # (B, T) the old column of each new one
    return {key: value.gather(1, columns) for key, value in batch.items()}


def shortest_alone(batch: dict[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
    """The shortest row of a batch that is padded on the left: (its number, the row without it)."""
    length, row = batch["attention_mask"].sum(dim=1).min(dim=0)
    return int(row), {key: v[row, -int(length) :][None] for key, v in batch.items()}


def examine(model: nn.Module, batch: dict[str, Tensor], patient: str) -> dict[str, float]:
    """An untrained prompt that has a fault, seen from outside.

    Args:
        batch: of a decoder, padded on the right; it is shown padded on the left.
        patient: one of PATIENTS.

    Returns:
        "labels": how many tokens are asked for; "loss"; "base": the loss without a prompt;
        "gradient": of the prompt, its length; "alone": by how much the logits of the shortest row
        differ when it is alone from those that it has in the batch.
    """
    fault, batch = PATIENTS[patient], padded_left(batch)
    with evaluating(model), torch.no_grad():
        bare = model(**batch).loss.item()
    with attached(model, PromptTuning(5, start="vocabulary"), seed=0) as tuner, evaluating(model):
        if fault == "detached":
            tuner.patches[0][1].__class__ = DetachedPrompt

        def given(rows: dict[str, Tensor]) -> dict[str, Tensor]:
            wrapped = tuner.wrap(rows)
            soft = wrapped["input_ids"] >= tuner.words[0]  # (B, P + T)
            if fault == "labels":
                wrapped["labels"] = wrapped["labels"].masked_fill(soft, 0)
            if fault == "mask":
                wrapped["attention_mask"] = wrapped["attention_mask"].masked_fill(soft, 0)
            if fault == "padding":
                front = torch.tensor([*tuner.words]).expand(len(soft), -1)  # (B, P)
                wrapped["input_ids"] = torch.cat([front, rows["input_ids"]], dim=1)
                wrapped["labels"] = F.pad(rows["labels"], (5, 0), value=-100)
                wrapped["attention_mask"] = F.pad(rows["attention_mask"], (0, 5), value=1)
            return wrapped

        wrapped = given(batch)
        output = model(**wrapped)
        if output.loss.requires_grad:
            output.loss.backward()
        gradient = tuner.patches[0][1].vectors.grad
        row, single = shortest_alone(batch)
        with torch.no_grad():
            logits = model(**given(single)).logits[0, -1]
        return {
            "labels": int((wrapped["labels"] != -100).sum()),
            "loss": output.loss.item(),
            "base": bare,
            "gradient": 0.0 if gradient is None else gradient.norm().item(),
            "alone": (logits - output.logits[row, -1]).abs().max().item(),
        }


def patients_table(model: nn.Module, batch: dict[str, Tensor]) -> Table:
    """What can be seen of every patient, see `examine`."""
    rows = []
    for who in PATIENTS:
        seen = examine(model, batch, who)
        losses = f"{seen['loss']:.4f}", f"{seen['base']:.4f}"
        rows.append(
            (who, seen["labels"], *losses, f"{seen['gradient']:.3f}", f"{seen['alone']:.3f}")
        )
    asked = int((batch["labels"] != -100).sum())
    head = ("", "labels", "loss", "loss of the base", "gradient of P_e", "alone and in the batch")
    notes = [
        f"The answers of the batch have {asked} tokens. Last column: by how much the answer to the "
        "shortest row, which has the most padding, differs when the row is alone."
    ]
    return Table("Five prompts that nobody has trained", head, rows, notes)


# ---- training ----


def trained_prompt(
    model: nn.Module, method: PromptTuning, batches: Callable, rate: float, steps: int, seed: int
) -> Tensor:
    """A prompt after training on step -> batch, (P, C). The base is left as it was."""
    with attached(model, method, seed=seed) as tuner:
        train(model, batches, steps, rate, seed=seed, progress=False)
        return vectors_of(tuner).detach().clone()


def in_turns(feeds: Sequence[Callable]) -> Callable[[int], dict[str, Tensor]]:
    """Batches of several tasks in turns: step -> a batch of one of them."""
    return lambda step: feeds[step % len(feeds)](step // len(feeds))


def vectors_of(tuner: Tuner) -> nn.Parameter:
    """The trained vectors of a PromptTuning, (P, C)."""
    (vectors,) = tuner.parameters()
    return vectors


@contextmanager
def prompts(model: nn.Module, vectors: Mapping[str, Tensor]) -> Iterator[dict[str, Tuner]]:
    """Prompts (P, C), each a tuner of its name, attached for a block of code."""
    with ExitStack() as stack:
        tuners = {}
        for name, values in vectors.items():
            method = PromptTuning(len(values))
            tuners[name] = stack.enter_context(attached(model, method, name=name))
            vectors_of(tuners[name]).data.copy_(values)
        yield tuners


def exact_with(model: nn.Module, vectors: Tensor, batch: dict[str, Tensor]) -> float:
    """Exact match of a batch with this prompt (P, C) before it."""
    with prompts(model, {"prompt": vectors}):
        return loss_and_exact(model, batch)[1]


# ---- several prompts ----


def wrong_prompts(
    model: nn.Module, vectors: Mapping[str, Tensor], batches: Mapping[str, dict[str, Tensor]]
) -> list[list[float]]:
    """Exact match of every batch (a row) with every prompt (P, C) before it (a column)."""
    return [[exact_with(model, v, batch) for v in vectors.values()] for batch in batches.values()]


def mixed_tasks(
    model: nn.Module,
    vectors: Mapping[str, Tensor],
    batches: Mapping[str, dict[str, Tensor]],
    padding: int,
) -> tuple[float, float]:
    """The rows of several tasks in one batch, each with the prompt of its task, in any order.

    Args:
        vectors, batches: task -> its prompt (P, C), its batch, padded on the right.
        padding: the id of a padding token.

    Returns:
        by how much the logits differ at most from those of a pass for each task; exact match of
        the batch.
    """
    parts = [(name, row) for name, batch in batches.items() for row in range(len(batch["labels"]))]
    random.Random(0).shuffle(parts)
    names = [name for name, _ in parts]
    rows = [[i for i, name in enumerate(names) if name == task] for task in batches]
    ordered = [
        {key: value[[row for name, row in parts if name == task]] for key, value in batch.items()}
        for task, batch in batches.items()
    ]
    whole = together(ordered, rows, left=False, padding=padding)
    alone: list[Tensor] = [torch.empty(0)] * len(names)
    with prompts(model, vectors):
        for task, batch, places in zip(batches, ordered, rows, strict=True):
            with route(model, [task] * len(places)):
                for place, logits in zip(places, answers(model, batch), strict=True):
                    alone[place] = logits
        with route(model, names):
            mixed = answers(model, whole)
            return largest_difference(alone, mixed), loss_and_exact(model, whole)[1]


def votes(
    base: tuple[nn.Module, object], members: Sequence[Tensor], task: Task, rows: int = 100
) -> tuple[list[float], float]:
    """Exact match of every prompt (P, C), and of the answer that most of them write.

    All of them answer in one pass: each row is shown once for every prompt, by `route`. Of answers
    with equally many votes the one of the earliest prompt counts, as in `minipeft.vote_written`.
    """
    model, tokenizer = base
    examples = task.test[:rows]
    names = [f"member{i}" for i in range(len(members))]
    inputs = [example.input for example in examples for _ in names]
    with (
        prompts(model, dict(zip(names, members, strict=True))),
        route(model, names * len(examples)),
    ):
        written = task.predict(model, tokenizer, inputs)
    E = len(names)
    written = [normal(text) for text in written]
    texts = [written[i : i + E] for i in range(0, len(written), E)]  # (rows, E)
    right = [normal(example.target) for example in examples]
    each = [exact([row[i] for row in texts], right) for i in range(E)]
    voted = [Counter(row).most_common(1)[0][0] for row in texts]
    return each, exact(voted, right)


# ---- words near a prompt ----


def nearest_words(vectors: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """For each vector (P, C) the word (V, C) of the highest cosine: (cosines, ids), both (P,)."""
    cosines = F.normalize(vectors, dim=-1) @ F.normalize(words, dim=-1).T  # (P, V)
    return cosines.max(dim=-1)


# ---- picture ----


def picture(width: float = 9.0):
    """Two rows of one batch, each with the prompt of its own task, go into one frozen model."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    from minipeft.analysis.figures import readable
    from minipeft.course.pictures import DOORS, EDGE, FROZEN, INK

    figure, axes = plt.subplots(figsize=(width, 3.4), dpi=96)
    shape = "round,pad=0,rounding_size=0.12"
    colours = {"reverse": DOORS["words"], "capital": "#92400e"}

    def box(x, y, wide, high, text, colour, ink="white"):
        patch = FancyBboxPatch((x, y), wide, high, boxstyle=shape, fc=colour, ec=EDGE)
        axes.add_patch(patch)
        axes.text(x + wide / 2, y + high / 2, text, ha="center", va="center", color=ink)

    for y, task, words, answer in (
        (2.1, "reverse", ("cat", "sun", "=>"), "sun cat"),
        (0.8, "capital", ("peru",), "lima"),
    ):
        for p in range(3):
            box(1.05 * p, y, 0.95, 0.8, f"$p_{p + 1}$", colours[task])
        for t, word in enumerate(words):
            box(3.4 + 1.15 * t, y, 1.05, 0.8, word, FROZEN, INK)
        axes.annotate("", (7.5, y + 0.4), (7.0, y + 0.4), arrowprops=dict(arrowstyle="->"))
        axes.annotate("", (10.3, y + 0.4), (9.8, y + 0.4), arrowprops=dict(arrowstyle="->"))
        axes.text(10.4, y + 0.4, answer, va="center", style="italic", color=INK)
        axes.text(-0.15, y + 0.4, task, va="center", ha="right", color=colours[task])
    box(7.5, 0.6, 2.3, 2.5, "language\nmodel\n(frozen)", FROZEN, INK)
    axes.text(1.5, 3.2, "P trained vectors", ha="center", color=DOORS["words"])
    axes.text(5.1, 3.2, "words of the input", ha="center", color=INK)
    axes.set(xlim=(-1.6, 11.9), ylim=(0.3, 3.6))
    axes.axis("off")
    readable(figure)
    return figure
