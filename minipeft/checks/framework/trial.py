"""How an exercise is declared: trials (what is done with the object) and mistakes (with a name)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from minipeft.checks.framework.cases import ADDED, Case, every_large, every_pair
from minipeft.checks.framework.inputs import DTYPES, LAYOUTS, Draw

DROPOUT: dict[str, Any] = dict(  # of a trial that counts how often each outcome of a dropout occurs
    dtypes=("float64",),
    layouts=("plain",),
    gradients=("on",),
    draws=True,
    copies=2048,
    silenced=("dropout", 0.0),
)


@dataclass(frozen=True)
class Trial:
    """One way to use the object: the framework does it with the reference and with the learner's.

    Args:
        what: how a sentence calls the result, "the output of forward".
        inputs: (case, draw) -> the arguments by name, drawn with `draw.normal(B, T, C)` and the
            like. What is drawn gets the case's dtype and layout, and its gradient is compared.
        run: (object, case, inputs) -> the result. Several calls make one result: return a tuple.
        axes: the options and their values, the plain one first; OMIT leaves an argument out.
        small: options that are no sizes, or must stay small: of every other size one case is large.
        valid: is this combination of options possible?
        build: (class, case) -> an instance, for exercises that are classes.
        fill: give the instance the same random parameters as the reference's.
        prepare: (instance, case), before parameters are filled: replace parts, set the mode.
        cast: put the instance into the case's dtype.
        dtypes, layouts, gradients: what is varied besides the axes. "frozen": inputs that want no
            gradient; "off": called under no_grad.
        judge: (case, inputs, result), raises CheckFailed: for results that are not determined by
            the inputs. Without it the result must equal the reference's.
        names: how sentences call parts of the result, {"[0]": "the heads"}.
        scratch: arguments that the object may use as it likes (a cache).
        keeps: attributes that the exercise asks the object to keep from call to call: they may be
            buffers, too.
        not_shared: arguments that the result must share no memory with: it is promised to be new.
        draws: may the call draw from torch's global generator (dropout)?
        copies: above 0, the number of equal rows whose outcomes are counted (see randomness).
        silenced: for those, the case in which nothing is dropped: an axis and its value.
        may_refuse: dtypes that the exercise promises nothing about: an error is accepted there, a
            wrong number is not.
        free_dtype: parts of the result of which any dtype of the same kind will do: integers and
            booleans, or floating-point numbers that are at least as precise.
        slack: times the usual tolerance.
        rounds: is something float32 inside, whatever comes in? So it is where nothing is cast.
        more_keys: may a dict hold more than the reference's?
        fresh: of a case without a generator, must two calls differ?
    """

    what: str
    inputs: Callable[[Case, Draw], dict[str, Any]]
    run: Callable[[Any, Case, Any], Any]
    axes: Mapping[str, tuple] = field(default_factory=dict)
    small: Sequence[str] = ()
    valid: Callable[[Case], bool] = lambda case: True
    build: Callable[[type, Case], Any] | None = None
    fill: bool = True
    prepare: Callable[[nn.Module, Case], None] | None = None
    cast: bool = True
    dtypes: Sequence[str] = DTYPES
    layouts: Sequence[str] = LAYOUTS
    gradients: Sequence[str] = ("on", "frozen", "off")
    judge: Callable[[Case, dict[str, Any], Any], None] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    scratch: Sequence[str] = ()
    keeps: Sequence[str] = ()
    not_shared: Sequence[str] = ()
    draws: bool = False
    copies: int = 0
    silenced: tuple[str, Any] | None = None
    may_refuse: Sequence[str] = ()
    free_dtype: Sequence[str] = ()
    slack: float = 1.0
    rounds: bool = False
    more_keys: bool = False
    fresh: Callable[[Case], bool] = lambda case: False

    @functools.cached_property
    def every_axis(self) -> dict[str, tuple]:
        """The exercise's options and those that the framework adds."""
        added = {
            "dtype": tuple(self.dtypes),
            "layout": tuple(self.layouts),
            "gradients": tuple(self.gradients),
            "magnitude": ("usual",),
        }
        if self.build is not None and not self.copies and "training" not in self.axes:
            added["phase"] = ("training", "evaluation")
        taken = set(self.axes) & set(ADDED)
        if taken:
            raise ValueError(f"Call the axis {taken.pop()!r} otherwise: the framework has one.")
        return {**self.axes, **added}

    @property
    def precise(self) -> bool:
        """Does float64 stay float64?"""
        return self.cast and not self.rounds

    @functools.cached_property
    def cases(self) -> list[Case]:
        cases = every_pair(self.every_axis, self.valid)
        if self.copies or self.judge is not None:
            return cases
        return cases + every_large(self.every_axis, self.valid, self.small)

    def accepts(self, where: str, wanted: torch.dtype, given: torch.dtype) -> bool:
        """May this part of the result have this dtype?"""
        if where not in self.free_dtype:
            return False
        if wanted.is_floating_point and given.is_floating_point:
            return torch.finfo(given).bits >= torch.finfo(wanted).bits
        return wanted.is_floating_point == given.is_floating_point

    def called(self, where: str) -> str:
        """How a sentence calls a part of the result."""
        if not where:
            return self.what
        plain = f"{where} of {self.what}" if where.startswith("[") else where
        return self.names.get(where, plain)


@dataclass(frozen=True)
class View:
    """What a mistake may look at: one failing case.

    drawn: were random numbers drawn that the reference does not draw?
    """

    case: Case
    inputs: dict[str, Any]
    wanted: Any
    given: Any
    error: Exception | None
    difference: Any
    trial: Trial
    drawn: bool = False


@dataclass(frozen=True)
class Mistake:
    """A usual mistake and the sentence that names it.

    Args:
        sentence: what the learner is told; or a function of the view.
        edits: pieces of the reference's text and what the mistake writes in their place; or
        wrong: an object that makes the mistake; or
        when: (view) -> bool, true of a failing case that shows the mistake.
    """

    sentence: str | Callable[[View], str]
    edits: tuple[tuple[str, str], ...] = ()
    wrong: Any = None
    when: Callable[[View], bool] | None = None


def mistake(sentence, *edits: tuple[str, str], wrong: Any = None, when=None) -> Mistake:
    """A `Mistake`, written briefly: mistake("the scale is missing", ("alpha / rank", "1"))."""
    return Mistake(sentence, edits, wrong, when)
