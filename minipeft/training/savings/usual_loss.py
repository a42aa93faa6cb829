"""Is a model's loss the one that the savings compute?"""

from __future__ import annotations

import inspect
import sys
from functools import cache

from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.model.kind import head_of

OTHERS = {"shift_labels", "num_items_in_batch"}  # in a batch they change what the loss is


def asks_every_row(model: nn.Module, batch: dict) -> bool:
    """Has a batch labels (B, T) for a language head that is the same for all of its rows?"""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.dim() != 2 or head_of(model) != "language":
        return False
    return not ("minipeft" in vars(model) and model.minipeft.routing)  # a head may differ by rows


def next_tokens(model: nn.Module, batch: dict) -> Tensor | None:
    """The labels (B, T), each moved to the token that answers for it, where the loss is their mean
    cross-entropy: of a causal model of transformers. None elsewhere.
    """
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False) or OTHERS & set(batch):
        return None
    # of mixtures of experts the loss has a second part
    if hasattr(config, "output_router_logits") or not has_usual_loss(model):
        return None
    return F.pad(batch["labels"][:, 1:], (0, 1), value=-100)


def has_usual_loss(model: nn.Module) -> bool:
    """Is the loss of a causal model of transformers the mean cross-entropy of the next tokens?

    It is not where a class computes one of its own, as BART's decoder by itself, which takes labels
    that are shifted already; where a user has given another one; and where experts add a second.
    """
    if getattr(model.config, "output_router_logits", False) or not calls_loss(type(model)):
        return False
    # as `model.loss_function` chooses, which would log that it does not know GPT-2's name
    losses = sys.modules["transformers.loss.loss_utils"].LOSS_MAPPING
    given = vars(model).get("_loss_function") or losses.get(getattr(model, "loss_type", None))
    return given in (None, losses["ForCausalLM"])


@cache
def calls_loss(kind: type[nn.Module]) -> bool:
    """Does the forward of a class leave the loss to the model's `loss_function`?"""
    try:
        return "self.loss_function(" in inspect.getsource(kind.forward)
    except (OSError, TypeError):  # nobody can read it
        return False
