"""The bases that trials are made on, and whether a trial has changed one."""

from __future__ import annotations

import minipeft as mp
from soak import small
from soak.ledger import Line


class Bases:
    """One model of each layout, replaced when a trial has left something in it."""

    def __init__(self) -> None:
        self.models = {layout: small.base(layout) for layout in small.LAYOUTS}
        self.known = {layout: mp.fingerprint(model) for layout, model in self.models.items()}
        self.states = {layout: state(model) for layout, model in self.models.items()}

    def check(self, layout: str, line: Line, trial: str, whole: bool) -> None:
        """Write a failure down if the model is not as it was; whole: look at the weights too."""
        if state(self.models[layout]) != self.states[layout]:
            self.replace(layout, line, trial, "the model has something left of it")
        elif whole and mp.fingerprint(self.models[layout]) != self.known[layout]:
            self.replace(layout, line, trial, "the base's weights changed, here or shortly before")

    def replace(self, layout: str, line: Line, trial: str, reason: str) -> None:
        line.fail(trial, reason)
        self.models[layout] = small.base(layout)
        self.states[layout] = state(self.models[layout])


def state(model) -> tuple:
    """What a refusal must leave as it was, weights excepted."""
    modules = tuple(id(module) for module in model.modules())
    return modules, tuple(p.requires_grad for p in model.parameters()), "minipeft" in vars(model)
