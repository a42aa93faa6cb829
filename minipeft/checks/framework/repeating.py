"""State: every instance is called again, in reverse order, and must answer as the reference does.

Each case has an instance of its own, so the second calls come out of order and between calls of
other instances: a cache in the object, in the class, in a global or in a default argument shows.
An instance with parameters takes a step of training in between: they are changed in place, as an
optimizer changes them, and an answer that was made of the old ones is wrong.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from minipeft.checks.framework.cases import Case
from minipeft.checks.framework.comparing import compare
from minipeft.checks.framework.observing import Observation, Subject, share_memory
from minipeft.checks.framework.showing import first_line
from minipeft.checks.framework.trial import Trial

OFTEN = 6  # the plainest instance of each trial is called so many times more


class Kept(NamedTuple):
    """A case that was passed, the object that passed it, and what it showed."""

    trial: Trial
    case: Case
    subject: Subject
    first: Observation


def call_again(check, candidate: Any, kept: list[Kept]) -> str | None:
    """The sentence for the first second call that goes wrong, None when all go well."""
    plainest = {id(entry.trial): entry for entry in reversed(kept)}
    for entry in reversed(kept):
        if entry.first.error is None:
            for calls in range(1, 1 + (OFTEN if plainest[id(entry.trial)] is entry else 1)):
                sentence = _call_again(check, candidate, entry, calls)
                if sentence is not None:
                    return sentence
    return None


def stopped_again(name: str, error: Exception) -> str:
    """The sentence for a first call that went well and a second that stopped."""
    why = first_line(error)
    if "backward through the graph a second time" in str(error):
        why = "it uses what it has kept from the first call, whose graph is gone"
    return f"{name} stops when it is called again: {why}"


def _call_again(check, candidate: Any, entry: Kept, calls: int) -> str | None:
    """calls: how often the instance was called so far."""
    trial, case, subject, first = entry
    name, wanted = getattr(candidate, "__name__", type(candidate).__name__), first
    if trial.judge is None and subject.parameters:
        subject.step()
        wanted = check.expected_after_a_step(trial, case)
    again = subject.observe(gradients=False, shift=1)
    if again.error is not None:
        return stopped_again(name, again.error)
    same = compare(wanted.result, again.result, trial) is None
    if trial.judge is None and not same:
        fresh = check.subject(trial, candidate, case)
        if wanted is not first and _repeats(fresh, trial, calls):
            return (
                f"{name} answers with what it has kept from an earlier call after a step of "
                "training, which has changed its parameters: work everything out anew at each call"
            )
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
    held = list(subject.parameters.values())
    if trial.scratch or share_memory(held, first.raw):
        return None
    if compare(first.result, first.raw, trial) is not None:
        return (
            f"what {name} gave back is overwritten by its next call: make a new tensor for each "
            "answer"
        )
    return None


def _repeats(subject: Subject, trial: Trial, calls: int) -> bool:
    """Does the answer stay the same as long as the parameters do?"""
    first, *others = (subject.observe(gradients=False, shift=shift) for shift in range(calls + 1))
    return all(
        other.error is None and compare(first.result, other.result, trial) is None
        for other in others
    )
