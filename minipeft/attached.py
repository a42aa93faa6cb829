"""What a model remembers while tuners are attached: who they are, and how the base was.

The base is sacred: whatever is attached, trained, merged and taken away again in whatever order,
with the last tuner it has its old bits back. All that this rests on is kept in one place, the
record `model.minipeft`, and follows from four rules:

    doors        A frozen module has one door of a kind, for good. Which of the doors stand in the
                 module tree follows from what is merged (`settle`).
    merging      The values that merges write over are kept in `originals`, those from before the
                 first of them. Values are always built anew from there, never subtracted.
    training     Only one tuner trains a base parameter in place, and nothing is merged into it
                 meanwhile; its first value is kept in `Tuner.base_values`.
    sharing      Of two models around one backbone only one can have tuners (`check_alone` in
                 minipeft/attaching/in_training.py).

A copy of a model (`copy.deepcopy`, `pickle`, `torch.save`) has a record and tuners of its own: what
hooks and patches keep is made of plain functions and objects. `torch.compile` goes on past them,
unless `fullgraph=True` forbids it to, and compiles anew where the doors have changed.

Every change first says what shall be and then makes the model so. The second part may be repeated,
so that a change that was interrupted is undone, or finished, by running it once more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from minipeft.attaching.in_training import WITH_TUNERS, record_of, tuners
from minipeft.doors.copies import CopyDoor
from minipeft.doors.door import Door, Originals, bottom, doors, walk
from minipeft.doors.memory import MemoryDoor, PositionDoor
from minipeft.doors.rows import Routing
from minipeft.doors.weights import WeightDoor
from minipeft.doors.words import WordDoor
from minipeft.model import kind
from minipeft.model.anatomy import Anatomy

if TYPE_CHECKING:
    from minipeft.doors.hub_attention import OpenedAttention
    from minipeft.passes.reach import Reach
    from minipeft.tuner import Tuner

WAIT = 60  # seconds that a thread waits for the lock

# Doors of one layer from the inside out: patches act on what a copy gives, and new words are no
# business of the patches of an embedding.
OUTWARDS = (CopyDoor, WeightDoor, WordDoor, MemoryDoor, PositionDoor)


def may_share(kind: type[Door], other: type[Door], one_tuner: bool) -> bool:
    """May doors of two kinds stand at one layer, for one tuner or for two?"""
    kinds = {kind, other}
    return kinds == {WeightDoor, WordDoor} or (kinds == {WeightDoor, CopyDoor} and not one_tuner)


class ForwardLock:
    """One thread at a time is inside a model with tuners; another one waits until it has left.

    What the doors know while they work, the routing or a memory, belongs to one pass. A thread that
    has the lock may take it again, and a copy of the model has a lock of its own.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __reduce__(self):
        return ForwardLock, ()

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=WAIT):
            raise ValueError(
                f"Another thread has been inside this model's route() for {WAIT} seconds: leave it "
                "there first, or call the model in that thread."
            )

    def __exit__(self, *_) -> None:
        self.lock.release()

    def held(self) -> bool:
        """Has this thread the lock?"""
        return self.lock._is_owned()


def forward_lock(model: nn.Module):
    """The lock of a model; nothing to wait for where there are no tuners."""
    record = record_of(model)
    return record.forward_lock if record else nullcontext()


