"""Which of a model's tuners training changes.

    a = attach(model, LoRA(), "a"); train(...)      # trains a
    b = attach(model, LoRA(), "b"); train(...)      # trains b; a acts, and stays as it was trained
    train(..., tuners=("a", "b"))                   # trains both, because they are named

The rule. A tuner that had been changed when another one came, by training or by the values of a
file, is finished: it rests as long as that other one acts. Tuners that came together are trained
together, and one that is alone is trained, whatever it was before. Disabling or detaching the later
one wakes the earlier one.

The mechanism is `requires_grad`, so that loops of one's own and transformers' Trainer keep to the
same rule: parameters of a tuner that rests require no gradient. Base parameters that a tuner trains
in place rest also while it is disabled or merged, since they then hold what belongs to the base.

Where somebody has set `requires_grad` of the frozen base, its values are kept before the first step
that changes them, and `detach` writes them back. That, and a step that does something else than it
seems to, is worth a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from minipeft.doors.door import doors
from minipeft.model.libraries import unwrapped

if TYPE_CHECKING:
    from minipeft.attached import Attached
    from minipeft.tuner import Tuner

WITH_TUNERS: WeakSet[nn.Module] = WeakSet()  # models that have tuners, or had some
KNOWN: WeakSet[Tuner] = WeakSet()  # tuners that were attached and have not been given up
WARNED: WeakSet[nn.Module] = WeakSet()  # of these, models whose base was trained, which was said
HOOKS: list = []  # on the steps of every optimizer, as soon as there is a tuner
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


def record_of(model: nn.Module) -> Attached | None:
    """What a model remembers about its tuners; None where it has none."""
    return vars(unwrapped(model)).get("minipeft")


def tuners(model: nn.Module) -> dict[str, Tuner]:
    """The tuners attached to a model, by name, in the order of attachment."""
    record = record_of(model)
    return dict(record.tuners) if record else {}


def active(model: nn.Module) -> list[Tuner]:
    """The tuners that act now, in order: neither disabled nor merged."""
    return [tuner for tuner in tuners(model).values() if tuner.enabled and not tuner.merged]


def in_training(model: nn.Module) -> list:
    """The tuners that a step of training changes: they act and do not rest."""
    return [tuner for tuner in active(model) if not tuner.resting]


def digest(tuner) -> int:
    """A whole number that changes when the tuner's values do: the sum of their bits.

    Base parameters that are trained in place are not in it; their first values are kept anyway.
    """
    values = [
        p.detach() for p in tuner.parameters() if p not in tuner.base_values and not p.is_meta
    ]
    return sum(int(value.view(BITS[value.element_size()]).sum()) for value in values)


def changed(tuner) -> bool:
    """Do the tuner's values differ from those that it was attached with?"""
    in_place = any(
        not torch.equal(tuner.value_of(p), first) for p, first in tuner.base_values.items()
    )
    return in_place or digest(tuner) != tuner.first_digest


def update(model: nn.Module) -> None:
    """Let those tuners rest that should, and wake the others. Called whenever one of them came,
    left or was switched."""
    now = active(model)
    KNOWN.update(tuners(model).values())
    if KNOWN and not HOOKS:
        HOOKS.append(register_optimizer_step_pre_hook(check_step))
    WARNED.discard(model)
    for tuner in tuners(model).values():
        finished = any(tuner.name in later.finished for later in now)
        tuner.rest(finished or bool(tuner.base_values and tuner not in now))


@contextmanager
def chosen(model: nn.Module, names: str | Sequence | None) -> Iterator[list]:
    """Inside, the named tuners are in training and no other; None goes by the rule, and says so
    where a tuner that acts is left alone.

    Raises:
        ValueError: a name is not that of a tuner that acts.
    """
    if names is None:
        _warn(model)
    else:
        names = _checked(model, [names] if isinstance(names, str) else names)
        for name, tuner in tuners(model).items():
            tuner.rest(name not in names)
    try:
        yield in_training(model)
    finally:
        update(model)


def _checked(model: nn.Module, names: Sequence) -> list[str]:
    """The names of tuners given by their names or as they are."""
    known, checked = tuners(model), []
    for name in names:
        name = getattr(name, "name", name)
        if name not in known:
            choice = f"those of this model are {', '.join(known)}" if known else "it has none"
            raise ValueError(f"There is no tuner named {name!r} on this model to train: {choice}.")
        if known[name] not in active(model):
            what = "merged: unmerge" if known[name].merged else "disabled: enable"
            raise ValueError(f"The tuner {name!r} cannot be trained while it is {what} it first.")
        checked.append(name)
    if not checked:
        raise ValueError("tuners= must name at least one tuner to train, or be left out.")
    return checked


def _warn(model: nn.Module) -> None:
    """Warn where what is trained may not be what was meant."""
    if not tuners(model):
        if model in WITH_TUNERS and all(p.requires_grad for p in model.parameters()):
            warn_of_base(model, stacklevel=6)
        return
    resting = [tuner.name for tuner in active(model) if tuner.resting]
    if resting:
        trained = ", ".join(repr(tuner.name) for tuner in in_training(model))
        warnings.warn(
            f"Only {trained} is trained: {', '.join(map(repr, resting))}, finished before, acts as "
            f"well but stays as it is; disable it to train without it, or name what to train, "
            f"tuners={tuple(tuner.name for tuner in active(model))}.",
            stacklevel=5,
        )


