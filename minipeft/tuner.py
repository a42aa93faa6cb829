"""attach, detach and what lies between: the life of one named method on one model.

    tuner = attach(model, LoRA(rank=8), name="sentiment")     # base frozen, patches in their doors
    tuner.report()                                            # what went where, how much of it
    tuner.disable(); tuner.enable(); tuner.merge(); tuner.unmerge()
    tuner.detach()                                            # the very same base, bit for bit

Several tuners may live on one model under different names; `route` chooses among them row by row.
All that a model remembers about its tuners is one plain object, `model.minipeft`.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from minipeft import state
from minipeft.attached import Attached, active, tuners, turn
from minipeft.doors.hub_attention import OpenedAttention, models_around
from minipeft.doors.marks import Mark
from minipeft.doors.memory import MemoryDoor, PositionDoor
from minipeft.doors.positions import (
    columns_as_positions,
    count_positions,
    keep_positions,
    whole_rows,
)
from minipeft.doors.rounding import lost_share, tell
from minipeft.doors.weights import (
    CopyDoor,
    Door,
    Frozen,
    Parts,
    Routed,
    WeightDoor,
    bottom,
    check_plain,
    doors,
    dtype_of,
    features,
    is_linear,
    walk,
)
from minipeft.doors.words import WordDoor, is_left_padded, mask_of, together
from minipeft.in_training import WITH_TUNERS, changed, check_alone, digest, update
from minipeft.methods.method import Method
from minipeft.methods.parts.own_steps import WATCHED, OwnSteps, watch
from minipeft.model.anatomy import Anatomy, Place, Seat, keys_at, name_of
from minipeft.model.families import Family
from minipeft.reach import Reach, takes
from minipeft.report import Report
from minipeft.routing import check_rows, is_known, one_set_at_a_time


def look_at_rows(model: nn.Module, module: nn.Module, given: dict) -> None:
    """Before `module`, the model or one inside it, is called so: see `minipeft.routing`."""
    attached = model.minipeft
    if attached.rows is not None:
        check_rows(model, module, attached.rows, given, attached.checked)


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy that the model's tuners go by, a fresh one where there are none."""
    return next((tuner.anatomy for tuner in tuners(model).values()), None) or Anatomy(model)


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
    if not isinstance(method, Method):
        raise TypeError(f"attach() needs a method such as minipeft.LoRA(rank=8), not {method!r}.")
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"A tuner's name is made of letters, digits, _ and -, not {name!r}.")
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"The name {name!r} is one that torch modules use: choose another.")
    paths = head if isinstance(head, list | tuple) else ()
    named = bool(paths) and all(isinstance(path, str) for path in paths)
    if not named and head not in (True, False, "auto"):
        raise ValueError(
            f'head must be "auto", True, False or paths of modules, such as ("out",), not {head!r}.'
        )
    if name in tuners(model):
        raise ValueError(
            f"This model already has a tuner named {name!r}: detach it or choose another name."
        )
    check_alone(model)
    tuner = Tuner(model, method, name, family)
    tuner.finished = {other.name for other in tuners(model).values() if changed(other)}
    first = not tuners(model)
    tuner.record = Attached(model) if first else model.minipeft
    try:
        model.minipeft = tuner.record
        model.minipeft.tuners[name] = tuner
        if first:
            tuner.record.freeze()
            tuner.record.reach = Reach(
                model, tuner.record.turn, wrap_now, later, prepare, look_at_rows
            )
            tuner.record.hooks.extend(tuner.record.reach.register())
            tuner.record.hooks.extend(state.register(model))
        with seeded(seed):
            method.install(tuner)
            for path in paths or (heads_to_train(tuner) if head else ()):
                tuner.copy(path)
        tuner.first_digest = digest(tuner)
        update(model)
        WITH_TUNERS.add(model)
        if method.counts_steps(tuner):
            watch(tuner)
    except BaseException:
        finish(tuner._take_away)
        raise
    return tuner


