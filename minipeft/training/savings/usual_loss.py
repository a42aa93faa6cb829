"""Is a model's loss the one that the savings compute?"""

from __future__ import annotations

import inspect
import sys
from functools import cache

from torch import nn


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
