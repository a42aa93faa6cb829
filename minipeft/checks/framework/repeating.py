"""State: every instance is called again, in reverse order, and must answer as before.

Each case has an instance of its own, so the second calls come out of order and between calls of
other instances: a cache in the object, in the class, in a global or in a default argument shows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from minipeft.checks.framework.cases import Case
from minipeft.checks.framework.comparing import compare
from minipeft.checks.framework.observing import Observation, Subject
from minipeft.checks.framework.showing import first_line
from minipeft.checks.framework.trial import Trial


class Kept(NamedTuple):
    """A case that was passed, the object that passed it, and what it showed."""

    trial: Trial
    case: Case
    subject: Subject
    first: Observation


def call_again(name: str, kept: list[Kept]) -> str | None:
    """The sentence for the first second call that goes wrong, None when all go well."""
    for entry in reversed(kept):
        if entry.first.error is None:
            again = entry.subject.observe(gradients=False, shift=1)
            sentence = _compare(name, entry, again)
            if sentence is not None:
                return sentence
    return None


def stopped_again(name: str, error: Exception) -> str:
    """The sentence for a first call that went well and a second that stopped."""
    why = first_line(error)
    if "backward through the graph a second time" in str(error):
        why = "it uses what it has kept from the first call, whose graph is gone"
    return f"{name} stops when it is called again: {why}"


def _compare(name: str, entry: Kept, again: Observation) -> str | None:
    trial, case, _, first = entry
    if again.error is not None:
        return stopped_again(name, again.error)
    same = compare(first.result, again.result, trial) is None
    if trial.judge is None and not same:
        return (
            f"{name} gives another answer when it is called again with the same arguments: "
            "something is kept between calls (in the object, a global or a default argument)"
        )
    drawn = any(isinstance(value, torch.Generator) for value in first.inputs.values())
    if trial.judge is not None and drawn and not same:
        return "the same generator gives another result: draw every random number from `generator`"
    if trial.judge is not None and not drawn and same and trial.fresh(case):
        return (
            f"without a generator {name} gives the same at every call: its random numbers should "
            "come from torch's global generator then"
        )
    if not trial.scratch and compare(first.result, first.raw, trial) is not None:
        return (
            f"what {name} gave back is overwritten by its next call: make a new tensor for each "
            "answer"
        )
    return None
