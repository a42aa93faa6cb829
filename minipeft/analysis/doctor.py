"""The doctor: what is wrong with a tuned model that raises no error?

    print(doctor(model, batch))

A run can be broken without a word: the loss falls a little, or not at all, and nobody knows why.
Each examination asks one question of the model and one batch, and what it finds is one sentence
with what to do. The model is tuned here or wrapped by 🤗 PEFT. It is the same afterwards.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from minipeft.analysis.examinations import EXAMINATIONS
from minipeft.analysis.examinations.peft_models import WrappedByPeft, is_wrapped
from minipeft.analysis.examinations.subject import Finding, Subject
from minipeft.analysis.examinations.tuned_here import TunedHere
from minipeft.analysis.examinations.untouched import untouched
from minipeft.analysis.examinations.visit import LeftOut, Visit
from minipeft.attached import forward_lock, tuners
from minipeft.model.libraries import is_sharded, unwrapped
from minipeft.report import Table
from minipeft.training.arguments import is_number
from minipeft.training.batches import explained, tidy

INDENT = dict(initial_indent="    ", subsequent_indent="    ", break_long_words=False)


@dataclass(repr=False)
class Diagnosis(Table):
    """What the doctor found: print it, or leave it as the last line of a notebook cell.

    findings: each with kind, place and sentence.  left_out: examination -> why it was left out.
    """

    findings: list[Finding] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Was nothing found?"""
        return not self.findings

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of what was found, each once."""
        return tuple(dict.fromkeys(finding.kind for finding in self.findings))

    def __str__(self) -> str:
        lines = [self.title, "-" * len(self.title)]
        for kind, place, sentence in self.rows:
            lines += [f"{kind}: {place}", *textwrap.wrap(sentence, 96, **INDENT), ""]
        return "\n".join([*lines, *(line for n in self.notes for line in textwrap.wrap(n, 100))])

    __repr__ = __str__


def doctor(model: nn.Module, batch: Mapping, learning_rate: float = 1e-3) -> Diagnosis:
    """Examine a tuned model with one batch.

    Two steps are tried and taken back: weights, buffers, gradients, modes, what requires a gradient
    and the random generators are the same afterwards, to the last bit. A second copy of the model's
    tensors is held meanwhile.

    Args:
        model: with tuners attached, or wrapped by 🤗 PEFT.
        batch: as it is trained on, with labels, and padded as it is in training.
        learning_rate: the highest one of the training.

    Returns:
        A table of findings. `findings` has them as objects with `kind`, `place` and `sentence`;
        `passed` is True where there is none; `left_out` says which examinations did not apply.

    Raises:
        ValueError, TypeError: nothing was added to the model, or the batch cannot be used.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"doctor() needs a model, not {type(model).__name__}.")
    if not is_number(learning_rate) or not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be positive, not {learning_rate!r}.")
    if is_sharded(model):
        raise ValueError("The doctor looks at whole models: load this one without sharding it.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # findings say it
        kind = reader_of(model)
        batch = tidy(batch, next(model.parameters()).device)
        if not isinstance(batch.get("labels"), Tensor):
            raise ValueError(
                "The doctor needs a batch with labels, as in training: add labels, with -100 where "
                "nothing is asked."
            )
        with forward_lock(model), untouched(model) as restore:
            return examine(Visit(kind(model), batch, learning_rate, restore))


def reader_of(model: nn.Module) -> type[Subject]:
    """What reads this model: it has tuners of minipeft, or PEFT is around it."""
    if tuners(unwrapped(model)):
        return TunedHere
    if is_wrapped(model):
        return WrappedByPeft
    raise ValueError(
        "Nothing was added to this model, so there is nothing to examine: attach a method first, "
        "or give the model that get_peft_model returned."
    )


def examine(visit: Visit) -> Diagnosis:
    """Ask all questions, in their order."""
    findings, left_out = [], {}
    for name, examination in EXAMINATIONS.items():
        try:
            with explained(visit.subject.inner, visit.batch):
                for finding in examination(visit):
                    findings.append(finding)
        except LeftOut as reason:
            left_out[name] = str(reason)
    count = {0: "nothing found", 1: "1 finding"}.get(len(findings), f"{len(findings)} findings")
    subject = visit.subject
    notes = ["Examined: " + ", ".join(name for name in EXAMINATIONS if name not in left_out) + "."]
    if left_out:
        reasons = (f"{name} ({why})" for name, why in left_out.items())
        notes.append("Left out: " + ", ".join(reasons) + ".")
    return Diagnosis(
        title=f"Doctor: {subject.describe()} on {type(subject.inner).__name__}, {count}",
        header=("kind", "place", "what is wrong, and what to do"),
        rows=[(finding.kind, finding.place, finding.sentence) for finding in findings],
        notes=notes,
        findings=findings,
        left_out=left_out,
    )
