"""An exact saving: the language head only where something is asked.

Where labels are -100 (questions, padding, soft prompts, every word but the masked one) the logits
do not enter the loss, so they need not be computed:

    states (B, T, C)  ->  logits (n, V) of the n labelled tokens, instead of (B, T, V)

The head is V C multiplications for each token, as much as V / 12 C blocks: half of GPT-2 small.
Loss and gradients are the same, up to the order of sums. transformers' causal models take a list
of columns for all rows alike (`logits_to_keep`), so there the columns count that any row asks.

Shapes: B batch, T tokens, C width, V words, n labels.
"""

from __future__ import annotations

import inspect

from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.model.devices import moved, on_host
from minipeft.training.savings.cross_entropy import answered_loss, mean_cross_entropy, unread
from minipeft.training.savings.usual_loss import asks_every_row, next_tokens
from tiny_transformer.models import Stack

WORTH = 0.9  # of the columns; above, nothing is gained


def labelled_loss(model: nn.Module, batch: dict) -> Tensor | None:
    """The loss of a wrapped batch, the head run at labels only; None where that does not apply."""
    if not asks_every_row(model, batch):
        return None
    asked = on_host(batch["labels"]) != -100  # (B, T)
    if not bool(asked.any()) or asked.float().mean() > WORTH:
        return None
    way = tiny_loss if isinstance(model, Stack) else hub_loss
    return way(model, batch)


def tiny_loss(model: nn.Module, batch: dict) -> Tensor | None:
    """A Decoder or an Encoder of tiny_transformer: states first, then the head on some of them."""
    if not {"input_ids", "labels"} <= set(batch) <= {"input_ids", "labels", "attention_mask"}:
        return None
    states = model.run(batch["input_ids"], batch.get("attention_mask"))  # (B, T, C)
    labels = on_host(batch["labels"])
    if model.causal:  # position t answers for token t + 1; padding is asked nothing
        labels = F.pad(labels[:, 1:], (0, 1), value=-100)
        if "attention_mask" in batch:
            labels = labels.masked_fill(on_host(batch["attention_mask"]) == 0, -100)
    asked = labels != -100  # (B, T)
    places = tuple(moved(where, states.device) for where in asked.nonzero(as_tuple=True))
    labels = moved(labels[asked], states.device)  # (n,)
    logits = model.head(states[places]).float()  # (n, V)
    return mean_cross_entropy(logits, labels, unread(model, logits))


def hub_loss(model: nn.Module, batch: dict) -> Tensor | None:
    """A causal language model of transformers, its logits kept at the columns that are asked."""
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return None
    labels = next_tokens(model, batch)  # (B, T)
    if labels is None:
        return None
    columns = (on_host(batch["labels"])[:, 1:] != -100).any(dim=0).nonzero()[:, 0]  # (k,)
    if not 0 < len(columns) < WORTH * labels.shape[1]:
        return None
    columns = moved(columns, labels.device)
    return answered_loss(model, batch, labels[:, columns], logits_to_keep=columns)