def warn_of_base(model: nn.Module, stacklevel: int) -> None:
    """Warn that the base itself is trained, which has no tuners any more."""
    WARNED.add(model)
    warnings.warn(
        f"No tuner is attached any more, so all {sum(p.numel() for p in model.parameters()):,} "
        "parameters of the base itself are trained: attach a method first, or FullFineTuning() to "
        "train them all and get the base back by detach().",
        stacklevel=stacklevel,
    )


def frozen(model: nn.Module) -> list[nn.Parameter]:
    """The base's parameters that no tuner trains in place; none where nothing is attached."""
    record = record_of(model)
    if record is None:
        return []
    trained = {parameter for tuner in in_training(model) for parameter in tuner.base_values}
    return [parameter for parameter, _ in record.requires_grad if parameter not in trained]


def back_up_frozen(model: nn.Module, parameters: Collection[nn.Parameter], stacklevel: int) -> None:
    """Before a step over these parameters: keep the values of those that are the frozen base's and
    would change, since they require a gradient again or have one; warn, once for a model."""
    asked = [
        p for p in frozen(model) if p in parameters and (p.requires_grad or p.grad is not None)
    ]
    if not asked:
        return
    record, known = record_of(model), tuners(model).values()
    in_place = {parameter for tuner in known for parameter in tuner.base_values}  # kept already
    for parameter in asked:
        if parameter not in record.frozen_backups and parameter not in in_place:
            record.frozen_backups[parameter] = record.originals.value(parameter).clone()
    if not record.warned_of_backups:
        record.warned_of_backups = True
        names = next(iter(known)).anatomy.parameter_names()
        rest = f" and {len(asked) - 1} other parameters" if len(asked) > 1 else ""
        warnings.warn(
            f"{names.get(asked[0], 'A parameter')}{rest} of the base are trained, because "
            "requires_grad was set after attach: no tuner saves that, and detach() takes it back; "
            "set it to False again, or let attach train them, by head=(...) or FullFineTuning().",
            stacklevel=stacklevel,
        )


def why_untrained(tuner: Tuner) -> str | None:
    """What keeps a tuner from being trained and what to do; None where nothing does."""
    if tuner.detached:
        return "was detached: attach it again, or train the model's parameters if you mean these"
    if tuner.merged:
        return "is merged: unmerge it first"
    if not tuner.enabled:
        return "is disabled: enable it first"
    if tuner.resting:
        return (
            "was finished before a later one came: disable the later one to train it alone, or "
            "train both with minipeft.train(..., tuners=(...))"
        )
    return None


def check_step(optimizer: torch.optim.Optimizer, *_) -> None:
    """Before a step: keep what it changes of a frozen base; warn, once for a tuner or a base, where
    it does not do what it seems to."""
    parameters = {p for group in optimizer.param_groups for p in group["params"]}
    for model in list(WITH_TUNERS):
        back_up_frozen(model, parameters, stacklevel=4)
        if record_of(model) is None and model not in WARNED:
            of_base = list(model.parameters())
            trained = any(p in parameters and p.grad is not None for p in of_base)
            if trained and all(p.requires_grad for p in of_base):
                warn_of_base(model, stacklevel=4)
    for tuner in list(KNOWN):
        sentence = None if tuner.warned_of_step else misunderstood(tuner, parameters)
        if sentence:
            tuner.warned_of_step = True
            warnings.warn(sentence, stacklevel=3)


def misunderstood(tuner: Tuner, parameters: set[nn.Parameter]) -> str | None:
    """What a step over these parameters does not do to a tuner, although it seems to."""
    why, half = why_untrained(tuner), parameters.intersection(in_half_precision(tuner))
    if why and not any(p.grad is not None for p in parameters):
        if parameters.intersection(tuner.parameters()):
            return (
                f"This step of the optimizer changes nothing: {tuner.name!r}, whose parameters "
                f"it has, {why}."
            )
    elif half:
        dtype = str(next(iter(half)).dtype).removeprefix("torch.")
        return (
            f"{tuner.name!r} trains {sum(p.numel() for p in half):,} parameters in {dtype}, "
            "where a small step is rounded away: train with minipeft.train, which keeps them "
            "in float32, or load the base in float32."
        )
    elif not why and not parameters.isdisjoint(frozen(tuner.model)):
        its = tuner.parameters()
        if parameters.isdisjoint(its) and any(p.grad is not None for p in its):
            return (
                f"This optimizer has none of the parameters of {tuner.name!r}, which it was made "
                "before, and so does not train it: make it after attach, from tuner.parameters()."
            )
    return None


def in_half_precision(tuner: Tuner) -> list[nn.Parameter]:
    """Base parameters in half precision that a tuner trains in place."""
    return [p for p in tuner.base_values if p.element_size() < 4]


def names_in_training(model: nn.Module) -> str:
    """What is in training, in a few words."""
    names = [tuner.name for tuner in in_training(model)]
    return ", ".join(names) if names else "the model itself"


def check_alone(model: nn.Module) -> None:
    """Refuse a model that shares layers with another one that has tuners."""
    known = tuners(model)
    named = {name for door in doors(model) for name in door.patches}
    parts = {id(parameter) for parameter in model.parameters()}
    for other in WITH_TUNERS:
        if other is not model and tuners(other):
            if any(id(parameter) in parts for parameter in other.parameters()):
                names = ", ".join(map(repr, tuners(other)))
                raise ValueError(
                    f"This model shares layers with another one, a {type(other).__name__} that has "
                    f"tuners attached ({names}): attach to that one, or detach them there first."
                )
    strange = sorted(named - set(known))
    if strange:
        raise ValueError(
            f"Layers of this model carry a tuner, {strange[0]!r}, that was attached to another "
            "model which shares them: attach to that one, or detach it there first."
        )
