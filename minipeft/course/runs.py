"""Runs that lessons share: attach, train, measure, detach; for `contest` in experiments.py.

    def run(name, rate, seed):
        return tuned_task("tiny-decoder-0.4m", METHODS[name], "reverse", rate, steps=60, seed=seed)

A run borrows its base: the model is what it was, to the last bit, when the run is over, also when
the training failed. So all runs of a lesson use one model object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache

import torch
from torch import Tensor, nn

import tiny_transformer as tt
from minipeft import tasks
from minipeft.contexts import evaluating
from minipeft.course.experiments import failure
from minipeft.course.transfer import forgotten
from minipeft.methods.lora import LoRA
from minipeft.methods.method import Method
from minipeft.model.kind import head_of, kind_of
from minipeft.routing import wrap
from minipeft.tasks.scoring import deciding
from minipeft.tasks.tasks import Task
from minipeft.training.loop import train
from minipeft.training.sweep import Run, exact_and_loss, train_side_by_side
from minipeft.tuner import Tuner, attach


@contextmanager
def attached(model: nn.Module, method: Method, **options) -> Iterator[Tuner]:
    """`attach` for a block of code: at its end the tuner is detached, whatever happened inside."""
    tuner = attach(model, method, **options)
    try:
        yield tuner
    finally:
        if not tuner.detached:
            tuner.detach()


@lru_cache(maxsize=4)
def base(name: str, head: str = "language", labels: int | None = None, seed: int = 0) -> tuple:
    """(model, tokenizer) of the project, opened once and shared by all runs that name it."""
    return tt.load(name, head=head, labels=labels, seed=seed)


def rows_of(task: Task, split: str, tokenizer, model: nn.Module, head=None, rows: int = 100):
    """The first batch of a split, of at most that many rows: what runs are measured on."""
    return task.batches(split, tokenizer, kind_of(model), batch_size=rows, head=head)(0)


@torch.no_grad()
def loss_and_exact(model: nn.Module, batch: dict[str, Tensor]) -> tuple[float, float]:
    """(mean loss in nats, share of rows in which every label is the model's first choice).

    In a decoder that writes, that share is what greedy writing gets right, in one pass: where all
    words before are right, the next one is written after the same words. With a tagging head every
    position answers for itself. Soft prompts are put in here.
    """
    with evaluating(model):
        batch = wrap(model, batch)
        output = model(**batch)
    labels, predicted = batch["labels"], output.logits.argmax(dim=-1)
    if labels.dim() == 2 and kind_of(model) == "decoder" and head_of(model) != "tagging":
        labels, predicted = labels[:, 1:], predicted[:, :-1]  # position t answers for t + 1
    right = (predicted == labels) | (labels == -100)
    return output.loss.item(), right.reshape(len(right), -1).all(dim=1).float().mean().item()


def quality(
    model: nn.Module, tokenizer, task: Task, split: str, head: str | None = None, rows: int = 100
) -> float:
    """The score of a task that decides, such as exact match: one pass where one pass can tell."""
    if kind_of(model) == "decoder" and task.kind == "generate":
        return loss_and_exact(model, rows_of(task, split, tokenizer, model, head, rows))[1]
    scores = task.score(model, tokenizer, split, limit=rows)
    return scores["exact"] if "exact" in scores else scores[deciding(scores)]


class Known:
    """What a decoder of Tinyland knows, to see how much of it is forgotten.

    facts: capitals, in a wording that pretraining used.  strings: four functions on rows of nouns,
    called by their names.

    Args:
        rows: how many questions of each.
    """

    def __init__(self, model: nn.Module, tokenizer, rows: int = 40) -> None:
        if kind_of(model) != "decoder":
            raise ValueError("Known asks models that write: give a decoder, or leave known out.")
        countries = tasks.load("capital").train[:rows]
        facts = [(f"the capital of {country} is", capital) for country, capital in countries]
        names = ("copy", "rotate", "swap", "double")
        strings = [
            (f"{name} : {row}", result)
            for name in names
            for row, result in tasks.load(name).test[: -(-rows // len(names))]
        ]
        self.probes = {
            "facts": tasks.make("facts", "cloze", test=facts),
            "strings": tasks.make("strings", "generate", test=strings),
        }
        self.tokenizer = tokenizer
        self.before = self.answers(model)

    def answers(self, model: nn.Module) -> dict[str, list[str]]:
        """What the model says to every question now."""
        return {
            name: probe.predict(model, self.tokenizer, [question for question, _ in probe.test])
            for name, probe in self.probes.items()
        }

    def right(self, model: nn.Module, kind: str) -> float:
        """Share of the questions of a kind, "facts" or "strings", that are answered right now."""
        scores = self.probes[kind].score(model, self.tokenizer)
        return scores[deciding(scores)]

    def forgotten(self, model: nn.Module) -> dict[str, float]:
        """Share of the once right answers that are wrong now: "forgotten" is the mean of kinds."""
        now = self.answers(model)
        lost = {
            name: forgotten(self.before[name], now[name], [target for _, target in probe.test])
            for name, probe in self.probes.items()
        }
        return {"forgotten": sum(lost.values()) / len(lost), **lost}


def tuned_task(
    base_model: str | tuple[nn.Module, object],
    method: Method | None,
    task: str | Task,
    rate: float,
    steps: int,
    seed: int,
    *,
    batch_size: int = 16,
    examples: int | None = None,
    head: str | None = None,
    rows: int = 100,
    known: Known | None = None,
    ood: bool = False,
    **training,
) -> dict:
    """Fine-tune once, measure, take the method away again.

    Args:
        base_model: a name of the project's models, or (model, tokenizer).
        method: None measures the base as it is.
        task: a name or a task.
        seed: of the method's first numbers, of the order of the examples, of a fresh head.
        examples: only the first so many are learnt from.
        head: "classification" or "tagging" gives a fresh head to a model that is named.
        rows: how many of dev, test and ood are measured.
        known: what is asked about forgetting.
        ood: measure out of domain too.
        training: more arguments of `minipeft.train`, such as weight_decay.

    Returns:
        "dev": loss in nats.  "test", and "ood": the task's score.  "trained": how many parameters,
        the head with them.  "stored": bytes of the tensors that `save` writes.  "history": of the
        training.  "forgotten", "facts", "strings": with `known`.

    Raises:
        Diverged: the loss is not a number any more. `contest` counts that as infinitely bad.
    """
    task = tasks.load(task) if isinstance(task, str) else task
    if isinstance(base_model, str):
        labels = len(task.labels) if head in ("classification", "tagging") else None
        base_model = base(base_model, head or "language", labels, 0 if labels is None else seed)
    model, tokenizer = base_model

    def measured() -> dict:
        dev = loss_and_exact(model, rows_of(task, "dev", tokenizer, model, head, rows))[0]
        result = {"dev": dev}
        for split in ("test", "ood") if ood else ("test",):
            result[split] = quality(model, tokenizer, task, split, head, rows)
        return result | (known.forgotten(model) if known else {})

    if method is None:
        return measured() | {"trained": 0, "stored": 0}
    with attached(model, method, seed=seed) as tuner:
        batches = task.batches(
            "train",
            tokenizer,
            kind_of(model),
            batch_size=batch_size,
            seed=seed,
            head=head,
            limit=examples,
        )
        history = train(model, batches, steps, rate, seed=seed, progress=False, **training)
        stored = sum(tensor.nbytes for tensor in method.export_state(tuner).values())
        trained = sum(parameter.numel() for parameter in tuner.parameters())
        return measured() | {"trained": trained, "stored": stored, "history": history}


def side_by_side(
    base_model: str | tuple[nn.Module, object],
    methods: Mapping[str, LoRA | tuple[LoRA, Callable]],
    task: str | Task,
    steps: int,
    *,
    batch_size: int = 16,
    rows: int = 100,
    at_once: int = 24,
) -> Callable[[list[tuple[str, float, int]]], list[dict]]:
    """A run for `contest(.., together=True)`: many LoRAs trained in one pass, each as if alone.

    Exact for LoRA without dropout on a decoder (`minipeft.training.sweep`); other methods are
    refused there in a sentence.

    Args:
        methods: name of an arm -> its LoRA, or (LoRA, what else to do to a fresh patch).
        at_once: how many runs share a pass.

    A result has "dev", "test", "losses" by step, and "deltas": path of a linear map -> what the run
    would add to its weight (out, in), if it were merged.
    """
    task = tasks.load(task) if isinstance(task, str) else task
    model, tokenizer = base(base_model) if isinstance(base_model, str) else base_model
    splits = {
        split: rows_of(task, split, tokenizer, model, None, rows) for split in ("dev", "test")
    }

    @cache
    def order(seed: int):
        return task.batches("train", tokenizer, batch_size=batch_size, seed=seed)

    def measured(model: nn.Module, runs: int) -> list[dict]:
        dev, test = (exact_and_loss(model, splits[split], runs) for split in ("dev", "test"))
        return [{"dev": d["loss"], "test": t["exact"]} for d, t in zip(dev, test, strict=True)]

    def run(jobs: list[tuple[str, float, int]]) -> list[dict]:
        results = []
        for first in range(0, len(jobs), at_once):
            runs = []
            for name, rate, seed in jobs[first : first + at_once]:
                method, start = one if isinstance(one := methods[name], tuple) else (one, None)
                runs.append(Run(method, rate, seed, start))
            results += train_side_by_side(
                model, runs, lambda seed, step: order(seed)(step), steps, evaluate=measured
            )
        return [
            failure("The loss is nan.")
            if result.losses[-1] != result.losses[-1]
            else result.scores | {"losses": result.losses, "deltas": result.deltas}
            for result in results
        ]

    return run
