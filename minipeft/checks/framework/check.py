"""`Check`: the framework decides, named mistakes explain."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, ClassVar

import torch
from torch import nn

from minipeft.checks.framework.cases import Case, plainer, smaller
from minipeft.checks.framework.comparing import Difference, around, differs
from minipeft.checks.framework.diagnosis import changed_defaults
from minipeft.checks.framework.errors import (
    AS_GIVEN,
    GREEN,
    PLAIN,
    CheckFailed,
    NotFinished,
    is_stub,
)
from minipeft.checks.framework.mutants import Mutant, mutants
from minipeft.checks.framework.naming import Failure, name_the_mistake
from minipeft.checks.framework.observing import Observation, Subject
from minipeft.checks.framework.probes import Probes
from minipeft.checks.framework.randomness import (
    Outcomes,
    distribution_differs,
    rows_of,
)
from minipeft.checks.framework.repeating import Kept, call_again, stopped_again
from minipeft.checks.framework.showing import small_case, with_article
from minipeft.checks.framework.source import Source, is_made_of
from minipeft.checks.framework.surroundings import careful_kernels, surroundings
from minipeft.checks.framework.trial import Mistake, Trial
from minipeft.checks.lessons import to_mend

FAILURES = 6  # of one trial are collected before the mistake is looked for
PASSED = 25  # of one trial are held against a mistake that explains the failures
TRIES = 60  # to make a failing case smaller
RECENT = 4  # checks whose observations are kept: all of a course's would need gigabytes


class Check:
    """Judges one exercise: `checks.lora(LoRAPatch)` prints a green line or raises CheckFailed.

    Args:
        name: of the check, as notebooks call it.
        reference: the package's object, "minipeft.methods.lora:LoRAPatch".
        tried: what the green line says was tried.
        trials: what is done with the object, the simplest first.
        mistakes: the usual ones, the most likely first.
        blank: for a class, the methods that the learner writes.
        inner: those of them that only the others call; no trial calls them.
        impossible: pairs of parameters that cannot vary together, and why.
    """

    def __init__(
        self,
        name: str,
        reference: str,
        tried: str,
        trials: Sequence[Trial],
        mistakes: Sequence[Mistake] = (),
        blank: Sequence[str] = (),
        inner: Sequence[str] = (),
        impossible: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self.__name__ = self.name = name
        self.source = Source(reference)
        self.tried, self.trials, self.mistakes = tried, tuple(trials), tuple(mistakes)
        self.blank, self.inner = tuple(blank), tuple(inner)
        self.impossible = dict(impossible or {})
        self.built: dict[tuple, Any] = {}  # wrong objects, once they were needed
        self._mutants: list[tuple[Mutant, Any]] = []
        self._shown: dict[tuple, Observation | None] = {}
        self._expected: dict[tuple, Any] = {}
        self._after_a_step: dict[tuple, Observation] = {}
        self._parameters: dict[tuple, dict[str, torch.Size]] = {}

    _recent: ClassVar[list[Check]] = []  # the last one used stands last

    def _use(self) -> None:
        """Keep what this check sees; what a check saw that was not used lately is forgotten."""
        recent = Check._recent
        if recent and recent[-1] is self:
            return
        if self in recent:
            recent.remove(self)
        recent.append(self)
        while len(recent) > RECENT:
            old = recent.pop(0)
            for seen in (old._shown, old._expected, old._after_a_step):
                seen.clear()

    @property
    def reference(self) -> Any:
        return self.source.object

    @property
    def exercise(self) -> str:
        """What the marker line of a lesson calls it: the object that the learner writes."""
        return self.source.reference

    @functools.cached_property
    def probes(self) -> Probes:
        """The reference with a probe at every expression, to explain a wrong answer."""
        return Probes(self.source, self.blank)

    def impossible_pair(self, a: str, b: str) -> str | None:
        """Why two parameters cannot vary together, if they cannot."""
        return self.impossible.get((a, b)) or self.impossible.get((b, a))

    def __call__(self, candidate: Any) -> None:
        """Judge the learner's object.

        Raises:
            NotFinished: it still raises the stub's NotImplementedError, or is as it was given.
            CheckFailed: it is wrong; the message names the mistake, `case` shows it.
        """
        with surroundings():
            try:
                self._judge(candidate)
            except CheckFailed:
                name = self.source.name
                if any(is_made_of(text, name, candidate) for text in to_mend(self.exercise)):
                    raise NotFinished(AS_GIVEN.format(name)) from None
                raise
        print(f"{GREEN}✓ {_name(candidate)}: {self.tried}{PLAIN}")

    def accepts(self, candidate: Any) -> bool:
        """The verdict alone, at the first case that fails."""
        with surroundings():
            try:
                self._right_kind(candidate)
                kept: list[Kept] = []
                with careful_kernels():
                    for row in zip_longest(*(trial.cases for trial in self.trials)):
                        for trial, case in zip(self.trials, row, strict=True):
                            if case is not None and self.failure(trial, candidate, case, kept):
                                return False
                return self._afterwards(candidate, kept) is None
            except CheckFailed:
                return False

    def _judge(self, candidate: Any) -> None:
        self._right_kind(candidate)
        kept: list[Kept] = []
        with careful_kernels():
            unfinished = self._fails(candidate, kept)
        if unfinished:
            raise NotFinished(unfinished)
        sentence = self._afterwards(candidate, kept)
        if sentence is not None:
            raise CheckFailed(sentence)

    def _fails(self, candidate: Any, kept: list[Kept]) -> str | None:
        """Raise CheckFailed at the first trial that fails; else the stub's words, if any."""
        unfinished = None
        for trial in self.trials:
            failures = []
            for failure in self.failures(trial, candidate, kept):
                if is_stub(failure.difference.given):
                    unfinished = unfinished or str(failure.difference.given)
                    failures = []
                    break
                failures.append(failure)
                if len(failures) == FAILURES:
                    break
            if failures:
                passed = [(entry.trial, entry.case) for entry in kept]
                passed = [
                    pair
                    for one in self.trials
                    for pair in [p for p in passed if p[0] is one and not one.copies][:PASSED]
                ]
                self._reject(trial, candidate, failures, passed)
        return unfinished

    def _right_kind(self, candidate: Any) -> None:
        """A class where a class is asked for, a function where a function is."""
        wanted = self.name
        if inspect.isclass(self.reference):
            said = f"give the check the class itself: checks.{wanted}({self.source.name})"
            if isinstance(candidate, nn.Module):
                raise CheckFailed(f"this is an instance of {type(candidate).__name__}: {said}")
            if not callable(candidate):
                raise CheckFailed(f"this is {with_article(type(candidate).__name__)}: {said}")
        elif not callable(candidate) or inspect.isclass(candidate):
            raise CheckFailed(
                f"this is {with_article(type(candidate).__name__)}: give the check the function "
                f"itself, checks.{wanted}({self.source.name})"
            )

    def mutants(self) -> Iterator[tuple[Mutant, Any]]:
        """Each small change of the reference and what it makes; both are kept for the next time."""
        yield from self._mutants
        if not self._mutants:
            self._more = mutants(self.source, self.blank)
        for mutant in self._more:
            try:
                made = self.source.build(mutant.tree)
            except Exception:  # it does not compile: nobody can hand it in
                made = None
            self._mutants.append((mutant, made))
            yield mutant, made

    # -- what a case shows -------------------------------------------------------------------------

    def subject(self, trial: Trial, made: Any, case: Case) -> Subject:
        """The object made ready for a case."""
        key = (id(trial), case.key)
        if key not in self._parameters:
            first = Subject(trial, self.reference, case, {})
            names = {}
            if isinstance(first.instance, nn.Module):
                names = {n: p.shape for n, p in first.instance.named_parameters()}
            self._parameters[key] = names
        return Subject(trial, made, case, self._parameters[key])

    def expected(self, trial: Trial, case: Case) -> Any:
        """What the reference shows: an Observation, or the outcomes of many rows."""
        self._use()
        key = (id(trial), case.key)
        if key not in self._expected:
            subject = self.subject(trial, self.reference, case)
            self._expected[key] = self.seen(trial, subject)
            self._expected[key].light()
        return self._expected[key]

    def expected_after_a_step(self, trial: Trial, case: Case) -> Observation:
        """What the reference shows once its parameters have changed."""
        key = (id(trial), case.key)
        if key not in self._after_a_step:
            subject = self.subject(trial, self.reference, case)
            subject.step()
            self._after_a_step[key] = subject.observe(gradients=False)
            self._after_a_step[key].light()
        return self._after_a_step[key]

    def seen(self, trial: Trial, subject: Subject) -> Observation:
        """One observation; for counted outcomes with the rows of two calls beside it.

        Raises:
            CheckFailed: the first call goes well, the second stops or gives another form.
        """
        seen = subject.observe()
        if trial.copies and seen.error is None:
            again = subject.observe(shift=1)
            if again.error is not None:
                raise CheckFailed(stopped_again(_name(subject.instance), again.error))
            first, second = (rows_of(part, trial.copies) for part in (seen, again))
            if first.shape != second.shape:
                raise CheckFailed(
                    f"{_name(subject.instance)} gives something of another form when it is called "
                    "again: something is kept between calls"
                )
            seen.outcomes = Outcomes.of(first, second)
        return seen

    def shown_by(self, trial: Trial, wrong: Any, case: Case, key: Any) -> Observation | None:
        """What a wrong object shows in a case; None when it cannot be made ready for it.

        It is kept for the next question about it. key: a mistake's edits or object; None for what
        is asked once only.
        """
        place = (id(trial), case.key, key)
        if place in self._shown:
            return self._shown[place]
        try:
            seen = self.seen(trial, self.subject(trial, wrong, case))
            seen.light()
            if trial.copies:  # thousands of rows, which are counted
                seen.inputs, seen.result, seen.gradients, seen.after = {}, None, {}, {}
        except Exception:  # a part is missing, or its constructor stops
            seen = None
        if key is not None:
            self._shown[place] = seen
        return seen

    def is_right(self, trial: Trial, wrong: Any, case: Case, key: Any) -> bool:
        """Does a wrong object show in this case what the reference shows?"""
        seen = self.shown_by(trial, wrong, case, key)
        wanted = self.expected(trial, case)
        return seen is not None and self.difference(trial, case, wanted, seen) is None

    def failures(
        self, trial: Trial, candidate: Any, kept: list[Kept] | None = None
    ) -> Iterator[Failure]:
        """Every case of a trial that the candidate fails, the plainest first.

        kept: takes those it passes.
        """
        for case in trial.cases:
            failure = self.failure(trial, candidate, case, kept)
            if failure is not None:
                yield failure

    def failure(
        self, trial: Trial, candidate: Any, case: Case, kept: list[Kept] | None = None
    ) -> Failure | None:
        """What is wrong in one case, if anything."""
        wanted = self.expected(trial, case)
        try:
            subject = self.subject(trial, candidate, case)
            given = self.seen(trial, subject)
        except CheckFailed as error:
            nothing = Observation(wanted.inputs)
            return Failure(case, wanted, nothing, Difference("rule", given=error))
        except MemoryError:
            raise
        except Exception as error:  # its constructor stopped
            given = Observation(wanted.inputs, error=error)
        difference = self.difference(trial, case, wanted, given)
        if difference is not None:
            return Failure(case, wanted, given, difference)
        if kept is not None and not trial.copies:
            kept.append(Kept(trial, case, subject, given))
        return None

    def difference(
        self, trial: Trial, case: Case, wanted: Observation, given: Observation
    ) -> Difference | None:
        """The first thing that counts."""
        if given.error is not None and wanted.error is None:
            refused = case.dtype in trial.may_refuse and not is_stub(given.error)
            return None if refused else Difference("error", given=given.error)
        if trial.copies:
            beside = around(wanted, given, trial)
            if beside is not None:
                return beside
            if given.outcomes.repeats and not wanted.outcomes.repeats:
                return Difference("repeats")
            if distribution_differs(wanted.outcomes, given.outcomes):
                return Difference("outcomes", "", wanted.result, given.result)
            return None
        if trial.judge is not None and given.error is None:
            beside = around(wanted, given, trial)
            if beside is not None and beside.kind in ("argument", "random"):
                return beside
            try:
                trial.judge(case, given.inputs, given.result)
            except CheckFailed as error:
                return Difference("rule", given=error)
            except Exception as error:  # the result has a form that the rule cannot read
                return Difference("error", given=error)
        return differs(wanted, given, trial)

    def _afterwards(self, candidate: Any, kept: list[Kept]) -> str | None:
        """What one call does not show: the signature's defaults, and what is kept between calls."""
        changed = changed_defaults(self.reference, candidate, self.blank)
        return changed or call_again(self, candidate, kept)

    # -- the explanation ---------------------------------------------------------------------------

    def _reject(
        self,
        trial: Trial,
        candidate: Any,
        failures: list[Failure],
        passed: list[tuple[Trial, Case]],
    ) -> None:
        plainest = self._reduced(trial, candidate, failures[0], plainer)
        sentence = name_the_mistake(self, trial, candidate, [plainest, *failures], passed)
        smallest = self._reduced(trial, candidate, plainest, smaller)
        text = ""
        if smallest.difference.kind not in ("rule", "repeats", "outcomes"):
            text = small_case(
                smallest.case, trial.every_axis, smallest.wanted.inputs, smallest.difference
            )
        error = CheckFailed(sentence, text)
        error.failed = trial, failures[0].case
        raise error from smallest.given.error

    def _reduced(self, trial: Trial, candidate: Any, failure: Failure, simpler) -> Failure:
        """The simplest case that fails in the same way."""
        reduced, tries = not trial.copies, 0
        while reduced and tries < TRIES:
            reduced = False
            for case in simpler(failure.case, trial.every_axis, trial.valid):
                tries += 1
                other = self.failure(trial, candidate, case)
                if other is not None and other.difference.kind == failure.difference.kind:
                    failure, reduced = other, True
                    break
        return failure


def _name(candidate: Any) -> str:
    return getattr(candidate, "__name__", type(candidate).__name__)
