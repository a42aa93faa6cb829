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
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from minipeft import state
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

WAIT = 60  # seconds that a thread waits for its turn


class Turn:
    """One thread at a time is inside a model with tuners; another one waits until it has left.

    What the doors know while they work, the routed rows or a memory, belongs to one pass. A thread
    that has its turn may take it again, and a copy of the model has a turn of its own.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __reduce__(self):
        return Turn, ()

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=WAIT):
            raise ValueError(
                f"Another thread has been inside this model's route() for {WAIT} seconds: leave it "
                "there first, or call the model in that thread."
            )

    def __exit__(self, *_) -> None:
        self.lock.release()

    def held(self) -> bool:
        """Is it this thread's turn?"""
        return self.lock._is_owned()


def turn(model: nn.Module):
    """The turn of a model; nothing to wait for where there are no tuners."""
    return model.minipeft.turn if "minipeft" in vars(model) else nullcontext()


class Attached:
    """What a model remembers while tuners are attached: who they are, and how the base was."""

    def __init__(self, model: nn.Module) -> None:
        self.tuners: dict[str, Tuner] = {}
        self.requires_grad = [(p, p.requires_grad) for p in model.parameters()]
        self.buffers = [(b, b.clone()) for b in model.buffers()]  # batch norm counts what it sees
        self.training = [(m, m.training) for m in model.modules()]
        self.parked: list[Door] = []  # out of the tree, because all of their patches are merged
        self.rows: Routed | None = None  # see `route`
        self.checked: set = set()  # inputs whose rows have been followed, see minipeft.routing
        self.attention: OpenedAttention | None = None  # of transformers models, for memories
        self.turn = Turn()
        self.reach = Reach(model, self.turn, wrap_now, later, prepare, look_at_rows)
        self.hooks = [*self.reach.hooks, *state.register(model)]
        for parameter, _ in self.requires_grad:
            parameter.requires_grad_(False)

    def restore(self) -> None:
        for hook in self.hooks:
            hook.remove()
        for parameter, flag in self.requires_grad:
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)
        for module, mode in self.training:
            module.training = mode


def look_at_rows(model: nn.Module, module: nn.Module, given: dict) -> None:
    """Before `module`, the model or one inside it, is called so: see `minipeft.routing`."""
    attached = model.minipeft
    if attached.rows is not None:
        check_rows(model, module, attached.rows, given, attached.checked)


def tuners(model: nn.Module) -> dict[str, Tuner]:
    """The tuners attached to a model, by name, in the order of attachment."""
    return dict(model.minipeft.tuners) if "minipeft" in vars(model) else {}


def active(model: nn.Module) -> list[Tuner]:
    """The tuners that act now, in order: neither disabled nor merged."""
    return [tuner for tuner in tuners(model).values() if tuner.enabled and not tuner.merged]


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy that the model's tuners go by, a fresh one where there are none."""
    return next((tuner.anatomy for tuner in tuners(model).values()), None) or Anatomy(model)


