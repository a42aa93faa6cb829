"""What every method has in common: a frozen dataclass of settings that knows how to install itself.

A method sees the model through its tuner only, so it never names a module of any architecture:

    tuner.find(targets, layers) -> places      linear maps, found by anatomy
    tuner.add(place, patch)                    put a patch into the weights door at that place
    tuner.attentions(layers) -> sites          attention layers, self and cross
    tuner.add_memory(site, patch)              give one a memory, keys and values
    tuner.add_virtual_tokens(patch, n) -> ids  n new words, whose vectors the patch gives
    tuner.shift_positions(n)                   count positions as if n tokens stood before the text
    tuner.copy(path)                           train a copy of a small module (a head, a norm)
    tuner.unfreeze(parameters)                 train base parameters, originals kept for detach
    tuner.choose(places, table, default)       a value per place from {"query": 4, ...}
    tuner.surround(path, around)               put a patch around the one that is at a path
    tuner.tied(place) -> places                the modules that share an embedding's matrix
    tuner.install_part(method)                 install one of the methods that this one is made of
    tuner.anatomy                              sizes and kinds of the model's parts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields

from torch import Tensor, nn

from minipeft.methods.parts.known_settings import KnownSettings


class Method(metaclass=KnownSettings):
    """Base of all methods. Only `install` must be written; the rest does nothing by default."""

    default_rate = 1e-3  # the learning rate of the command line; SST-2 with MiniLM: LoRA 78 %
    identity_at_start = True  # does the model answer as before when this is attached?
    compatibility: str | None = None  # "peft": it does what PEFT does, see the methods with prompts

    def rate(self) -> float:
        """The learning rate of the command line, where it is not that of the class."""
        return self.default_rate

    def parts(self) -> tuple[Method, ...]:
        """The methods that this one is made of: itself, or several under one name."""
        return (self,)

    renamed: Mapping[str, str] = {}  # old name of a setting -> its name, see parts/renamed.py

    def install(self, tuner) -> None:
        """Find the places and put patches there. Called once, by `attach`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is installed.")

    def means_all(self) -> bool:
        """Does it ask for every layer of a kind, and for none by its name?"""
        return "all-linear" in (getattr(self, "targets", None) or ())

    def describe(self) -> str:
        """The settings in one line, those that are off or empty or not for reading left out."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self) if field.repr)
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in values if v)})"

    def settings(self) -> dict:
        """The settings as plain values, for a file."""
        return asdict(self)

    @classmethod
    def from_settings(cls, settings: dict, find: Callable[[str], type]) -> Method:
        """The method of these settings. find: name -> class, for methods made of others."""
        settings = {cls.renamed.get(name, name): value for name, value in settings.items()}
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

    def before_pass(self, tuner) -> None:
        """Called when a pass begins and nothing is known of its batch: forget what was of another.

        Not at the end of a pass, since checkpointed layers run once more in the backward pass.
        """

    def before_forward(self, tuner, batch: dict) -> None:
        """Called with the batch as the model is about to see it, after every `wrap`."""

    def export_state(self, tuner) -> dict[str, Tensor]:
        """What `save` writes where PEFT has no layout: `Tuner.named_tensors`, or less of it."""
        return tuner.named_tensors()

    def import_state(self, tensors: dict[str, Tensor]) -> tuple[Method, dict[str, Tensor]]:
        """The method to attach, and the values to fill in, for what `export_state` gave."""
        return self, tensors

    def penalty(self, tuner) -> Tensor | None:
        """A term to add to the training loss (AdaLoRA's orthogonality), or None."""
        return None

    # ---- what `train` asks, or in a loop of one's own the optimizer's hooks (parts/own_steps.py);
    # numbers that must survive a checkpoint live in buffers of the patches

    def begin(self, tuner, steps: int) -> None:
        """Called before the first step of a run, and before a run is resumed."""

    total_steps: int | None = None  # of a run that is not `train`'s

    def counts_steps(self, tuner) -> bool:
        """Has it work to do after the steps of a run, so that it must know how long that is?"""
        return False

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