def heads_to_train(tuner: Tuner) -> list[str]:
    """The task heads; what is one's own is left out if it, and not all, was frozen before."""
    anatomy, flags = tuner.anatomy, dict(tuner.model.minipeft.requires_grad)
    free = {p for p, flag in flags.items() if flag} or set(flags)
    beside = [name for name, p in anatomy.own_parameters().items() if p in free]
    if beside:
        warnings.warn(
            f"{beside[0]!r} of {type(tuner.model).__name__} stays frozen, because attach trains "
            "copies of layers and this stands in none: put it into a module of its own.",
            UserWarning,
            stacklevel=4,
        )
    own = set(anatomy.own_modules())
    parameters = {path: anatomy.modules[path].parameters() for path in anatomy.heads()}
    return [h for h, inside in parameters.items() if h not in own or free.intersection(inside)]


class Tuner:
    """One method on one model under one name. Made by `attach` and by `load`."""

    def __init__(self, model: nn.Module, method: Method, name: str, family: Family | None = None):
        self.model = model
        self.record: Attached  # what the model remembers of all of its tuners
        self.method = method
        self.name = name
        self.anatomy = Anatomy(model, family)
        self.places: list[tuple[Place, nn.Module]] = []  # where each patch sits
        self.copies: dict[str, nn.Module] = {}  # path of a layer -> its trained copy
        self.lent: dict[nn.Parameter, Tensor] = {}  # base parameter in training -> its first value
        self.lent_names: dict[nn.Parameter, str] = {}  # their names in the model
        self.trained: dict[nn.Parameter, Tensor] = {}  # -> its trained value, while disabled
        self.words: range | None = None  # the ids of this tuner's own words
        self.own_steps = OwnSteps(method.total_steps)  # in a loop that is not `train`
        self.marks: dict[str, Mark] = {}  # path of a place -> was it read? See minipeft.reach
        self.word_mark: Mark | None = None
        self.word_paths: list[str] = []  # of the embeddings that know the words
        self.enabled = True
        self.merged = False
        self.detached = False
        self.rounding: float | None = (
            None  # share of the change that a merge lost, in half precision
        )
        self.first_digest = 0  # of the values that it came with
        self.finished: set[str] = set()  # tuners that had been trained when this one came
        self.asleep: list[nn.Parameter] | None = None  # what requires a gradient when awake

    # ---- what a method calls while it installs itself ----

    def find(self, targets: Iterable[str], layers: Iterable[int] | None = None) -> list[Place]:
        """The linear maps that the targets name; see `Anatomy.find`."""
        return self.anatomy.find(targets, layers)

    def choose(self, places: Sequence[Place], table: Mapping[str, object], default) -> list:
        """For each place the table's value for its target or its module, else the default."""
        used, values = set(), []
        for place in places:
            keys = keys_at(place, table)
            used.update(keys)
            values.append(table[keys[0]] if keys else default)
        unused = [key for key in table if key not in used]
        if unused:
            targets = ", ".join(dict.fromkeys(repr(place.target) for place in places))
            raise ValueError(f"{unused[0]!r} is none of the targets ({targets}): check its name.")
        return values

    def add(self, place: Place, patch: nn.Module) -> None:
        """Put a patch into the weights door of a place; the door is made when it is not there."""
        weight = place.module.weight
        # a half-precision base gets fp32 patches: small steps would be lost in 8 bits of mantissa
        patch.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        door = self.record.door(place.module, WeightDoor, self.name)
        if hasattr(patch, "meet"):
            patch.meet(Frozen(door, place.columns, self.name))
        if place.columns is None:
            door.add(self.name, patch)
        else:
            if self.name not in door.patches:
                door.add(self.name, Parts(features(place.module)[1]))
            parts = door.patches[self.name]
            parts.add(place.target, patch.train(door.training), place.columns, weight.device)
        self.places.append((place, patch))
        self.marks[place.path] = door.marks[self.name]
        self.record.settle()

    def attentions(self, layers: Iterable[int] | None = None) -> list[Seat]:
        """The attention layers, self and cross, that can be given a memory."""
        return self.anatomy.attentions(layers)

    def remember(self, seat: Seat, patch: nn.Module) -> None:
        """Give an attention layer a memory: patch(x) -> keys and values, each (B or 1, H, P, D)."""
        around = models_around(seat.path, self.anatomy.modules)
        if around:
            self.record.attention = self.record.attention or OpenedAttention(self.model)
            self.record.attention.open(around)
        self._sit(seat, patch, MemoryDoor)

    def speak(self, patch: nn.Module, count: int, alias_of: int | None = None) -> range:
        """Teach the model new words: patch() -> their vectors (count, C). Returns their ids.

        alias_of: one id more, the last, which stands for this word of the base.
        """
        count += alias_of is not None
        first, *others = self.anatomy.embeddings()
        self.words = self.record.door(first.module, WordDoor, self.name).reserve(self.name, count)
        self._sit(first, patch, WordDoor)
        for seat in others:
            door = self._put(seat.module, patch, WordDoor)
            door.spans[self.name] = self.words
            door.marks[self.name] = self.marks[first.path]
        if alias_of is not None:
            for seat in (first, *others):
                door = self.record.door(seat.module, WordDoor, self.name)
                door.aliases[self.words[-1]] = alias_of
        self.word_mark = self.marks[first.path]
        self.word_paths = [seat.path for seat in (first, *others)]
        return self.words

    def shift_positions(self, shift: int, within: str = "") -> None:
        """Count positions as if `shift` tokens stood before the text; within: in this part only."""
        for path, module in self.anatomy.position_layers():
            if within and not path.startswith(f"{within}."):
                continue
            patch = nn.Module()
            patch.shift = shift
            self._put(module, patch, PositionDoor)

    def _sit(self, seat: Seat, patch: nn.Module, kind: type[Door]) -> None:
        like = next(self.model.parameters())
        patch.to(like.device, torch.promote_types(like.dtype, torch.float32))
        door = self._put(seat.module, patch, kind)
        door.path = seat.path
        self.places.append((seat, patch))
        self.marks[seat.path] = door.marks[self.name]

    def _put(self, module: nn.Module, patch: nn.Module, kind: type[Door]) -> Door:
        """A patch into the door of a module."""
        door = self.record.door(module, kind, self.name)
        door.add(self.name, patch)
        self.record.settle()
        return door

    def surround(self, path: str, around: Callable[[nn.Module | None], nn.Module]) -> None:
        """Put `around(patch)` where this tuner's patch at a path is (None: where there is none)."""
        door = self.record.door(self.anatomy.modules[path], WeightDoor, self.name)
        copies = [d for d in self.record.doors_of(bottom(door)) if isinstance(d, CopyDoor)]
        patch = door.patches[self.name] if self.name in door.patches else None
        patch = around(patch).train(door.training)
        if copies and getattr(patch, "stand_in", None) is not None:
            raise ValueError(
                f"{next(iter(copies[0].patches))!r} trains a copy of {path}, which would not be "
                "asked any more: detach it first."
            )
        door.patches[self.name] = patch
        door.marks.setdefault(self.name, Mark())
        self.record.settle()

    def copy(self, path: str) -> None:
        """Train a copy of a small module, a head or a norm; what is trained already is left alone.

        Its layers are copied one by one and the module around them stays, since models look at
        the class of their head.
        """
        if path not in self.anatomy.modules:
            raise ValueError(f"This model has no module {path!r}{self.anatomy.near(path)}")
        if not any(True for _ in self.anatomy.modules[path].parameters()):
            raise ValueError(f"{path} has no parameters, so there is nothing in it to train.")
        whole = ()  # names of modules that are copied with all that is in them
        for inner, module in walk(self.anatomy.modules[path], path):
            own = [p for p in module._parameters.values() if p is not None]
            if not own or inner in self.copies or inner.startswith(whole):
                continue
            if any(p in self.lent for p in own):
                continue
            check_plain(inner, module)
            self._check_copy(inner, module)
            twin = copy.deepcopy(module)
            twin.to(torch.promote_types(dtype_of(module), torch.float32))  # as patches, see `add`
            for parameter in twin.parameters():
                parameter.grad = None
                parameter.requires_grad_(True)
            self._put(module, twin, CopyDoor)
            self.copies[inner] = twin
            whole += (f"{inner}.",)

    def _check_copy(self, path: str, module: nn.Module) -> None:
        """May a copy of this module be trained?"""
        at_it = self.record.doors_of(module)
        merged = [door for door in at_it if isinstance(door, WeightDoor) and door.merged]
        if merged:
            raise ValueError(
                f"{merged[0].merged[-1]!r} is merged into {path}, of which a copy is to be "
                "trained: unmerge it first."
            )
        if any(door.is_stood_in() for door in at_it) or doors(module):
            raise ValueError(
                f"Another tuner answers in place of {path} or of a part of it, so that a copy of "
                "it would not be asked: detach that one first."
            )

    def unfreeze(self, parameters: Iterable[nn.Parameter]) -> None:
        """Train base parameters in place; `detach` writes their first values back."""
        chosen, names = dict.fromkeys(parameters), self.anatomy.parameter_names()
        if self.record.rows is not None:
            raise ValueError(
                "The base's own weights act on every row: leave route() before a method that "
                "trains them is attached."
            )
        for path, module in self.anatomy.modules.items():
            if any(p in chosen for p in module._parameters.values() if p is not None):
                check_plain(path, module)
        unused = {bottom(door).weight for door in self.record.doors if door.is_stood_in()}
        for parameter in chosen:
            if parameter in unused:
                raise ValueError(
                    "A tuner here computes with a quantized copy of these weights, so training "
                    "them would change nothing: detach it first."
                )
            if any(parameter in other.lent for other in tuners(self.model).values()):
                raise ValueError("Two tuners cannot train the same base parameters: detach one.")
            merged = self.record.merged_into(parameter)
            if merged:
                raise ValueError(
                    f"{merged!r} is merged into {names[parameter]}, which is to be trained in "
                    "place: unmerge it first."
                )
        for parameter in chosen:
            self.lent_names[parameter] = names[parameter]
            self.lent[parameter] = parameter.detach().clone()
            parameter.requires_grad_(True)

    # ---- what a user calls ----

    def parameters(self) -> list[nn.Parameter]:
        """Everything this tuner trains, the head last."""
        modules = [patch for _, patch in self.places] + list(self.copies.values())
        every = [*self.lent, *(p for module in modules for p in module.parameters())]
        return list(dict.fromkeys(every))  # patches may share a module, such as an encoder

    @property
    def resting(self) -> bool:
        """Is it left alone by training? See minipeft.in_training."""
        return self.asleep is not None

    def rest(self, resting: bool) -> None:
        """Take the parameters out of training, or let those train again that did before."""
        if resting and self.asleep is None:
            self.asleep = [p for p in self.parameters() if p.requires_grad]
        if resting:
            for parameter in self.asleep:
                parameter.requires_grad_(False)
                parameter.grad = None  # an optimizer would act on what a loop left here
        elif self.asleep is not None:
            for parameter in self.asleep:
                parameter.requires_grad_(True)
            self.asleep = None

    def value_of(self, parameter: nn.Parameter) -> Tensor:
        """Of a base parameter that this tuner trains, also while the model has another one."""
        beneath = self.record.originals.value(parameter)  # what is merged into it
        return self.trained.get(parameter, beneath)

    def named_tensors(self) -> dict[str, Tensor]:
        """What `save` stores, by name: <module>.<target>.<tensor> of patches, <module>.<tensor>.

        What several patches share, such as an encoder, is named once, by the first of them.
        """
        tensors, known = {}, set()
        for place, patch in self.places:
            for key, tensor in patch.state_dict(keep_vars=True).items():
                if id(tensor) not in known:
                    tensors[f"{name_of(place)}.{key}"] = tensor.detach()
                known.add(id(tensor))
        for parameter, name in self.lent_names.items():
            tensors[name] = self.value_of(parameter)
        for path, twin in self.copies.items():
            tensors |= {f"{path}.{key}": tensor for key, tensor in twin.state_dict().items()}
        return tensors

    def wrap(self, batch: dict) -> dict:
        """The batch as the model must see it with this tuner. `train` and `generate` call it."""
        if not self.enabled or "input_ids" not in batch or self.words_in(batch["input_ids"]):
            return batch
        wrap = partial(self.method.wrap, self)
        if self.words is None:
            return wrap(batch)
        if self.as_in_peft:
            return columns_as_positions(batch, wrap, spell=self.anatomy.takes_positions())
        return keep_positions(batch, wrap, self.anatomy.positions())

    @property
    def as_in_peft(self) -> bool:
        """Does a method of this tuner, or a part of it, do what 🤗 PEFT does (`layout="peft"`)?"""
        parts = getattr(self.method, "methods", (self.method,))
        return any(getattr(part, "layout", None) == "peft" for part in parts)

    @property
    def counts(self) -> bool:
        """Do the rows it acts on count their own tokens? See `minipeft.doors.positions`."""
        return not self.as_in_peft and any(isinstance(place, Seat) for place, _ in self.places)

    def words_in(self, ids: Tensor) -> bool:
        """Are this tuner's words in these ids already?"""
        if self.words is None:
            return False
        return bool(((ids >= self.words.start) & (ids < self.words.stop)).any())

    def disable(self) -> Tuner:
        """The base answers as if this tuner were not there."""
        self._alive()
        if self.merged:
            raise ValueError(f"{self.name!r} is merged into the base: call unmerge() first.")
        with self.record.turn:
            finish(lambda: self._switch(False))
        return self

    def enable(self) -> Tuner:
        """Undo `disable`."""
        self._alive()
        if not self.enabled:
            self._in_turn()
            with self.record.turn:
                try:
                    self._switch(True)
                except BaseException:
                    self._switch(False)
                    raise
        return self

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """`with tuner.disabled(): ...` and back to what it was."""
        with self.record.turn:
            before = self.enabled
            self.disable()
            try:
                yield
            finally:
                self.enable() if before else self.disable()

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
        self._check_merge()
        with self.record.turn:
            try:
                self.merged = True
                self.rounding = lost_share(self._doors(), self.name)
                for door in self._doors():
                    door.merge(self.name)
                self.record.settle()
                update(self.model)
            except BaseException:
                self._unmerge()
                raise
        tell(self)
        return self

    def _check_merge(self) -> None:
        """ValueError where this tuner cannot be merged as things are."""
        if not self.enabled:
            raise ValueError(f"{self.name!r} is disabled: call enable() before merge().")
        if hasattr(self.model, "unshard"):  # FSDP
            raise ValueError(
                f"{self.name!r} cannot be merged into a sharded base: save it, and merge it where "
                "the base is whole."
            )
        if self.record.rows is not None:
            raise ValueError(
                f"{self.name!r} would act on every row once it is merged: leave route() first."
            )
        uses = self.anatomy.uses()
        for place, patch in self.places:
            if isinstance(place, Seat):
                kind = type(self.method).__name__
                raise ValueError(
                    f"{self.name!r} cannot be merged: {kind} adds {place.target.split()[-1]}, and "
                    "there is no weight that it could be added to."
                )
            shared = uses[place.module.weight] if getattr(patch, "changes_weight", True) else []
            bias = place.module._parameters.get("bias")
            if bias is not None:  # a module that holds the bias for another one does not read it
                reads = [use for use in uses[bias] if self._reads_bias(use)]
                shared = shared if len(shared) > 1 else reads
            if len(shared) > 1:
                raise ValueError(
                    f"The weight of {place.path} is shared with "
                    f"{[use for use in shared if use != place.path][0]}, which a merge would "
                    "change too: untie them first, or do not merge."
                )
            for other in tuners(self.model).values():
                trains = other.enabled and not other.merged and other is not self
                if trains and any(p in other.lent for p in place.module._parameters.values()):
                    raise ValueError(
                        f"{self.name!r} cannot be merged into {place.path}, which {other.name!r} "
                        f"trains in place: merge, disable or detach {other.name!r} first."
                    )
        for door in self._doors():
            for other in self.record.doors_of(bottom(door)):
                if other is not door:
                    name = next(iter(other.patches))
                    raise ValueError(
                        f"{self.name!r} cannot be merged: {name!r} has a place at the same layer, "
                        "one copies it and the other patches it; detach that one first."
                    )
        for door in self._doors():
            door.check_merge(self.name)

    def _reads_bias(self, path: str) -> bool:
        module = self.anatomy.modules[path]
        return is_linear(module) or isinstance(module, nn.LayerNorm)

    def unmerge(self) -> Tuner:
        """Undo `merge`, bit for bit."""
        self._alive()
        if self.merged:
            self._in_turn()
            with self.record.turn:
                finish(self._unmerge)
        return self

    def detach(self) -> nn.Module:
        """Take everything away: the model is the very same base, its weights equal bit for bit.

        With the last tuner, requires_grad flags, train / eval modes and buffers go back to what
        they were before the first one came.
        """
        self._alive()
        if any(self.name in names for names in self.record.rows or ()):
            raise ValueError(f"route() sends rows to {self.name!r}: leave it before detach().")
        with self.record.turn:
            finish(self._take_away)
        return self.model

    def _take_away(self) -> None:
        """Undo what `attach` did; may be repeated."""
        record = self.record
        if self.detached:
            return
        self._unmerge()
        self.rest(False)
        for parameter, first in self.lent.items():
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

    def _doors(self) -> list[Door]:
        return [door for door in self.record.doors if self.name in door.patches]

    def _in_turn(self) -> None:
        """Refuse to act again where something that is merged now would not follow from it."""
        later = [door.blocked(self.name) for door in self._doors()]
        values = self.record.originals.values
        later += [self.record.merged_into(p) for p in self.lent if p in values]
        for name in filter(None, later):
            raise ValueError(
                f"{self.name!r} acts before {name!r}, which is merged: unmerge that one first."
            )
        if self.lent and self.record.rows is not None:
            raise ValueError(
                f"{self.name!r} trains the base's own weights, which act on every row: leave "
                "route() first."
            )

    # Each of the following makes the model what the flags say, and may be repeated.

    def _unmerge(self) -> None:
        self.merged = False
        for door in self._doors():
            door.unmerge(self.name)
        self.record.settle()
        update(self.model)

    def _switch(self, on: bool) -> None:
        self.enabled = on
        for door in self._doors():
            (door.off.discard if on else door.off.add)(self.name)
        for parameter, first in self.lent.items():
            if on and parameter in self.trained:
                self.record.put(parameter, self.trained[parameter])
                del self.trained[parameter]
            elif not on:
                if parameter not in self.trained:
                    self.trained[parameter] = self.value_of(parameter).clone()
                self.record.put(parameter, first)
        update(self.model)


