"""A method that has work to do after every step does it in any loop: the optimizer's hook calls it.

`train` says how long a run is (`begin`), and tells a method each of its steps (`after_step`) and
the end (`finish`). A loop of one's own and transformers' Trainer do not. There torch's hooks around
`Optimizer.step` do it, for a run whose length is known:

    AdaLoRA(total_steps=300)                                      a loop of one's own
    Trainer(..., callbacks=[minipeft.trainer_callback()])         transformers' Trainer

Before the step they add the gradient of the method's penalty, unless the loop has asked for the
penalty itself; after it they call `after_step`, and after the last one `finish`. Who calls `begin`,
as `train` does, is left alone. A run whose length nobody knows is warned of once.
"""

from __future__ import annotations

import warnings
from weakref import WeakSet

import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

COUNTED: WeakSet = WeakSet()  # tuners whose methods count steps
HOOKS: list = []  # on every optimizer, while there are such tuners


class OwnSteps:
    """What a tuner knows of the optimizer's steps in a run.

    Attributes:
        total: how many there will be, where somebody said so.
        made: so far.
        led: is it a loop that calls `begin`, `after_step` and `finish`?
        reported: how many steps such a loop has reported.
        begun: has the hook called `begin`?
        penalized: has the loop asked for the penalty since the last step?
        keep: leave the end to somebody else.
    """

    def __init__(self, total: int | None) -> None:
        self.total, self.made, self.reported = total, 0, 0
        self.led = self.begun = self.penalized = self.keep = self.warned = False

    def begin(self) -> None:
        """A loop begins a run, or this file in its name."""
        self.led, self.made, self.reported = True, 0, 0

    def finish(self) -> None:
        """The run is over; the next one begins anew."""
        self.led = self.begun = self.keep = False


def count_steps_of(tuner) -> None:
    """From now on the optimizers' steps count for this tuner."""
    COUNTED.add(tuner)
    if not HOOKS:
        HOOKS.append(register_optimizer_step_pre_hook(before_step))
        HOOKS.append(register_optimizer_step_post_hook(after_step))


def stepping(optimizer) -> list:
    """The tuners that a step of this optimizer changes and whose methods have work to do."""
    for tuner in [tuner for tuner in COUNTED if tuner.detached]:
        COUNTED.discard(tuner)
    if not COUNTED:
        while HOOKS:
            HOOKS.pop().remove()
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    at_work = [t for t in COUNTED if t.enabled and not t.merged and not t.resting]
    at_work = [t for t in at_work if t.method.counts_steps(t)]
    return [tuner for tuner in at_work if trained.intersection(tuner.parameters())]


def before_step(optimizer, *_) -> None:
    """Begin a run; add the penalty's gradient."""
    for tuner in stepping(optimizer):
        steps = tuner.own_steps
        if steps.led or steps.total is None:
            continue
        if not steps.begun:
            made = steps.made  # above 0 where a Trainer goes on from a checkpoint
            tuner.method.begin(tuner, steps.total)
            steps.led, steps.begun, steps.made = False, True, made
        if not steps.penalized:
            add_penalty(tuner)
        steps.penalized = False


def add_penalty(tuner) -> None:
    """The gradient of the method's penalty, added to the gradients that are there."""
    parameters = [p for p in tuner.parameters() if p.grad is not None]
    with torch.enable_grad():
        penalty = tuner.method.penalty(tuner)
    if penalty is None or not parameters:
        return
    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad.add_(gradient)


def after_step(optimizer, *_) -> None:
    """Tell a method of a step that was made, or say that nobody tells it."""
    for tuner in stepping(optimizer):
        steps = tuner.own_steps
        steps.made += 1
        if steps.led:  # `after_step` of this step is still to come
            if steps.made - steps.reported > 1:
                warn_once(tuner)
        elif steps.total is None:
            warn_once(tuner)
        else:
            tuner.method.after_step(tuner, steps.made - 1, steps.total)
            if steps.made == steps.total and not steps.keep:
                before = tuner.parameters()
                tuner.method.finish(tuner)
                exchange(optimizer, before, tuner.parameters())


def exchange(optimizer, before: list[nn.Parameter], after: list[nn.Parameter]) -> None:
    """Let an optimizer go on with what is left; the moments of what has changed begin anew."""
    new = {old: now for old, now in zip(before, after, strict=True) if old is not now}
    for group in optimizer.param_groups:
        group["params"] = [new.get(parameter, parameter) for parameter in group["params"]]
    for old in new:
        optimizer.state.pop(old, None)


def complaint(tuner) -> str | None:
    """What is missing in a run, None where all is well."""
    steps = tuner.own_steps
    if steps.total is not None or not steps.made or not tuner.method.counts_steps(tuner):
        return None
    if steps.led and steps.made - steps.reported <= 1:
        return None
    kind = type(tuner.method).__name__
    if steps.led:
        return (
            f"{tuner.name!r} is not pruned: begin() was called, but not after_step() after every "
            "step of the optimizer, so call it there."
        )
    return (
        f"{tuner.name!r} is not pruned, because nothing tells {kind} how long the run is: give "
        "AdaLoRA(total_steps=...), or callbacks=[minipeft.trainer_callback()] to transformers' "
        "Trainer, or train with minipeft.train."
    )


def warn_once(tuner) -> None:
    """Say what a tuner lacks; only once, as long as it is attached."""
    if not tuner.own_steps.warned:
        tuner.own_steps.warned = True
        warnings.warn(complaint(tuner), UserWarning, stacklevel=5)
