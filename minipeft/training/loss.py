"""The loss of one batch, by the shortest way to it that is exact.

What `model(**batch).loss` would compute and throw away is left out: see `savings/`. Each saving
answers None where it does not apply, and is tested to give the same loss and gradients.
"""

from __future__ import annotations

from torch import Tensor, nn

from minipeft.attaching.in_training import in_training
from minipeft.contexts import evaluating
from minipeft.model.libraries import is_sharded, unwrapped
from minipeft.routing import wrap
from minipeft.training.savings.cross_entropy import lean_loss
from minipeft.training.savings.labelled_positions import labelled_loss
from minipeft.training.savings.shared_prompt import shared_loss


def reaches(model: nn.Module, batch: dict, loss: Tensor) -> bool:
    """Has anything that is trained a part in this loss? If not, a step learns nothing.

    False where that is chance: LayerDrop (Fan et al. 2020, arXiv 1909.11556) left out every layer
    that is trained, or no token went to the experts that are.

    Raises:
        ValueError: nothing that is trained would ever act on such a batch.
    """
    if loss.requires_grad:
        return True
    places = [place.path for tuner in in_training(model) for place, _ in tuner.patches]
    if places and all("expert" in path for path in places):
        return False
    with evaluating(model):
        whole = loss_of(model, batch)  # every layer is run
    if whole.requires_grad:
        return False
    raise ValueError(
        "Nothing that is trained acts on this batch, so there is nothing to learn from it: "
        "target layers that it goes through (text goes through no layer for pictures)."
    )


def loss_of(model: nn.Module, batch: dict) -> Tensor:
    """The mean loss over the labels of a batch (nats), and what the tuners in training add to it.

    batch: as `model(**batch)` takes it, labels included; soft prompts are put in here.
    """
    batch, loss = wrap(model, batch), None
    # a sharded model fetches its weights for one whole forward pass, a compiled one is made of it
    if not is_sharded(model) and unwrapped(model) is model:
        loss = shared_loss(model, batch)
        loss = labelled_loss(model, batch) if loss is None else loss
        loss = lean_loss(model, batch) if loss is None else loss
    if loss is None:
        loss = model(**batch).loss
    if loss is None:
        raise ValueError(
            "The model gives no loss for this batch: it has no labels. Add labels, with -100 where "
            "nothing is asked (minipeft.tasks does it)."
        )
    for tuner in in_training(model):
        penalty = tuner.method.penalty(tuner)
        loss = loss if penalty is None else loss + penalty
    return loss