def finish(change: Callable[[], None]) -> None:
    """Run a change that may be repeated; an interrupted one is finished before the exception."""
    try:
        change()
    except BaseException:
        change()
        raise


@contextmanager
def route(model: nn.Module, names: Sequence[str | Sequence[str] | None]) -> Iterator[None]:
    """One forward pass, a tuner per row: `with route(model, ["a", None, "b"]): model(**batch)`.

    names: for every row of the batch the tuner's name, None for the plain base, or several names.
    A model in which the rows cannot be followed stops with a ValueError (see `minipeft.routing`).
    With gradient checkpointing call backward inside the `with` as well, because the layers are
    then run again. One thread at a time is inside: another one's pass waits for its turn.
    """
    with turn(model):
        yield from _route(model, names)


def _route(model: nn.Module, names: Sequence[str | Sequence[str] | None]) -> Iterator[None]:
    known = tuners(model)
    anatomy = anatomy_of(model)
    each = ((row,) if isinstance(row, str) else tuple(row or ()) for row in names)
    rows = Routed(each, known=is_known(model, anatomy))
    if not rows:
        raise ValueError("route() needs one name per row of the batch.")
    for name in dict.fromkeys(name for row in rows for name in row):
        if name not in known:
            raise ValueError(f"There is no tuner named {name!r} on this model, only {list(known)}.")
        if not known[name].enabled:
            raise ValueError(f"The tuner {name!r} is disabled: call enable() before routing to it.")
    for tuner in known.values():
        if tuner.merged or (tuner.lent and tuner.enabled):
            what = "merged into" if tuner.merged else "training"
            raise ValueError(
                f"{tuner.name!r} is {what} the base's own weights, which act on every row: "
                f"{'unmerge' if tuner.merged else 'disable'} it before routing."
            )
    record = vars(model).get("minipeft")  # nothing to tell where there are no tuners
    before = record and record.rows

    def tell(names: Iterable[str], mask: Tensor | None) -> None:
        for name in names if mask is not None else ():
            model.minipeft.rows = None
            known[name].method.look(known[name], {"attention_mask": mask})
            model.minipeft.rows = rows

    with ExitStack() as stack:
        try:
            if record:
                record.route(rows)
            for module in [] if rows.uniform else anatomy.rowless():
                stack.enter_context(one_set_at_a_time(module, rows, tell))
            yield
        finally:
            if record:
                record.route(before)


