"""The loss of heads.py without the softmax of what is not asked; the models use it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .heads import cross_entropy


def labelled_cross_entropy(logits: Tensor | None, labels: Tensor | None) -> Tensor | None:
    """As `cross_entropy`: where most labels are -100, as of masked words, their logits go first.

    Args:
        logits: (..., V).
        labels: (...), None for no loss. Numbers, and not classes, are compared with the first
            logit: mean squared error, as transformers' heads of one label have it.

    Raises:
        ValueError: numbers, and the head has several logits or another number of rows.
    """
    if labels is None:
        return None
    if labels.is_floating_point():
        if logits.shape[-1] != 1 or labels.numel() != logits.numel():
            raise ValueError(
                f"The labels are {labels.numel()} numbers, but the head gives "
                f"{tuple(logits.shape)}: classes are whole numbers, and a number to predict needs "
                "a head of one label."
            )
        return F.mse_loss(logits.flatten().float(), labels.flatten().float())
    logits, labels = logits.flatten(0, -2), labels.flatten()  # (N, V), (N)
    asked = (labels != -100).nonzero()[:, 0]  # (n,)
    if 2 * len(asked) < len(labels):
        logits, labels = logits.index_select(0, asked), labels[asked]  # (n, V), (n)
    return cross_entropy(logits, labels)
