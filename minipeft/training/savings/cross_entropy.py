"""An exact saving: cross-entropy that fills one tensor less on its way back.

    L = - sum_n log p_n,label          dL / dlogits_n = p_n - onehot(label)          logits (n, V)

Of log p comes dL / dlog p, zeros but for one number in each row, and of that the gradient. torch
makes a tensor of the logits' size for each of the two; here the second is written over the first.
On a processor most of the time goes into getting such memory, so that it takes half as long. So it
takes the place of the loss of every causal model of transformers (`lean_loss`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minipeft.training.batches import without_labels
from minipeft.training.savings.usual_loss import asks_every_row, next_tokens


class SummedCrossEntropy(torch.autograd.Function):
    """Logits (n, V), labels (n,), -100 where nothing is asked -> the sum of the n losses."""

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = logits.log_softmax(dim=-1)  # (n, V)
        ctx.save_for_backward(log_p, labels)
        return F.nll_loss(log_p, labels, reduction="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        log_p, labels = ctx.saved_tensors
        rows = torch.arange(len(labels), device=labels.device)
        result = torch.zeros_like(log_p)  # (n, V): dL / dlog p
        result[rows, labels.clamp(min=0)] = -gradient * (labels != -100)
        of_log_softmax = torch.ops.aten._log_softmax_backward_data.out  # torch calls it as well
        return of_log_softmax(result, log_p, 1, log_p.dtype, out=result), None


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """As `cross_entropy(logits, labels, reduction="sum")` of torch, and on accelerators that."""
    if logits.device.type != "cpu":
        return F.cross_entropy(logits, labels, reduction="sum")
    return SummedCrossEntropy.apply(logits, labels)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """As `cross_entropy(logits, labels)` of torch: the mean over the labels that are not -100."""
    return summed_cross_entropy(logits, labels) / (labels != -100).sum()


def lean_loss(model: nn.Module, batch: dict) -> Tensor | None:
    """The loss of a wrapped batch that asks nearly everywhere; None where it is another one, and on
    accelerators.
    """
    if not asks_every_row(model, batch) or batch["labels"].device.type != "cpu":
        return None
    labels = next_tokens(model, batch)  # (B, T)
    if labels is None:
        return None
    return answered_loss(model, batch, labels)


def answered_loss(model: nn.Module, batch: dict, labels: Tensor, **how) -> Tensor:
    """The mean loss of what a model answers to a batch, called with `how`: logits (B, k, V) for
    labels (B, k).
    """
    logits = model(**without_labels(batch), **how).logits
    return mean_cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
