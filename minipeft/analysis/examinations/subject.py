"""What is examined: a model, and what was added to it, in one form for minipeft's and PEFT's.

| a model        | whose new tensors are                                   | file           |
|----------------|---------------------------------------------------------|----------------|
| tuned here     | patches and copies of the tuners that are in training   | tuned_here.py  |
| wrapped by 🤗  | those of PEFT's layers, of its copies and of its prompt | peft_models.py |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from minipeft.contexts import evaluating


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    kind: of which kind, one word or two.  place: the tensor, layer or column.  sentence: what is
    wrong and what to do.
    """

    kind: str
    place: str
    sentence: str


@dataclass(eq=False)
class Part:
    """The new tensors at one place.

    path: of the place.  tensors: name -> what is trained there.  host: the frozen module that it
    acts on, None for a prompt.  scale: what its change is multiplied by.  copy: is it a trained
    copy of the host?  in_weight: would a merge write it into the host's weight, or put the copy in
    its place?
    """

    path: str
    tensors: dict[str, Tensor]
    host: nn.Module | None = None
    scale: float = 1.0
    copy: bool = False
    in_weight: bool = False


@dataclass(eq=False)
class Target:
    """A name that linear maps were to be found by.

    paths: what it matched.  everywhere: does it mean all layers? False where layers were named.
    """

    name: str
    paths: list[str] = field(default_factory=list)
    everywhere: bool = True


class Subject:
    """A model with what was added to it. Read only: nothing of it is changed but in a `with`.

    Attributes:
        model: as it is called.
        inner: the model of transformers or of a user inside it; itself, where nothing is around it.
        parts: the new tensors, place by place.
        hosts: frozen modules that something was added to, be it tensors or the use of others'.
        base: name -> parameter of the base, a tied one once.
        in_place: base parameters that are trained on purpose.
        stored: parameters that a saved file holds.
        targets: what was asked for, by name.
        unmatched_copies: names of modules to be trained whole that matched none.
        prompt: soft words in front of the text.
        advice: what to do, in the words of the library that is used, by the fault.
    """

    model: nn.Module
    inner: nn.Module
    parts: list[Part]
    hosts: list[nn.Module]
    base: dict[str, nn.Parameter]
    in_place: set[nn.Parameter]
    stored: set[nn.Parameter]
    targets: list[Target]
    unmatched_copies: list[str]
    prompt = 0
    advice: dict[str, str]

    @property
    def new(self) -> dict[str, nn.Parameter]:
        """Every new tensor by its name, one that several places share once."""
        names: dict[nn.Parameter, str] = {}
        for part in self.parts:
            for name, tensor in part.tensors.items():
                names.setdefault(tensor, f"{part.path}.{name}" if part.path else name)
        return {name: tensor for tensor, name in names.items()}

    def trains(self) -> bool:
        """Is anything trained at all? A model that was loaded to answer trains nothing."""
        chosen = [*self.new.values(), *self.in_place]
        return any(p.requires_grad for p in chosen)

    def modules(self) -> dict[str, nn.Module]:
        """Every module of the base by its path, without what was added."""
        raise NotImplementedError

    def standing(self, path: str) -> nn.Module | None:
        """What stands at the path of a part, around the layer of the base."""
        try:
            return self.model.get_submodule(path)
        except AttributeError:
            return None

    def untouched(self) -> bool:
        """Must the model answer as its base does, since nothing was trained yet?"""
        raise NotImplementedError

    def disabled(self):
        """Inside, the base answers alone; gives the module that is to be called then."""
        raise NotImplementedError

    def merged(self):
        """Inside, what was added is part of the base's weights. ValueError where it cannot be."""
        raise NotImplementedError

    def changes(self) -> Iterator[tuple[Tensor, Tensor, torch.dtype]]:
        """(what a weight was, what a merge makes of it, both in float32, its dtype)."""
        raise NotImplementedError

    def random_starts(self) -> list[str]:
        """Where it says that the first values are random, so that the start is no identity."""
        return []

    def describe(self) -> str:
        """What was added, in a few words."""
        raise NotImplementedError


def first_and_more(names: list[str]) -> str:
    """The first of several names, and how many more there are."""
    others = len(names) - 1
    return names[0] if not others else f"{names[0]} and {others:,} more"


@contextmanager
def answering(subject: Subject) -> Iterator[None]:
    """Inside, the model is in eval mode."""
    with evaluating(subject.model):
        yield