def wrap(model: nn.Module, batch: dict, left: bool | None = None) -> dict:
    """The batch as the model must see it: prompts in, those of each row's own tuners under `route`.

    A module of one's own that takes no attention_mask gets them inside, when it is called.
    left: on which side shorter rows are padded; None keeps the side that the batch has.

    Raises:
        ValueError: a row has become longer than the model's positions, or route() named another
            number of rows.
    """
    if tuners(model) and not takes(model, "attention_mask"):
        return batch
    return wrap_now(model, batch, left)


def wrap_now(model: nn.Module, batch: dict, left: bool | None = None) -> dict:
    """`wrap`, for a batch that is about to go into the model or into one inside it."""
    known = tuners(model)
    if not known or batch.get("input_ids") is None:
        return batch
    anatomy = next(iter(known.values())).anatomy
    rows, given, own = model.minipeft.rows, batch.get("position_ids") is not None, None
    if rows is None or not any(t.words for t in known.values()):
        for tuner in known.values():
            batch = tuner.wrap(batch)
    elif not any(tuner.words_in(batch["input_ids"]) for tuner in known.values()):
        B, T = batch["input_ids"].shape
        if B != len(rows):
            raise ValueError(f"route() names {len(rows)} rows, but the batch has {B}.")
        groups: dict[tuple[str, ...], list[int]] = {}
        for number, names in enumerate(rows):
            groups.setdefault(names, []).append(number)
        parts = []
        batch = whole_rows({**batch, "attention_mask": mask_of(batch)})
        if not given and anatomy.takes_positions():  # so that rows without new words keep theirs
            batch["position_ids"] = torch.arange(T, device=batch["input_ids"].device).expand(B, T)
        for names, numbers in groups.items():
            part = {k: v[numbers] if isinstance(v, Tensor) else v for k, v in batch.items()}
            for name in names:
                part = known[name].wrap(part)
            parts.append(part)
        left = is_left_padded(batch) if left is None else left
        aligned = not anatomy.is_encoder_decoder()
        batch = together(parts, list(groups.values()), left, anatomy.padding(), aligned)
        own = None if given else batch.pop("position_ids", None)
    if not given:
        batch = with_positions(model, batch, own)
    limit, T = anatomy.limit, batch["input_ids"].shape[1]
    if limit is not None and T > limit:
        raise ValueError(
            f"The input has {T} tokens, prompts included, but the model knows {limit} positions: "
            "shorten the input or the prompt."
        )
    for tuner in known.values():
        if tuner.enabled:
            tuner.method.look(tuner, batch)
    return batch


