"""attach, detach and what lies between: the life of one named method on one model.

    tuner = attach(model, LoRA(rank=8), name="sentiment")     # base frozen, patches in their doors
    tuner.report()                                            # what went where, how much of it
    tuner.disable(); tuner.enable(); tuner.merge(); tuner.unmerge()
    tuner.detach()                                            # the very same base, bit for bit

Several tuners may live on one model under different names; `route` chooses among them row by row.
All that a model remembers about its tuners is one plain object, `model.minipeft`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from minipeft.attached import Attached, finish
from minipeft.attaching.beginning import attach_tuner
from minipeft.attaching.in_training import update
from minipeft.attaching.installing import Installer, Share
from minipeft.attaching.refusals import check_attach, check_merge
from minipeft.doors.door import Door, doors
from minipeft.doors.marks import Mark
from minipeft.doors.memory import MemoryDoor
from minipeft.doors.rounding import lost_share, warn_of_rounding
from minipeft.methods.method import Method
from minipeft.methods.parts.own_steps import OwnSteps
from minipeft.model.anatomy import Anatomy
from minipeft.model.family import Family
from minipeft.model.libraries import unwrapped
from minipeft.model.sites import Place, name_of
from minipeft.passes.batch_wrapping import BatchWrapping
from minipeft.report import Report


def attach(
    model: nn.Module,
    method: Method,
    name: str = "default",
    head: bool | str | Sequence[str] = "auto",
    family: Family | None = None,
    seed: int | None = None,
) -> Tuner:
    """Freeze the model and put the method's patches into its doors.

    Args:
        model: a tiny_transformer, a transformers model, or any module whose linear maps the
            method's targets name.
        method: for example `LoRA(rank=8)`.
        name: the tuner's name on this model.
        head: "auto" or True trains a copy of the task head (classification, tagging) as well,
            because a fresh task starts with a random one, and in a module of one's own of what
            stands around the model inside and is not frozen already; False leaves the head frozen;
            paths of modules name what to train.
        family: names of the parts of a model that anatomy does not know.
        seed: of the patches' first random numbers; None takes them from torch's generator.

    Raises:
        ValueError, TypeError: the name is taken, or a target does not fit. The model is then as
            it was.
    """
    model = unwrapped(model)
    check_attach(model, method, name, head)
    return attach_tuner(Tuner(model, method, name, family), head, seed)


class Tuner(Installer, BatchWrapping):
    """One method on one model under one name. Made by `attach` and by `load`."""

    def __init__(self, model: nn.Module, method: Method, name: str, family: Family | None = None):
        self.model = model
        self.record: Attached  # what the model remembers of all of its tuners
        self.method = method
        self.name = name
        self.anatomy = Anatomy(model, family)
        self.patches: list[tuple[Place, nn.Module]] = []  # every patch, and where it sits
        self.copies: dict[str, nn.Module] = {}  # path of a layer -> its trained copy
        self.shares: list[Share] = []  # of the parts, where the method is several
        # base parameter in training -> its first value
        self.base_values: dict[nn.Parameter, Tensor] = {}
        self.base_value_names: dict[nn.Parameter, str] = {}  # their names in the model
        self.trained: dict[nn.Parameter, Tensor] = {}  # -> its trained value, while disabled
        self.words: range | None = None  # the ids of this tuner's own words
        self.shift = 0  # by how many positions every token of a text stands further back
        self.own_steps = OwnSteps(method.total_steps)  # in a loop that is not `train`
        self.marks: dict[str, Mark] = {}  # path of a place -> was it read? See passes/reach.py
        self.copy_marks: dict[str, Mark] = {}  # path of a copied layer -> the same
        self.word_mark: Mark | None = None
        self.word_paths: list[str] = []  # of the embeddings that know the words
        self.enabled = True
        self.merged = False
        self.detached = False
        self.rounding: float | None = None  # share of a change that merging in half precision lost
        self.first_digest = 0  # of the values that it came with
        self.finished: set[str] = set()  # tuners that had been trained when this one came
        # those that required a gradient before they came to rest; None while they do not rest
        self.resting_parameters: list[nn.Parameter] | None = None
        self.warned_of_step = False  # see in_training.check_step
        self.foreign = False  # from a file of another library
        self.base_name: tuple[str | None, str | None] = (None, None)  # and revision, by its file
        self.inert_places: set[str] = set()  # see Reach.check_places

    # ---- what a user calls ----

    def parameters(self) -> list[nn.Parameter]:
        """Everything this tuner trains, the head last."""
        modules = [patch for _, patch in self.patches] + list(self.copies.values())
        every = [*self.base_values, *(p for module in modules for p in module.parameters())]
        return list(dict.fromkeys(every))  # patches may share a module, such as an encoder

    @property
    def resting(self) -> bool:
        """Is it left alone by training? See minipeft.attaching.in_training."""
        return self.resting_parameters is not None

    def rest(self, resting: bool) -> None:
        """Take the parameters out of training, or let those train again that did before."""
        if resting and self.resting_parameters is None:
            self.resting_parameters = [p for p in self.parameters() if p.requires_grad]
        if resting:
            for parameter in self.resting_parameters:
                parameter.requires_grad_(False)
                parameter.grad = None  # an optimizer would act on what a loop left here
        elif self.resting_parameters is not None:
            for parameter in self.resting_parameters:
                parameter.requires_grad_(True)
            self.resting_parameters = None

    def value_of(self, parameter: nn.Parameter) -> Tensor:
        """Of a base parameter that this tuner trains, also while the model has another one."""
        beneath = self.record.originals.value(parameter)  # what is merged into it
        return self.trained.get(parameter, beneath)

    def named_tensors(self) -> dict[str, Tensor]:
        """What `save` stores, by name: <module>.<target>.<tensor> of patches, <module>.<tensor>.

        What several patches share, such as an encoder, is named once, by the first of them.
        """
        tensors, known = {}, set()
        for place, patch in self.patches:
            for key, tensor in patch.state_dict(keep_vars=True).items():
                if id(tensor) not in known:
                    tensors[f"{name_of(place)}.{key}"] = tensor.detach()
                known.add(id(tensor))
        for parameter, name in self.base_value_names.items():
            tensors[name] = self.value_of(parameter)
        for path, twin in self.copies.items():
            tensors |= {f"{path}.{key}": tensor for key, tensor in twin.state_dict().items()}
        return tensors

    @property
    def places(self) -> list[tuple[Place, nn.Module]]:
        """An older name of `patches`, which stays readable."""
        return self.patches

    def disable(self) -> Tuner:
        """The base answers as if this tuner were not there."""
        self._alive()
        if self.merged:
            raise ValueError(f"{self.name!r} is merged into the base: call unmerge() first.")
        with self.record.forward_lock, torch.inference_mode(False):
            finish(lambda: self._switch(False))
        return self

    def enable(self) -> Tuner:
        """Undo `disable`."""
        self._alive()
        if not self.enabled:
            self._check_order()
            with self.record.forward_lock, torch.inference_mode(False):
                try:
                    self._switch(True)
                except BaseException:
                    self._switch(False)
                    raise
        return self

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """`with tuner.disabled(): ...` and back to what it was."""
        with self.record.forward_lock:
            before, gradients = self.enabled, [(p, p.grad) for p in self.base_values]
            self.disable()
            try:
                yield
            finally:
                self.enable() if before else self.disable()
                for parameter, gradient in gradients if before else ():  # of a step half done
                    parameter.grad = gradient

    def merge(self) -> Tuner:
        """Write the patches into the base's weights and take the doors out of the model.

        The model is then as fast and as plain as the base, and can be saved as one. The sum is
        taken in fp32 and rounded once to the base's dtype; `unmerge` brings the old bits back. In
        half precision `rounding` is the share of the change that this loses; much is worth a
        warning.
        """
        self._alive()
        if self.merged:
            return self
        check_merge(self)
        with self.record.forward_lock, torch.inference_mode(False):
            try:
                self.merged = True
                self.rounding = lost_share(self.doors(), self.name)
                for door in self.doors():
                    door.merge(self.name)
                self.record.settle()
                update(self.model)
            except BaseException:
                self._unmerge()
                raise
        warn_of_rounding(self)
        return self

    def unmerge(self) -> Tuner:
        """Undo `merge`, bit for bit."""
        self._alive()
        if self.merged:
            self._check_order()
            with self.record.forward_lock, torch.inference_mode(False):
                finish(self._unmerge)
        return self

    def detach(self) -> nn.Module:
        """Take everything away: the model is the very same base, its weights equal bit for bit.

        With the last tuner, requires_grad flags, train / eval modes and buffers go back to what
        they were before the first one came.
        """
        self._alive()
        if any(self.name in names for names in self.record.routing or ()):
            raise ValueError(f"route() sends rows to {self.name!r}: leave it before detach().")
        with self.record.forward_lock, torch.inference_mode(False):
            finish(self.take_away)
        return self.model

    def take_away(self) -> None:
        """Undo what `attach` did; may be repeated."""
        record = self.record
        if self.detached:
            return
        self._unmerge()
        self.rest(False)
        for parameter, first in self.base_values.items():
            record.put(parameter, first)
            parameter.grad = None
            parameter.requires_grad_(False)
        for door in record.doors:
            door.remove(self.name)
        record.settle()
        record.tuners.pop(self.name, None)
        for other in record.tuners.values():
            other.finished.discard(self.name)
        update(self.model)
        if record.attention and not any(isinstance(door, MemoryDoor) for door in record.doors):
            record.attention.restore()
            record.attention = None
        if not record.tuners:
            record.restore()
            vars(self.model).pop("minipeft", None)
        self.detached = True

    def save(self, folder) -> None:
        """Write the tuner into a folder, in the layout of 🤗 PEFT where it has one."""
        from minipeft.files.saving import save

        self._alive()
        save(self, folder)

    def report(self) -> Report:
        """What went where, in which shapes, and how many numbers it is."""
        from minipeft.report import report_of

        self._alive()
        return report_of(self)

    def __repr__(self) -> str:
        state = "detached" if self.detached else "merged" if self.merged else "enabled"
        state = state if self.enabled else "disabled"
        if state == "enabled" and self.resting:
            state = "enabled, finished before a later one came"
        return f"Tuner({self.name!r}, {self.method.describe()}, {state})"

    def is_at(self, path: str) -> bool:
        """Is the layer at this path a door of this tuner?"""
        try:
            door = self.model.get_submodule(path)
        except AttributeError:
            return False
        return isinstance(door, Door) and self.name in door.patches

    def is_in_tree(self) -> bool:
        """Are its doors still parts of the model, whose layers a user may exchange?"""
        return any(self.name in door.patches for door in doors(self.model))

    # ---- inside ----

    def _alive(self) -> None:
        if self.detached:
            raise ValueError(f"The tuner {self.name!r} is detached: attach or load it again.")

    def doors(self) -> list[Door]:
        """The doors that hold a patch of this tuner, standing in the model or not."""
        return [door for door in self.record.doors if self.name in door.patches]

    def _check_order(self) -> None:
        """Refuse to act again where something that is merged now would not follow from it."""
        later = [door.blocked(self.name) for door in self.doors()]
        values = self.record.originals.values
        later += [self.record.merged_into(p, self.name) for p in self.base_values if p in values]
        for name in filter(None, later):
            raise ValueError(
                f"{self.name!r} acts before {name!r}, which is merged: unmerge that one first."
            )
        if self.base_values and self.record.routing is not None:
            raise ValueError(
                f"{self.name!r} trains the base's own weights, which act on every row: leave "
                "route() first."
            )

    # Each of the following makes the model what the flags say, and may be repeated.

    def _unmerge(self) -> None:
        self.merged = False
        for door in self.doors():
            door.unmerge(self.name)
        self.record.settle()
        update(self.model)

    def _switch(self, on: bool) -> None:
        self.enabled = on
        for door in self.doors():
            (door.off.discard if on else door.off.add)(self.name)
        for parameter, first in self.base_values.items():
            if on and parameter in self.trained:
                self.record.put(parameter, self.trained[parameter])
                del self.trained[parameter]
            elif not on:
                if parameter not in self.trained:
                    self.trained[parameter] = self.value_of(parameter).clone()
                self.record.put(parameter, first)
        update(self.model)
