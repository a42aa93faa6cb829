"""Transfer by hand: what to train, what that costs, and what was forgotten. No doors needed.

parameters = train_top([stem, block1, block2, head], 2)   # freeze the stem and the first block
training_bytes(model)                                     # {"weights": ..., "adam": ...}
forgotten(answers_before, answers_after, targets)         # share of the known that is lost
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from minipeft.tasks.metrics import normal


def train_top(parts: Sequence[nn.Module], count: int) -> list[nn.Parameter]:
    """Freeze every part of a model but the last `count`.

    Args:
        parts: the model's modules in order, from its input to its output.
        count: how many of them, from the end, are trained: 0 freezes everything, len(parts)
            trains everything, whatever was frozen before.

    Returns:
        the parameters in training, each once. One that a frozen part uses too, such as the word
        vectors of a tied head, stays frozen.

    Raises:
        ValueError: the count is negative, or there are fewer parts.
    """
    if not 0 <= count <= len(parts):
        raise ValueError(f"count must be 0 to {len(parts)}, the number of parts, not {count}.")
    border = len(parts) - count  # not parts[-count:], which is everything for a count of 0
    frozen = {p for part in parts[:border] for p in part.parameters()}
    trained = dict.fromkeys(p for part in parts[border:] for p in part.parameters())
    for parameter in [*frozen, *trained]:
        parameter.requires_grad_(parameter not in frozen)
    return [parameter for parameter in trained if parameter not in frozen]


def training_bytes(model: nn.Module) -> dict[str, int]:
    """Predict what a model occupies while Adam trains it, activations left out.

    N parameters, of which n require a gradient, e bytes each (4 in fp32, 2 in bf16):

        weights e N        gradients e n        adam 2 e n (two running means)

    Returns:
        {"weights": bytes, "gradients": bytes, "adam": bytes}; a tied matrix counts once.
    """
    every = list(model.parameters())  # a parameter that two modules share is listed once
    trained = [parameter for parameter in every if parameter.requires_grad]
    e_N = sum(parameter.numel() * parameter.element_size() for parameter in every)
    e_n = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    return {"weights": e_N, "gradients": e_n, "adam": 2 * e_n}


def forgotten(before: Sequence[str], after: Sequence[str], targets: Sequence[str]) -> float:
    """Share of the questions that were answered right before training and are wrong after it.

        forgotten = |right before and wrong after| / |right before|

    Texts are compared after `metrics.normal` (lower case, single spaces, no full stop at the end).

    Args:
        before, after: the model's answers to the same questions, before and after training.
        targets: the right answers.

    Returns:
        0 (nothing lost) to 1 (everything). Questions learnt meanwhile do not make up for lost ones.

    Raises:
        ValueError: the lists differ in length, or nothing was right before.
    """
    if not len(before) == len(after) == len(targets):
        raise ValueError("before, after and targets must answer the same questions, one each.")
    known = [
        (now, target)
        for then, now, target in zip(before, after, targets, strict=True)
        if normal(then) == normal(target)
    ]
    if not known:
        raise ValueError("Nothing was answered right before training, so nothing can be forgotten.")
    lost = sum(normal(now) != normal(target) for now, target in known)
    return lost / len(known)
