"""How a tuner that is made comes into its model, and what is then done before every pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from minipeft.attached import Attached, finish, tuners
from minipeft.attaching import resizing, state
from minipeft.attaching.in_training import WITH_TUNERS, changed, check_alone, digest, update
from minipeft.attaching.installing import heads_to_train
from minipeft.attaching.refusals import check_copy, check_offloaded
from minipeft.contexts import seeded
from minipeft.methods.parts.own_steps import COUNTED, count_steps_of
from minipeft.passes.reach import Reach
from minipeft.routing import batch_without_words, look_at_rows, wrap_now

if TYPE_CHECKING:
    from minipeft.tuner import Tuner


def attach_tuner(tuner: Tuner, head: bool | str | Sequence[str], seed: int | None = None) -> Tuner:
    """`attach`, for a tuner that is made already. Its anatomy may know of heads that it copies."""
    model, method, name = tuner.model, tuner.method, tuner.name
    check_alone(model)
    tuner.finished = {other.name for other in tuners(model).values() if changed(other)}
    first = not tuners(model)
    tuner.record = Attached(model) if first else model.minipeft
    with tuner.record.forward_lock, torch.inference_mode(False):
        try:
            model.minipeft = tuner.record
            model.minipeft.tuners[name] = tuner
            if first:
                tuner.record.freeze()
                tuner.record.reach = Reach(
                    model,
                    tuner.record.forward_lock,
                    wrap_now,
                    batch_without_words,
                    prepare,
                    look_at_rows,
                )
                tuner.record.hooks.extend(tuner.record.reach.register())
                tuner.record.hooks.extend(state.register(model))
                tuner.record.hooks.extend(resizing.register(model))
            heads = heads_to_train(tuner, head)
            tuner.anatomy.copied = tuner.anatomy.copied or tuple(heads)
            with seeded(seed):
                method.install(tuner)
                for path in heads:
                    tuner.copy(path)
            tuner.first_digest = digest(tuner)
            update(model)
            WITH_TUNERS.add(model)
            if method.counts_steps(tuner):
                count_steps_of(tuner)
        except BaseException:
            finish(tuner.take_away)
            raise
    return tuner


def prepare(model: nn.Module) -> None:
    """Before every pass: attention reads memories, whatever was set since the last one; methods
    forget that one's batch, and those that count steps do so, in a copy of a model as well.
    """
    check_copy(model.minipeft)
    check_offloaded(model.minipeft)
    for tuner in model.minipeft.tuners.values():
        tuner.method.before_pass(tuner)
        if tuner not in COUNTED and tuner.method.counts_steps(tuner):
            count_steps_of(tuner)
    if model.minipeft.attention:
        model.minipeft.attention.open_again()
