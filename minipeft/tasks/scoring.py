"""A model's answers to the examples of a task, and how good they are.

| kind of task | scores                                                                    |
|--------------|---------------------------------------------------------------------------|
| generate     | exact (whole text), overlap (ROUGE-L)                                     |
| cloze        | accuracy among all words                                                  |
| classify     | accuracy among the labels                                                 |
| tag          | accuracy of all words, f1 of whole entities (B-x I-x tags) or of words    |
| regress      | pearson (linear correlation), mse (mean squared error)                    |
| in letters   | error_rate (edit distance / length), exact: for models of pronunciation   |

`deciding` names the one score by which weights or settings are chosen, where one must be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import chain

import torch
from torch import nn
from tqdm import tqdm

from minipeft.attached import tuners
from minipeft.contexts import evaluating
from minipeft.methods.parts.validation import check_count
from minipeft.routing import route
from minipeft.tasks import metrics
from minipeft.tasks.encoding import Encoding

# the first of them that there is decides
DECIDING = ("error_rate", "overlap", "f1", "pearson", "accuracy")
LOWER_IS_BETTER = ("error_rate", "mse")
OTHER_RANGES = {  # of the scores that are no shares from 0 to 1
    **dict.fromkeys(("matthews", "pearson", "spearman"), (-1.0, 1.0)),
    **dict.fromkeys(LOWER_IS_BETTER, (0.0, math.inf)),
}


def possible(name: str) -> tuple[float, float]:
    """The lowest and the highest value that the score of this name can have."""
    return OTHER_RANGES.get(name, (0.0, 1.0))


def scores(
    task, predictions: Sequence[str], targets: Sequence[str], letters: bool = False
) -> dict[str, float]:
    """Predictions against targets, as in the table above.

    letters: the answers are compared symbol by symbol, whatever the kind of the task.
    """
    if letters:
        return {
            "error_rate": metrics.error_rate(predictions, targets),
            "exact": metrics.accuracy(predictions, targets),
        }
    if task.kind == "generate":
        return {
            "exact": metrics.exact(predictions, targets),
            "overlap": metrics.overlap(predictions, targets),
        }
    if task.kind == "regress":
        return {
            "pearson": metrics.correlation(predictions, targets),
            "mse": metrics.squared(predictions, targets),
        }
    if task.kind == "tag":
        predicted, true = [p.split() for p in predictions], [t.split() for t in targets]
        accuracy = metrics.accuracy(list(chain(*predicted)), list(chain(*true)))
        return {"accuracy": accuracy, "f1": metrics.tag_f1(predicted, true, task.labels)}
    if task.kind == "classify" and set(targets) <= set(task.labels):  # A and a may be two labels
        return {"accuracy": metrics.accuracy(predictions, targets)}
    return {"accuracy": metrics.exact(predictions, targets)}


def one_answer(task, predictions: Sequence[str], targets: Sequence[str]) -> str | None:
    """The one label, or number, that every prediction is although the targets differ; else None."""
    if task.kind not in ("classify", "tag", "regress"):
        return None
    said, wanted = set(predictions), set(targets)
    if task.kind == "tag":
        said, wanted = set(" ".join(said).split()), set(" ".join(wanted).split())
    return said.pop() if len(said) == 1 < len(wanted) else None


def deciding(names: Iterable[str]) -> str:
    """The score that decides, of those with these names."""
    names = tuple(names)
    return next(name for name in DECIDING if name in names)


@torch.no_grad()
def answers(
    encoding: Encoding,
    model: nn.Module,
    inputs: Sequence[str],
    batch_size: int = 64,
    progress: bool = False,
    known: dict[int, str] | None = None,
) -> list[str]:
    """The model's answer to every input, in their order, in eval mode.

    Texts of about one length run together. Under `route`, which names a tuner for every input,
    each one keeps its own.

    known: gets number of an input -> its answer as soon as that is there.

    Raises:
        ValueError: route() names another number of inputs, or no such batch size.
    """
    check_count("batch_size", batch_size)
    names = model.minipeft.routing if tuners(model) else None  # of `route`, one for each input
    if names is not None and len(names) != len(inputs):
        raise ValueError(
            f"route() names {len(names)} rows, but there are {len(inputs)} inputs to answer: name "
            "one tuner for each input."
        )
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    known = {} if known is None else known
    bar = tqdm(total=len(inputs), disable=not progress, delay=2, unit="example", leave=False)
    with evaluating(model), bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            with nullcontext() if names is None else route(model, [names[i] for i in chosen]):
                batch = encoding.answers(model, [inputs[i] for i in chosen])
            known.update(zip(chosen, batch, strict=True))
            bar.update(len(chosen))
    return [known[i] for i in range(len(inputs))]
