"""An exact saving: cross-entropy in the memory of its logits.

    L = - sum_n log p_n,label          dL / dlogits_n = p_n - onehot(label)          logits (n, V)

torch makes three more tensors of the logits' size: log p, dL / dlog p, which is zero but for one
number in each row, and the gradient that comes of the two. Here log p is written over the logits
and the gradient over log p, some rows at a time, where nobody else reads the logits (`unread`);
elsewhere the gradient alone takes new memory beside log p. To get such memory a processor takes as
long as to fill it. So it takes the place of the loss of every causal model of transformers
(`lean_loss`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minipeft.model.libraries import LIBRARIES
from minipeft.training.batches import without_labels
from minipeft.training.savings.usual_loss import asks_every_row, next_tokens

AT_ONCE = 2**20  # numbers of the gradient: 4 MB in float32, which stay in the processor's cache
PRODUCTS = ("MmBackward0", "AddmmBackward0", "ToCopyBackward0")  # they do not keep what they gave
KNOWN = ("torch", "minipeft", *LIBRARIES)
VIEWS = ("ViewBackward0", "UnsafeViewBackward0")


class SummedCrossEntropy(torch.autograd.Function):
    """Logits (n, V), labels (n,), -100 where nothing is asked -> the sum of the n losses.

    overwrite: in the memory of the logits; there is one way back then, at a second torch says that
    a tensor was modified.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, overwrite: bool) -> Tensor:
        logits = logits.detach()
        log_p = logits if overwrite else torch.empty_like(logits)  # (n, V)
        torch.ops.aten._log_softmax.out(logits, 1, False, out=log_p)
        ctx.overwrite = overwrite
        ctx.save_for_backward(log_p, labels)
        return F.nll_loss(log_p, labels, reduction="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        log_p, labels = ctx.saved_tensors
        n, V = log_p.shape
        of_label = (-gradient * (labels != -100))[:, None]  # (n, 1): dL / dlog p of the label
        places, size = labels.clamp(min=0)[:, None], max(1, AT_ONCE // V)
        result = log_p if ctx.overwrite else torch.empty_like(log_p)
        of_log_softmax = torch.ops.aten._log_softmax_backward_data.out  # torch calls it as well
        for rows in (slice(first, first + size) for first in range(0, n, size)):
            part = torch.zeros_like(log_p[rows]).scatter_(1, places[rows], of_label[rows])
            result[rows] = of_log_softmax(part, log_p[rows], 1, log_p.dtype, out=part)
        return result, None, None


def summed_cross_entropy(logits: Tensor, labels: Tensor, overwrite: bool = False) -> Tensor:
    """As `cross_entropy(logits, labels, reduction="sum")` of torch, and on accelerators that.

    overwrite: may the logits be written over? See `unread`.
    """
    if logits.device.type != "cpu":
        return F.cross_entropy(logits, labels, reduction="sum")
    return SummedCrossEntropy.apply(logits, labels, overwrite)


def mean_cross_entropy(logits: Tensor, labels: Tensor, overwrite: bool = False) -> Tensor:
    """As `cross_entropy(logits, labels)` of torch: the mean over the labels that are not -100."""
    return summed_cross_entropy(logits, labels, overwrite) / (labels != -100).sum()


def unread(model: nn.Module, logits: Tensor) -> bool:
    """May the logits (n, V) of a model, which a loss has asked for, be written over?

    They must be on a processor and fresh out of a product of matrices, or a copy in float32, and
    nobody may have kept them: the model has no class, hook or forward from outside the libraries.
    """
    if logits.device.type != "cpu":  # torch's own loss is taken there
        return False
    step = logits.grad_fn
    while step is not None and step.name() in VIEWS:
        step = step.next_functions[0][0]
    if step is None or step.name() not in PRODUCTS:
        return False
    if nn.modules.module._global_forward_hooks:
        return False
    return not any(map(may_be_read, model.modules()))


def may_be_read(module: nn.Module) -> bool:
    """Could somebody outside the libraries see what it gives?"""
    hooks = [*module._forward_hooks.values()]
    kinds = [type(module).__module__, *(getattr(hook, "__module__", None) or "" for hook in hooks)]
    return "forward" in vars(module) or any(kind.partition(".")[0] not in KNOWN for kind in kinds)


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
    logits = logits.flatten(0, 1).float()  # (B k, V)
    return mean_cross_entropy(logits, labels.flatten(), unread(model, logits))