def attach(
    model: nn.Module,
    method: Method,
    name: str = "default",
    head: bool | str = "auto",
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
            because a fresh task starts with a random one; False leaves the head frozen.
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
    if head not in (True, False, "auto"):
        raise ValueError(f'head must be "auto", True or False, not {head!r}.')
    if name in tuners(model):
        raise ValueError(
            f"This model already has a tuner named {name!r}: detach it or choose another name."
        )
    check_alone(model)
    tuner = Tuner(model, method, name, family)
    tuner.finished = {other.name for other in tuners(model).values() if changed(other)}
    if not tuners(model):
        model.minipeft = Attached(model)
    model.minipeft.tuners[name] = tuner
    try:
        with seeded(seed):
            method.install(tuner)
            for path in tuner.anatomy.heads() if head else ():
                tuner.copy(path)
    except BaseException:
        tuner.detach()
        raise
    tuner.first_digest = digest(tuner)
    update(model)
    WITH_TUNERS.add(model)
    if method.counts_steps(tuner):
        watch(tuner)
    return tuner


class Tuner:
    """One method on one model under one name. Made by `attach` and by `load`."""

    def __init__(self, model: nn.Module, method: Method, name: str, family: Family | None = None):
        self.model = model
        self.method = method
        self.name = name
        self.anatomy = Anatomy(model, family)
        self.places: list[tuple[Place, nn.Module]] = []  # where each patch sits
        self.copies: dict[str, nn.Module] = {}  # path of a layer -> its trained copy
        self.lent: dict[nn.Parameter, Tensor] = {}  # base parameter in training -> its other value
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
        door = self._door(place.module, WeightDoor)
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

    def attentions(self, layers: Iterable[int] | None = None) -> list[Seat]:
        """The attention layers, self and cross, that can be given a memory."""
        return self.anatomy.attentions(layers)

    def remember(self, seat: Seat, patch: nn.Module) -> None:
        """Give an attention layer a memory: patch(x) -> keys and values, each (B or 1, H, P, D)."""
        attached, around = self.model.minipeft, models_around(seat.path, self.anatomy.modules)
        if around:
            attached.attention = attached.attention or OpenedAttention(self.model)
            attached.attention.open(around)
        self._sit(seat, patch, MemoryDoor)

    def speak(self, patch: nn.Module, count: int, alias_of: int | None = None) -> range:
        """Teach the model new words: patch() -> their vectors (count, C). Returns their ids.

        alias_of: one id more, the last, which stands for this word of the base.
        """
        count += alias_of is not None
        first, *others = self.anatomy.embeddings()
        self.words = self._door(first.module, WordDoor).reserve(self.name, count)
        self._sit(first, patch, WordDoor)
        for seat in others:
            door = self._door(seat.module, WordDoor)
            door.spans[self.name] = self.words
            door.add(self.name, patch)
            door.marks[self.name] = self.marks[first.path]
        if alias_of is not None:
            for seat in (first, *others):
                self._door(seat.module, WordDoor).aliases[self.words[-1]] = alias_of
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
            self._door(module, PositionDoor).add(self.name, patch)

    def _sit(self, seat: Seat, patch: nn.Module, kind: type[Door]) -> None:
        like = next(self.model.parameters())
        patch.to(like.device, torch.promote_types(like.dtype, torch.float32))
        door = self._door(seat.module, kind)
        door.add(self.name, patch)
        door.path = seat.path
        self.places.append((seat, patch))
        self.marks[seat.path] = door.marks[self.name]

    def surround(self, path: str, around: Callable[[nn.Module | None], nn.Module]) -> None:
        """Put `around(patch)` where this tuner's patch at a path is (None: where there is none)."""
        door = self._door(self.anatomy.modules[path], WeightDoor)
        patch = door.patches[self.name] if self.name in door.patches else None
        door.patches[self.name] = around(patch).train(door.training)
        door.marks.setdefault(self.name, Mark())

    def copy(self, path: str) -> None:
        """Train a copy of a small module, a head or a norm; what is trained already is left alone.

        Its layers are copied one by one and the module around them stays, since models look at
        the class of their head.
        """
        if path not in self.anatomy.modules:
            raise ValueError(f"This model has no module {path!r}{self.anatomy.near(path)}")
        if not any(True for _ in self.anatomy.modules[path].parameters()):
            raise ValueError(f"{path} has no parameters, so there is nothing in it to train.")
        for inner, module in walk(self.anatomy.modules[path], path):
            own = [p for p in module._parameters.values() if p is not None]
            if not own or inner in self.copies or any(p in self.lent for p in own):
                continue
            check_plain(inner, module)
            twin = copy.deepcopy(module)
            twin.to(torch.promote_types(dtype_of(module), torch.float32))  # as patches, see `add`
            for parameter in twin.parameters():
                parameter.grad = None
                parameter.requires_grad_(True)
            self._door(module, CopyDoor).add(self.name, twin)
            self.copies[inner] = twin

    def unfreeze(self, parameters: Iterable[nn.Parameter]) -> None:
        """Train base parameters in place; `detach` writes their first values back."""
        unused = {door.base.weight for door in doors(self.model) if door.is_stood_in()}
        chosen = dict.fromkeys(parameters)
        for path, module in self.anatomy.modules.items():
            if any(p in chosen for p in module._parameters.values() if p is not None):
                check_plain(path, module)
        for parameter in chosen:
            if parameter in unused:
                raise ValueError(
                    "A tuner here computes with a quantized copy of these weights, so training "
                    "them would change nothing: detach it first."
                )
            if any(parameter in other.lent for other in tuners(self.model).values()):
                raise ValueError("Two tuners cannot train the same base parameters: detach one.")
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
            for parameter in self.asleep:
                parameter.requires_grad_(False)
                parameter.grad = None  # an optimizer would act on what a loop left here
        elif not resting and self.asleep is not None:
            for parameter in self.asleep:
                parameter.requires_grad_(True)
            self.asleep = None

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
        names = self.anatomy.parameter_names()
        for parameter in self.lent:
            tensors[names[parameter]] = parameter.detach() if self.enabled else self.lent[parameter]
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
            return columns_as_positions(batch, wrap)
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
        if self.enabled:
            self._swap()
        self.enabled = False
        self._switch()
        update(self.model)
        return self

    def enable(self) -> Tuner:
        """Undo `disable`."""
        self._alive()
        if not self.enabled:
            self._in_turn()
            self._swap()
        self.enabled = True
        self._switch()
        update(self.model)
        return self

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """`with tuner.disabled(): ...` and back to what it was."""
        with turn(self.model):
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
        if not self.enabled:
            raise ValueError(f"{self.name!r} is disabled: call enable() before merge().")
        if hasattr(self.model, "unshard"):  # FSDP
            raise ValueError(
                f"{self.name!r} cannot be merged into a sharded base: save it, and merge it where "
                "the base is whole."
            )
        uses = self.anatomy.uses()
        for place, patch in self.places:
            if isinstance(place, Seat):
                kind = type(self.method).__name__
                raise ValueError(
                    f"{self.name!r} cannot be merged: {kind} adds {place.target.split()[-1]}, and "
                    "there is no weight that it could be added to."
                )
            if len(uses[place.module.weight]) > 1 and getattr(patch, "changes_weight", True):
                raise ValueError(
                    f"The weight of {place.path} is shared with "
                    f"{[use for use in uses[place.module.weight] if use != place.path][0]}, which "
                    "a merge would change too: untie them first, or do not merge."
                )
        every = [*doors(self.model), *self.model.minipeft.parked]
        for door in self._doors():
            for other in every:
                if other is not door and bottom(other) is bottom(door):
                    name = next(iter(other.patches))
                    raise ValueError(
                        f"{self.name!r} cannot be merged: {name!r} has a place at the same layer, "
                        "one copies it and the other patches it; detach that one first."
                    )
        self.rounding = lost_share(self._doors(), self.name)
        done = []
        try:
            for door in self._doors():
                door.merge(self.name)
                done.append(door)
        except ValueError:
            for door in done:
                door.unmerge(self.name)
            raise
        self.merged = True
        for door in done:
            self._settle(door)
        update(self.model)
        tell(self)
        return self

    def unmerge(self) -> Tuner:
        """Undo `merge`, bit for bit."""
        self._alive()
        if self.merged:
            self._in_turn()
            self._unmerge()
            update(self.model)
        return self

    def detach(self) -> nn.Module:
        """Take everything away: the model is the very same base, its weights equal bit for bit.

        With the last tuner, requires_grad flags, train / eval modes and buffers go back to what
        they were before the first one came.
        """
        self._alive()
        self._unmerge()
        self.rest(False)
        if self.enabled:
            self._swap()  # the first values of base parameters that were trained
        for parameter in self.lent:
            parameter.grad = None
            parameter.requires_grad_(False)
        empty = [door for door in doors(self.model) if not door.patches]  # of a patch that failed
        for door in [*self._doors(), *empty]:
            door.remove(self.name)
            self._settle(door)
        attached = self.model.minipeft
        del attached.tuners[self.name]
        for other in attached.tuners.values():
            other.finished.discard(self.name)
        update(self.model)
        self.detached = True
        if attached.attention and not any(isinstance(d, MemoryDoor) for d in doors(self.model)):
            attached.attention.restore()
            attached.attention = None
        if not attached.tuners:
            attached.restore()
            del self.model.minipeft
        return self.model

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
        every = [*doors(self.model), *self.model.minipeft.parked]
        return [door for door in every if self.name in door.patches]

    def _in_turn(self) -> None:
        """Refuse to act again where a patch that was attached later is merged, and cares."""
        for door in self._doors():
            later = door.blocked(self.name)
            if later:
                raise ValueError(
                    f"{self.name!r} acts before {later!r}, which is merged: unmerge that one first."
                )

    def _unmerge(self) -> None:
        if self.merged:
            self.merged = False
            for door in self._doors():
                door.unmerge(self.name)
                self._settle(door)

    def _switch(self) -> None:
        for door in self._doors():
            (door.off.discard if self.enabled else door.off.add)(self.name)

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange the values of base parameters in training with the ones that are kept."""
        for parameter, other in self.lent.items():
            now = parameter.detach().clone()
            parameter.copy_(other)
            self.lent[parameter] = now

    def _door(self, module: nn.Module, kind: type[Door]) -> Door:
        """The door of a module: the one that is there, or a new one in its place.

        One tuner may patch a layer that another has copied: WeightDoor(CopyDoor(module)).
        """
        standing = doors(self.model)
        here = [d for d in (*standing, *self.model.minipeft.parked) if bottom(d) is module]
        door = next((d for d in here if isinstance(d, kind)), None)
        other = next((d for d in here if not isinstance(d, kind)), None)
        if other and (self.name in other.patches or {kind, type(other)} != {WeightDoor, CopyDoor}):
            raise ValueError("A layer cannot be copied and patched at once: choose one.")
        if door is None:  # patches act on what the copy gives
            door = kind(other if kind is WeightDoor and other in standing else module)
        self._stand(door, door)
        return door

    def _settle(self, door: Door) -> None:
        """Put the door into the tree while it has work to do, else its base back."""
        if any(name not in door.merged for name in door.patches):
            module = door
        elif isinstance(door, CopyDoor) and door.merged:
            module = door.replacement()
        else:
            module = door.base
        self._stand(door, module)
        door.rounded = [copy for copy in door.rounded if copy is module]
        parked = self.model.minipeft.parked
        if door in parked:
            parked.remove(door)
        if door.patches and len(door.merged) == len(door.patches):
            parked.append(door)

    def _stand(self, door: Door, module: nn.Module) -> None:
        """Let `module` stand wherever the door, its base or a copy of it stands now."""
        now = {door, door.base, *door.patches.values(), *door.rounded} - {module}
        every = [door, *doors(self.model)]
        inside = {door, *(module for other in every for module in other.patches.modules())}
        for parent in list(self.model.modules()):
            if parent in inside:  # patches, of which some sit in several doors, or know one another
                continue
            for key, child in parent._modules.items():
                if child in now:
                    parent._modules[key] = module


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
    every = [*doors(model), *([model.minipeft] if known else [])]
    before = [door.rows for door in every]

    def tell(names: Iterable[str], mask: Tensor | None) -> None:
        for name in names if mask is not None else ():
            model.minipeft.rows = None
            known[name].method.look(known[name], {"attention_mask": mask})
            model.minipeft.rows = rows

    with ExitStack() as stack:
        try:
            for door in every:
                door.rows = rows
            for module in [] if rows.uniform else anatomy.rowless():
                stack.enter_context(one_set_at_a_time(module, rows, tell))
            yield
        finally:
            for door, old in zip(every, before, strict=True):
                door.rows = old


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
