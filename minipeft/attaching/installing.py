"""What a method may ask of its tuner while it installs itself: places, doors, copies."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from minipeft.attached import Attached, tuners
from minipeft.doors.copies import CopyDoor
from minipeft.doors.door import Door, bottom, doors, walk
from minipeft.doors.fused import Parts
from minipeft.doors.hub_attention import OpenedAttention, models_around
from minipeft.doors.layers import check_plain, dtype_of, features
from minipeft.doors.marks import Mark
from minipeft.doors.memory import MemoryDoor, PositionDoor
from minipeft.doors.patch import PositionShift, as_patch
from minipeft.doors.weights import Frozen, WeightDoor
from minipeft.doors.words import WordDoor, refuse_new_words
from minipeft.methods.method import Method
from minipeft.model.anatomy import Anatomy
from minipeft.model.libraries import is_loose
from minipeft.model.sites import AttentionSite, Place, Site, keys_at


class Installer:
    """The part of a `Tuner` that a method sees: it finds places by the field's words and puts
    patches into their doors, so that a method never names a module of any architecture."""

    name: str
    model: nn.Module
    record: Attached
    anatomy: Anatomy
    patches: list[tuple[Place | Site, nn.Module]]
    copies: dict[str, nn.Module]
    base_values: dict[nn.Parameter, Tensor]
    base_value_names: dict[nn.Parameter, str]
    marks: dict[str, Mark]
    copy_marks: dict[str, Mark]
    shares: list[Share]
    shift: int

    @property
    def taken(self) -> int:
        """How many of the positions that a model has for a text this tuner takes from it."""
        behind = 0 if self.anatomy.is_encoder_decoder() else self.shift  # the source keeps its own
        return len(self.words or ()) + behind

    def install_part(self, part: Method) -> None:
        """Install one of several methods of this tuner, which then has a share of the patches."""
        already = len(self.patches)
        part.install(self)
        self.shares.append(Share(self, self.patches[already:]))

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

    def tied(self, place: Place) -> list[Place]:
        """The other modules that compute with an embedding's matrix: the head, as a rule.

        Raises ValueError where a merged copy stands in the place of one, which shares it no more.
        """
        for module, (parameters, _) in self.record.originals.tensors.items():
            if any(parameter is place.module.weight for parameter in parameters.values()):
                door = next(d for d in self.record.doors_of(module) if isinstance(d, CopyDoor))
                raise ValueError(
                    f"{door.last_merged()!r} is merged into {door.path or 'the head'}, which "
                    f"shares its matrix with {place.path}: unmerge it first."
                )
        return self.anatomy.tied(place)

    def add(self, place: Place, patch: nn.Module) -> None:
        """Put a patch into the weights door of a place; the door is made when it is not there."""
        weight = place.module.weight
        # a half-precision base gets fp32 patches: small steps would be lost in 8 bits of mantissa
        patch.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        door = self.record.door(place.module, WeightDoor, self.name)
        door.path = place.path
        as_patch(patch).bind_base(Frozen(door, place.columns, self.name))
        if place.columns is None:
            door.add(self.name, patch)
        else:
            parts = door.patches[self.name] if self.name in door.patches else None
            if not isinstance(parts, Parts):  # None, or a patch of the whole map, which is refused
                door.add(self.name, Parts(features(place.module)[1]))
            parts = door.patches[self.name]
            parts.add(place.target, patch.train(door.training), place.columns, weight.device)
        self.patches.append((place, patch))
        self.marks[place.path] = door.marks[self.name]
        self.record.settle()

    def attentions(self, layers: Iterable[int] | None = None) -> list[AttentionSite]:
        """The attention layers, self and cross, that can be given a memory."""
        return self.anatomy.attentions(layers)

    def add_memory(self, site: AttentionSite, patch: nn.Module) -> None:
        """Give an attention layer a memory: patch(x) -> keys and values, each (B or 1, H, P, D)."""
        around = models_around(site.path, self.anatomy.modules)
        if around:
            self.record.attention = self.record.attention or OpenedAttention(self.model)
            self.record.attention.open(around)
        self._install(site, patch, MemoryDoor)

    def add_virtual_tokens(
        self, patch: nn.Module, count: int, alias_of: int | None = None
    ) -> range:
        """Give the model new words: patch() -> their vectors (count, C). Returns their ids.

        alias_of: one id more, the last, which stands for this word of the base.
        """
        self.anatomy.check_decoder_words()
        count += alias_of is not None
        first, *others = self.anatomy.embeddings()
        for path, module in self.anatomy.other_readers():
            known = getattr(module, "num_embeddings", first.module.num_embeddings)
            look = partial(refuse_new_words, path, known)
            self.record.hooks.append(module.register_forward_pre_hook(look, with_kwargs=True))
        self.words = self.record.door(first.module, WordDoor, self.name).reserve(self.name, count)
        self._install(first, patch, WordDoor)
        for site in others:
            door = self._put(site.module, patch, WordDoor)
            door.spans[self.name] = self.words
            door.marks[self.name] = self.marks[first.path]
        if alias_of is not None:
            for site in (first, *others):
                door = self.record.door(site.module, WordDoor, self.name)
                door.aliases[self.words[-1]] = alias_of
        self.word_mark = self.marks[first.path]
        self.word_paths = [site.path for site in (first, *others)]
        return self.words

    def shift_positions(self, shift: int, within: str = "") -> None:
        """Count positions as if `shift` tokens stood before the text; within: in this part only.

        Raises:
            ValueError: the model has positions, and nobody has named where it looks them up.
        """
        layers = self.anatomy.position_layers()
        if not layers and self.anatomy.takes_positions():
            raise ValueError(
                f"A {type(self.model).__name__} takes position_ids, which a prefix in PEFT's "
                "layout must move, and its family names no positions: name the modules that look "
                'them up, or attach a Prefix of compatibility="minipeft".'
            )
        for path, module in layers:
            if within and not path.startswith(f"{within}."):
                continue
            self._put(module, PositionShift(shift), PositionDoor)
            self.shift = shift

    def _install(self, site: Site, patch: nn.Module, kind: type[Door]) -> None:
        like = next(self.model.parameters())
        patch.to(like.device, torch.promote_types(like.dtype, torch.float32))
        door = self._put(site.module, patch, kind)
        door.path = site.path
        self.patches.append((site, patch))
        self.marks[site.path] = door.marks[self.name]

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
        if copies and as_patch(patch).base_replacement() is not None:
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
        if is_loose(self.anatomy.modules[path]):
            raise ValueError(
                f"{path} is a {type(self.anatomy.modules[path]).__name__}, whose numbers are read "
                "without calling it, so that a copy would not be asked: put them into a module "
                "with a forward of its own."
            )
        # names of modules that are copied with all that is in them
        whole = tuple(f"{copied}." for copied in self.copies)
        for inner, module in walk(self.anatomy.modules[path], path):
            parameters = [p for p in module._parameters.values() if p is not None]
            loose = [part for part in filter(None, module._modules.values()) if is_loose(part)]
            parameters += [p for part in loose for p in part.parameters()]
            if not parameters or inner in self.copies or inner.startswith(whole):
                continue
            if any(p in self.base_values for p in parameters):
                continue
            check_plain(inner, module)
            self._check_copy(inner, module)
            twin = copy_of(module)
            twin.to(torch.promote_types(dtype_of(module), torch.float32))  # as patches, see `add`
            for parameter in twin.parameters():
                parameter.grad = None
                parameter.requires_grad_(True)
            door = self._put(module, twin, CopyDoor)
            door.path, self.copy_marks[inner] = inner, door.marks[self.name]
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
        if any(door.is_replaced() for door in at_it) or doors(module):
            raise ValueError(
                f"Another tuner answers in place of {path} or of a part of it, so that a copy of "
                "it would not be asked: detach that one first."
            )

    def unfreeze(self, parameters: Iterable[nn.Parameter]) -> None:
        """Train base parameters in place; `detach` writes their first values back."""
        chosen, names = dict.fromkeys(parameters), self.anatomy.parameter_names()
        if self.record.routing is not None:
            raise ValueError(
                "The base's own weights act on every row: leave route() before a method that "
                "trains them is attached."
            )
        for path, module in self.anatomy.modules.items():
            if any(p in chosen for p in module._parameters.values() if p is not None):
                check_plain(path, module)
        unused = {bottom(door).weight for door in self.record.doors if door.is_replaced()}
        for parameter in chosen:
            if parameter in unused:
                raise ValueError(
                    "A tuner here computes with a quantized copy of these weights, so training "
                    "them would change nothing: detach it first."
                )
            if any(parameter in other.base_values for other in tuners(self.model).values()):
                raise ValueError("Two tuners cannot train the same base parameters: detach one.")
            merged = self.record.merged_into(parameter)
            if merged:
                raise ValueError(
                    f"{merged!r} is merged into {names[parameter]}, which is to be trained in "
                    "place: unmerge it first."
                )
        for parameter in chosen:
            self.base_value_names[parameter] = names[parameter]
            self.base_values[parameter] = parameter.detach().clone()
            parameter.requires_grad_(True)


def copy_of(module: nn.Module) -> nn.Module:
    """A copy of a layer. Weights that a hook makes anew for every call (weight_norm, pruning) are
    no parameters, and torch copies none that has a gradient's history.
    """
    parts = list(module.modules())
    made = [(vars(p), k, v) for p in parts for k, v in vars(p).items() if isinstance(v, Tensor)]
    try:
        for place, key, value in made:
            place[key] = value.detach()
        return copy.deepcopy(module)
    finally:
        for place, key, value in made:
            place[key] = value


class Share:
    """The tuner as one of several parts sees it: with the patches of that part only."""

    def __init__(self, tuner, patches: list) -> None:
        self.whole, self.patches = tuner, patches

    def __getattr__(self, name: str):
        if name == "whole":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.whole, name)


def heads_to_train(tuner: Installer, head: bool | str | Sequence[str]) -> Sequence[str]:
    """Paths of the modules that `attach` trains copies of: those named, none, or the task heads.

    In a module of one's own what stands around the model inside is a head, too; it is left out if
    it, and not all, was frozen before.
    """
    if not head or isinstance(head, list | tuple):
        return head or ()
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
    around = set(anatomy.own_modules())
    parameters = {path: anatomy.modules[path].parameters() for path in anatomy.heads()}
    return [h for h, inside in parameters.items() if h not in around or free.intersection(inside)]