class Attached:
    """The record of a model's tuners. Nothing is changed until `freeze`."""

    def __init__(self, model: nn.Module) -> None:
        self.tuners: dict[str, Tuner] = {}
        self.doors: list[Door] = []  # all of them, also those out of the tree
        self.originals = Originals()
        self.model = model
        self.requires_grad = [(p, p.requires_grad) for p in model.parameters()]
        self.flags = {  # by name, for parameters that are exchanged meanwhile
            name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)
        }
        self.frozen_backups: dict[nn.Parameter, Tensor] = {}  # see in_training.back_up_frozen
        self.warned_of_backups = False
        self.buffers = [  # batch norm counts what it sees
            (module, key, buffer.clone())
            for module in model.modules()
            for key, buffer in module._buffers.items()
            if buffer is not None
        ]
        self.training = [(module, module.training) for module in model.modules()]
        self.routing: Routing | None = None  # see `route`
        self.checked: set = set()  # inputs whose rows have been followed, see followed_rows.py
        self.attention: OpenedAttention | None = None  # of transformers models, for memories
        self.forward_lock = ForwardLock()
        self.reach: Reach  # made by `attach`
        self.hooks: list = []
        self.is_copy = False  # one that has not been called yet

    def __setstate__(self, state: dict) -> None:
        """A copy of the record belongs to the copy of the model."""
        self.__dict__ = {**state, "routing": None, "is_copy": True}
        WITH_TUNERS.add(self.model)

    def freeze(self) -> None:
        """No parameter that the base had when the record was made asks for a gradient any more, or
        has one, which an optimizer would act on."""
        for parameter, _ in self.requires_grad:
            parameter.requires_grad_(False)
            parameter.grad = None

    # ---- doors ----

    def doors_of(self, module: nn.Module) -> list[Door]:
        """The doors that a frozen module has, standing or not."""
        return [door for door in self.doors if bottom(door) is module]

    def door(self, module: nn.Module, kind: type[Door], name: str) -> Door:
        """The one door of this kind that a frozen module has, for the tuner of this name."""
        door = None
        for other in self.doors_of(module):
            if isinstance(other, kind):
                door = other
            elif not may_share(kind, type(other), name in other.patches):
                path = next(path for path, other in walk(self.model) if other is module)
                raise ValueError(
                    f"{path} cannot be copied and patched at once: take it out of "
                    "the targets, or attach with head=False."
                )
        if door is None:
            door = kind(module)
            door.originals, door.routing = self.originals, self.routing
            self.doors.append(door)
        return door

    def settle(self) -> None:
        """Let every door with something to do stand around its module, in the order OUTWARDS.

        A door whose patches are all merged stands aside, and one without patches is forgotten.
        """
        self.doors = [door for door in self.doors if door.patches]
        before, standing = set(doors(self.model)), {}
        for door in sorted(self.doors, key=lambda door: OUTWARDS.index(type(door))):
            module = bottom(door)
            door.base = standing.get(module, module)
            if len(door.merged) < len(door.patches):
                standing[module] = door
                if door not in before:  # modes and devices passed it by
                    door.rejoin()
        for parent in [parent for _, parent in walk(self.model)]:
            for key, child in parent._modules.items():
                if child is not None and (isinstance(child, Door) or child in standing):
                    module = bottom(child)
                    parent._modules[key] = standing.get(module, module)

    def route(self, rows: Routing | None) -> None:
        """Tell every door which tuners act on which row."""
        self.routing = rows
        for door in self.doors:
            door.routing = rows

    # ---- values of the base ----

    def merged_into(self, parameter: nn.Parameter, besides: str = "") -> str | None:
        """The tuner that has written into this parameter, or put its own copy into the place; the
        one named `besides` does not count."""
        for door in self.doors:
            others = [name for name in door.merged if name != besides]
            if others and any(p is parameter for p in bottom(door).parameters()):
                return others[-1]
        return None

    def first_value(self, parameter: nn.Parameter) -> Tensor:
        """A base parameter without what is merged into it and without being trained in place."""
        for tuner in self.tuners.values():
            if parameter in tuner.base_values:
                return tuner.base_values[parameter]
        return self.originals.value(parameter)

    @torch.no_grad()
    def put(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Give a base parameter another value, beneath what is merged into it."""
        if parameter not in self.originals.values:
            parameter.copy_(value)
            return
        self.originals.values[parameter].copy_(value)
        for door in self.doors:
            if isinstance(door, WeightDoor) and door.merged:
                if any(p is parameter for p in bottom(door)._parameters.values()):
                    door.write()

    def changed_buffers(self) -> list[str]:
        """Names of the base's buffers that passes have changed: the averages of batch norm, say."""
        paths = {module: path for path, module in walk(self.model)}
        return [
            f"{paths[module]}.{key}"
            for module, key, first in self.buffers
            if module in paths and key not in module._non_persistent_buffers_set
            if module not in self.originals.tensors  # where a merged copy's stand
            if not equal(module._buffers.get(key), first)
        ]

    def keep_resized_buffers(self) -> None:
        """Buffers with a number for each word (BART's final_logits_bias) are what they are now."""
        for number, (module, key, first) in enumerate(self.buffers):
            now = module._buffers.get(key)
            if now is not None and now.shape != first.shape:
                self.buffers[number] = (module, key, now.clone())

    def restore(self) -> None:
        """With the last tuner: flags, modes, buffers and hooks as before the first one came."""
        stuck = [path for path, module in self.model.named_modules() if isinstance(module, Door)]
        if stuck or self.originals.values or self.originals.tensors:
            raise RuntimeError(
                f"The base could not be given back ({(stuck or ['a merged weight'])[0]} is still "
                "changed): load it anew, and tell the authors of minipeft what led to this."
            )
        for hook in self.hooks:
            hook.remove()
        for parameter, flag in self.requires_grad:
            parameter.requires_grad_(flag)
        known = {parameter for parameter, _ in self.requires_grad}
        for name, parameter in self.model.named_parameters():
            if parameter not in known and name in self.flags:
                parameter.requires_grad_(self.flags[name])
        with torch.no_grad():
            for parameter, value in self.frozen_backups.items():
                if parameter.shape == value.shape:
                    parameter.copy_(value)
            for module, key, value in self.buffers:
                now = module._buffers.get(key)
                if now is not None and now.shape == value.shape:
                    now.copy_(value)
                else:
                    module._buffers[key] = value.clone()
        for module, mode in self.training:
            module.training = mode


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy that the model's tuners go by, a fresh one where there are none."""
    return next((tuner.anatomy for tuner in tuners(model).values()), None) or Anatomy(model)


def kind_of(model: nn.Module) -> str:
    """ "decoder", "encoder" or "encoder-decoder": what the model's tuners go by, or its config."""
    known = next((tuner.anatomy.kind for tuner in tuners(model).values()), None)
    return known or kind.kind_of(model)  # which an unlisted model's config may not say


def equal(now: Tensor | None, first: Tensor) -> bool:
    """Have two buffers the same values, wherever the model is now?"""
    return now is not None and now.shape == first.shape and torch.equal(now, first.to(now))


def finish(change: Callable[[], None]) -> None:
    """Run a change that may be repeated; an interrupted one is finished before the exception."""
    try:
        change()
    except BaseException:
        change()
        raise
