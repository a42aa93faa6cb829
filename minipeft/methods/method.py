"""What every method has in common: a frozen dataclass of settings that knows how to install itself.

A method sees the model through its tuner only, so it never names a module of any architecture:

    tuner.find(targets, layers) -> places      linear maps, found by anatomy
    tuner.add(place, patch)                    put a patch into the door at that place
    tuner.copy(path)                           train a copy of a small module (a head, a norm)
    tuner.unfreeze(parameters)                 train base parameters, originals kept for detach
    tuner.choose(places, table, default)       a value per place from {"query": 4, ...}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields

from torch import Tensor, nn

LARGEST = 2**31  # a whole number that is as large is a mistake, and torch would not take it
LONGEST = 300  # characters of a name


class Method:
    """Base of all methods. Only `install` must be written; the rest does nothing by default."""

    identity_at_start = True  # does the model answer as before when this is attached?

    def install(self, tuner) -> None:
        """Find the places and put patches there. Called once, by `attach`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is installed.")

    def describe(self) -> str:
        """The settings in one line, those that are off or empty or not for reading left out."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self) if field.repr)
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in values if v)})"

    def settings(self) -> dict:
        """The settings as plain values, for a file."""
        return asdict(self)

    @classmethod
    def revive(cls, settings: dict, find: Callable[[str], type]) -> Method:
        """The method of these settings. find: name -> class, for methods made of others."""
        unknown = set(settings) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(
                f"The file's {cls.__name__} has a setting {min(unknown)} not known here."
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})

    def notes(self, tuner) -> list[str]:
        """Sentences under the tuner's report."""
        return []

    def wrap(self, tuner, batch: dict) -> dict:
        """The batch as the model must see it: methods in the words door add their prompt ids."""
        return batch

    def look(self, tuner, batch: dict) -> None:
        """Called with the batch as the model is about to see it, after every `wrap`."""

    def stored(self, tuner) -> dict[str, Tensor]:
        """What `save` writes where PEFT has no layout: `Tuner.named_tensors`, or less of it."""
        return tuner.named_tensors()

    def restored(self, tensors: dict[str, Tensor]) -> tuple[Method, dict[str, Tensor]]:
        """The method to attach, and the values to fill in, for what `stored` gave."""
        return self, tensors

    def penalty(self, tuner) -> Tensor | None:
        """A term to add to the training loss (AdaLoRA's orthogonality), or None."""
        return None

    # ---- what `train` asks; numbers that must survive a checkpoint live in buffers of the patches

    def begin(self, tuner, steps: int) -> None:
        """Called before the first step of a run, and before a run is resumed."""

    def learning_rates(self, tuner) -> dict[nn.Parameter, float]:
        """Parameters that learn at a multiple of the rate, each with its factor (LoRA+)."""
        return {}

    def after_step(self, tuner, step: int, steps: int) -> dict | None:
        """Called after the optimizer's step, the gradients still there (AdaLoRA's budget).

        What it gives back is kept in `History.records`.
        """

    def settled(self, tuner, step: int, steps: int) -> bool:
        """May `train` keep the weights after this step as the best ones?"""
        return True

    def finish(self, tuner) -> None:
        """Called after the last step, when the best weights are back."""


def shown(value) -> str:
    """A value as an error says it, cut where it is too long to be read."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def entries(value) -> tuple:
    """What is in a list, tuple, range or set; nothing where there is no such thing."""
    return tuple(value) if isinstance(value, Iterable) else ()


def check_table(method, *fields: str) -> None:
    """Each field must be a dict whose keys are names."""
    for field in fields:
        value = getattr(method, field)
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValueError(
                f"{type(method).__name__}'s {field} must be a dict by target, such as "
                f'{{"query": 4}}, not {shown(value)}.'
            )


def check_names(method, *fields: str) -> None:
    """Make each field a tuple of strings; one string alone counts as a tuple of one."""
    for field in fields:
        value = getattr(method, field)
        names = (value,) if isinstance(value, str) else entries(value)
        if not names or not all(isinstance(n, str) and 0 < len(n) < LONGEST for n in names):
            raise ValueError(
                f"{type(method).__name__}'s {field} must be one or more names, such as "
                f'("query", "value"), not {shown(value)}.'
            )
        object.__setattr__(method, field, names)  # the way to set a field of a frozen dataclass


def check_layers(method) -> None:
    """`layers` must be None or a tuple of layer numbers."""
    if method.layers is None:
        return
    layers = entries(method.layers)
    if not layers or not all(type(i) is int and i >= 0 for i in layers):
        raise ValueError(
            f"{type(method).__name__}'s layers must be None or layer numbers from 0, not "
            f"{shown(method.layers)}."
        )
    object.__setattr__(method, "layers", layers)


def check_choice(method, field: str, choices: Iterable[str]) -> None:
    """The field must be one of these words."""
    value = getattr(method, field)
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(map(repr, choices))
        raise ValueError(
            f"{type(method).__name__}'s {field} must be one of {words}, not {shown(value)}."
        )


def check_number(method, field: str, rule: str, fits: Callable, whole: bool = False) -> None:
    """The field must be a number, a whole one if said so, for which `fits(number)` is true."""
    value, kinds = getattr(method, field), (int,) if whole else (int, float)
    fitting = type(value) in kinds and fits(value)  # True is an int, but no number here
    if not fitting or (type(value) is int and value >= LARGEST):
        kind = "a whole number" if whole else "a number"
        raise ValueError(
            f"{type(method).__name__}'s {field} must be {kind} {rule}, not {shown(value)}."
        )


def check_flag(method, *fields: str, none: bool = False) -> None:
    """Each field must be True or False; with `none`, None is one more choice."""
    for field in fields:
        value = getattr(method, field)
        if type(value) is not bool and not (none and value is None):
            words = "True, False or None" if none else "True or False"
            raise ValueError(
                f"{type(method).__name__}'s {field} must be {words}, not {shown(value)}."
            )
