"""Several methods under one name: the doors do not mind who comes in by the others.

Path: attach(model, Combined(...)) -> Combined.install -> install of every part, and from there as
written in its file.

He et al. 2022, "Towards a unified view of parameter-efficient transfer learning" (arXiv
2110.04366), read every method as a change of some hidden state, and mix two of them:

    h <- h + dh_1 + dh_2 + ..                                                           (eq. 1)

The MAM adapter (section 4.6) is a short prefix at attention and a large parallel adapter, scaled by
s = 4, at the feed-forward layers:

    Combined((Prefix(length=30), Adapter(placement="parallel", bottleneck=512, scale=4)))

Start, gradients, merge and sizes are those of the parts. UniPELT is such a mixture too, with a gate
at each part; since its parts know about one another it has a file of its own.

Parameters: the sum of the parts'.

Departures.
(1) One name. Paper: one model. PEFT: has no mixtures of different methods. Here: MAM's parts may
    also be attached one by one under two names, which gives the same model; under one name they are
    saved, routed, switched and counted as one.
    Shown by test_unipelt.py::test_combined_is_one_after_the_other_under_one_name
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from minipeft.methods.adalora import AdaLoRA
from minipeft.methods.adapter import Adapter
from minipeft.methods.method import Method
from minipeft.methods.parts.validation import shorten
from minipeft.methods.prefix import Prefix


@dataclass(frozen=True)
class Combined(Method):
    """Every part does what it does alone. Two parts cannot sit in the same door under one name.

    Args:
        methods: the parts, in the order in which they come in.

    Raises:
        TypeError: a part is no method.
        ValueError: there is no part, or one is a Combined itself.
    """

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.methods, list | tuple) or not self.methods:
            raise ValueError("Combined needs one or more methods, such as (LoRA(), Adapter()).")
        for part in self.methods:
            if not isinstance(part, Method):
                raise TypeError(
                    f"Combined needs methods such as LoRA(rank=8), not {shorten(part)}."
                )
            if isinstance(part, Combined):
                raise ValueError("A Combined is no part of another: name all parts in one.")
        object.__setattr__(self, "methods", tuple(self.methods))

    @property
    def identity_at_start(self) -> bool:
        return all(part.identity_at_start for part in self.methods)

    @property
    def total_steps(self) -> int | None:
        return max((part.total_steps for part in self.methods if part.total_steps), default=None)

    def counts_steps(self, tuner) -> bool:
        return any(part.counts_steps(share) for part, share in self._parts(tuner))

    def parts(self) -> tuple[Method, ...]:
        return self.methods

    def settings(self) -> dict:
        parts = [{"method": type(p).__name__, "settings": p.settings()} for p in self.methods]
        return {"methods": parts}

    @classmethod
    def from_settings(cls, settings: dict, find) -> Combined:
        parts = [
            find(part["method"]).from_settings(part["settings"], find)
            for part in settings["methods"]
        ]
        return cls(tuple(parts))

    def import_state(self, tensors: dict[str, Tensor]) -> tuple[Combined, dict[str, Tensor]]:
        """The parts, an AdaLoRA among them with the ranks that it has in these tensors."""
        parts = (p.import_state(tensors)[0] if isinstance(p, AdaLoRA) else p for p in self.methods)
        return Combined(tuple(parts)), tensors

    def install(self, tuner) -> None:
        for part in self.methods:
            tuner.install_part(part)  # eq. 1: one more change of h

    def _parts(self, tuner):
        """Each part, and the tuner as that part knows it; while they come in, those that are in."""
        return zip(self.methods, tuner.shares, strict=False)

    def wrap(self, tuner, batch: dict) -> dict:
        for part, share in self._parts(tuner):
            batch = part.wrap(share, batch)
        return batch

    def before_pass(self, tuner) -> None:
        for part, share in self._parts(tuner):
            part.before_pass(share)

    def before_forward(self, tuner, batch: dict) -> None:
        for part, share in self._parts(tuner):
            part.before_forward(share, batch)

    def notes(self, tuner) -> list[str]:
        return [note for part, share in self._parts(tuner) for note in part.notes(share)]

    def penalty(self, tuner) -> Tensor | None:
        terms = [part.penalty(share) for part, share in self._parts(tuner)]
        terms = [term for term in terms if term is not None]
        return sum(terms) if terms else None

    def begin(self, tuner, steps: int) -> None:
        for part, share in self._parts(tuner):
            part.begin(share, steps)

    def learning_rates(self, tuner) -> dict:
        each = [part.learning_rates(share) for part, share in self._parts(tuner)]
        return {parameter: rate for rates in each for parameter, rate in rates.items()}

    def after_step(self, tuner, step: int, steps: int) -> dict | None:
        each = [part.after_step(share, step, steps) or {} for part, share in self._parts(tuner)]
        return {key: value for record in each for key, value in record.items()} or None

    def settled(self, tuner, step: int, steps: int) -> bool:
        return all(part.settled(share, step, steps) for part, share in self._parts(tuner))

    def finish(self, tuner) -> None:
        for part, share in self._parts(tuner):
            part.finish(share)


Together = Combined  # its name in version 0.1, and in the files of that version


def mam(length: int = 30, bottleneck: int = 512, scale: float = 4.0) -> Combined:
    """The MAM adapter: a prefix of that length and parallel adapters, started at the base."""
    adapters = Adapter(placement="parallel", bottleneck=bottleneck, scale=scale, sigma=0)
    return Combined((Prefix(length=length), adapters))