def prepare(model: nn.Module) -> None:
    """Before every pass: attention reads memories, whatever was set since the last one; methods
    that count steps do so, in a copy of a model as well.
    """
    for tuner in model.minipeft.tuners.values():
        if tuner not in WATCHED and tuner.method.counts_steps(tuner):
            watch(tuner)
    if model.minipeft.attention:
        model.minipeft.attention.open_again()


def with_positions(model: nn.Module, batch: dict, own: Tensor | None = None, past: int = 0) -> dict:
    """The batch with position_ids, where some rows count their own tokens (see doors.positions).

    own: (B, T), the positions of the other rows; None for the base's, which counts on from `past`.
    """
    known, rows = tuners(model), model.minipeft.rows
    acting = [active(model)] if rows is None else [[known[n] for n in names] for names in rows]
    counting = [any(t.counts for t in row) and not any(t.as_in_peft for t in row) for row in acting]
    anatomy = next(iter(known.values())).anatomy
    if not any(counting) or not is_left_padded(batch) or not anatomy.takes_positions():
        return batch
    mask = batch["attention_mask"]
    given = batch.get("input_ids")
    B, T = (batch["inputs_embeds"] if given is None else given).shape[:2]
    if own is None:
        own = past + torch.arange(T, device=mask.device).expand(B, T)
    counting = torch.tensor(counting, device=mask.device).repeat_interleave(B // len(acting))
    return {**batch, "position_ids": count_positions(mask, counting, own)}


def positions_to_write_on(model: nn.Module, batch: dict) -> Tensor | None:
    """position_ids (B, T) for `generate`; None where every row counts its own tokens, as there."""
    known, rows, mask = tuners(model), model.minipeft.rows, batch.get("attention_mask")
    acting = [active(model)] if rows is None else [[known[n] for n in names] for names in rows]
    in_peft = [any(t.words and t.as_in_peft for t in row) for row in acting]
    if mask is None or not any(in_peft) or not anatomy_of(model).takes_positions():
        return None
    B, T = mask.shape  # padding stands between a prompt of PEFT's and the text
    counting = ~torch.tensor(in_peft, device=mask.device).repeat_interleave(B // len(acting))
    return count_positions(mask, counting, torch.arange(T, device=mask.device).expand(B, T))


def later(model: nn.Module, batch: dict, past: int = 0) -> dict:
    """The batch of a later step, whose prompt is in the cache, or one of vectors instead of ids.

    past: how many tokens the cache has.

    Raises:
        ValueError: the mask is of the text alone, but new words stand in the cache.
    """
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    plain = isinstance(mask, Tensor) and mask.dim() == 2  # generate may make one for each layer
    if not plain or anatomy_of(model).is_encoder_decoder():
        return batch
    T = (batch["inputs_embeds"] if ids is None else ids).shape[1]
    if any(tuner.words for tuner in active(model)) and past and mask.shape[1] < past + T:
        raise ValueError(
            f"The mask is of {mask.shape[1]} tokens, but the cache and the new ones are "
            f"{past + T}, a tuner's words included: go on with the mask of tuner.wrap(batch)."
        )
    if batch.get("position_ids") is not None or mask.shape[1] != past + T:
        return batch
    return with_positions(model, batch, past=past)


def seeded(seed: int | None):
    """A block of code with its own random numbers; torch's generator is as before afterwards."""
    if seed is None:
        return nullcontext()

    @contextmanager
    def block() -> Iterator[None]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield

    return block()
