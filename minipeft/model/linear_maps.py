"""Linear maps by the words of the field: "query", "down", or names of modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import nn

from minipeft.doors.layers import (
    check_plain,
    features,
    is_adaptable,
    is_as_usual,
    is_linear,
    is_map,
)
from minipeft.model.family import TARGETS, Slice
from minipeft.model.names import Names
from minipeft.model.sites import Place

FEED_FORWARD = ("up", "gate", "down")


class LinearMaps(Names):
    """The weights door's part of an `Anatomy`."""

    def find(self, targets: Iterable[str], layers: Iterable[int] | None = None) -> list[Place]:
        """The linear maps that the targets name, in the model's order.

        Raises ValueError for a target that matches nothing, or only some of the layers, TypeError
        for one that is no linear map; the sentence lists what there is.
        """
        places = []
        layers = None if layers is None else set(layers)
        for target, of_layers in self._spelt_out(targets, layers):
            look_up = self._by_word if self._is_word(target) else self._by_name
            places += self._outside_copies(look_up(target, of_layers))
        order = {path: number for number, path in enumerate(self.modules)}
        places.sort(key=lambda place: order[place.path])
        taken = {}
        for place in places:
            for other in taken.setdefault(place.path, []):
                if place.columns is None or other.columns is None or place.target == other.target:
                    raise ValueError(
                        f"The targets {other.target!r} and {place.target!r} both name "
                        f"{place.path}: keep one of them."
                    )
            taken[place.path].append(place)
        return places

    def _outside_copies(self, places: list[Place]) -> list[Place]:
        """Of the maps that a target names those in no head that is trained as a copy: "dense" means
        those of the layers; all of them where there are no others.
        """
        heads = tuple(f"{path}." for path in self.copied)
        outside = [place for place in places if not f"{place.path}.".startswith(heads)]
        return outside or places

    def _spelt_out(
        self, targets: Iterable[str], layers: set[int] | None
    ) -> Iterator[tuple[str, set[int] | None]]:
        """The targets, each with the layers that it is to be in.

        For "all-linear" the words that name linear maps of every block, once, and the paths of
        others in blocks; in a model that nobody listed, as in PEFT, the paths of all linear maps
        but a head's.
        """
        for target in targets:
            if target != "all-linear":
                yield target, layers
                continue
            if self.family is None:
                paths = self._maps_below_heads()
                missing = (layers or set()) - {self._where(path)[1] for path in paths}
                if missing:
                    raise ValueError(f"There are no linear maps in layer {sorted(missing)}.")
                yield from self._in_layers(paths, layers)
                continue
            twice = ("query", "key", "value") if self.family.qkv else ("qkv",)
            words = [word for word in self._words_of_every_block() if word not in twice]
            yield from ((word, layers) for word in words)
            named = {place.path for word in words for place in self._by_word(word)}
            yield from self._in_layers(self._maps_without_word(named), layers)

    def _in_layers(self, paths: list[str], layers: set[int] | None) -> Iterator[tuple[str, None]]:
        """Those of the paths that lie in these layers, or all: targets that mean one map each."""
        for path in paths:
            if layers is None or self._where(path)[1] in layers:
                yield path, None

    def _maps_without_word(self, named: set[str]) -> list[str]:
        """Paths of the linear maps in blocks that are none of those named: shared experts, say."""
        inside = tuple(f"{path}." for path, _ in self.blocks())
        maps = [path for path, module in self.modules.items() if is_adaptable(module)]
        return [path for path in maps if path.startswith(inside) and path not in named]

    def _maps_below_heads(self) -> list[str]:
        """Paths of the linear maps of which none writes words or belongs to a task's head."""
        writes = self.output_embedding()
        heads = (*self.heads(), *(path for path, m in self.modules.items() if m is writes))
        inside = tuple(f"{path}." for path in heads)
        paths = [path for path, module in self.modules.items() if is_adaptable(module)]
        paths = [p for p in paths if p not in heads and not p.startswith(inside)]
        if not paths:
            raise ValueError('"all-linear" names nothing: this model has no linear map.')
        return paths

    def _is_word(self, target: str) -> bool:
        """Is it a word of the field? A model of unknown family may call its modules so itself."""
        if self.family is None and self.matching(f"*.{target}", target):
            return False
        return target in TARGETS

    def _by_word(self, target: str, layers: set[int] | None = None) -> list[Place]:
        family = self._known_family(target)
        places = []
        without = []
        blocks = self.blocks()
        for path, _ in blocks:
            in_block = []
            for name in family.names(target):
                module = name.module if isinstance(name, Slice) else name
                for full in self.matching(f"{path}.{module}"):
                    in_block.append(self._place(target, full, name))
            places += in_block
            if not in_block:
                without.append(path)
        if layers is not None and places:
            return self._of_layers(places, target, layers)
        if without:
            targets = ", ".join(map(repr, self._words_of_every_block()))
            first = self.modules[without[0]]
            if target in FEED_FORWARD and any(p.dim() == 3 for p in first.parameters()):
                targets += " (its experts are three-dimensional parameters, which no door reaches)"
            some = "no layer" if len(without) == len(blocks) else f"{len(without)} layers lack it"
            hint = "name the layers that have it, layers=(...), or " if places else ""
            raise ValueError(
                f"The target {target!r} is not in this model ({self.model_type}: {some}, "
                f"such as {without[0]}); it has {targets}, or {hint}give the name of a module."
            )
        return places

    def _by_name(self, target: str, layers: set[int] | None = None) -> list[Place]:
        """A module's path, the end of it, or a pattern with * in it.

        In a model whose layers are of several makes (attention here, a convolution there) it need
        not be in all of them.
        """
        paths = self.matching(target, f"*.{target}")
        if not paths:
            raise ValueError(
                f"The target {target!r} matches nothing in this model{self.near(target)}"
            )
        places = [self._place(target, path) for path in paths]
        if layers is not None:
            return self._of_layers(places, target, layers)
        if not re.search(r"(^|\.)(\d+|\[.*\])(\.|$)", target):  # no layer is named on purpose
            for stack in dict.fromkeys(place.stack for place in places if place.stack):
                inside = [place for place in places if place.stack == stack]
                have = {place.layer for place in inside}
                lack = [i for i in range(len(self.modules[stack])) if i not in have]
                lack = [i for i in lack if self._is_alike(i, inside)]
                if lack:
                    raise ValueError(
                        f"The target {target!r} is in layers {sorted(have)} of {stack} but not in "
                        f"{lack}: name every module you mean, or use layers=."
                    )
        return places

    def _is_alike(self, layer: int, places: list[Place]) -> bool:
        """Has a layer the same kind of module where the maps at these places have theirs?"""
        for place in places:
            parent = place.path.rpartition(".")[0]
            at = f"{place.stack}.{place.layer}"
            other = self.modules.get(f"{place.stack}.{layer}{parent.removeprefix(at)}")
            if type(other) is type(self.modules[parent]):
                return True
        return False

    def _place(self, target: str, path: str, name: str | Slice | None = None) -> Place:
        module = self.modules[path]
        if is_map(module):
            check_plain(path, module)
        if not is_linear(module):
            kind, library = type(module), type(module).__module__.partition(".")[0]
            of = f" of {library}" if kind.__name__ in ("Linear", "Conv1D") else ""
            raise TypeError(
                f"The target {target!r} names {path}, a {kind.__name__}{of}: a weights door "
                "needs a linear map (torch.nn.Linear or transformers' Conv1D)."
            )
        if not is_as_usual(module):
            raise TypeError(
                f"The target {target!r} names {path}, a {type(module).__name__}, which computes "
                "something else than W x + b: target the linear maps beside it."
            )
        parents = [path[: i.start()] for i in re.finditer(r"\.", path)]
        if any(isinstance(self.modules[parent], nn.MultiheadAttention) for parent in parents):
            raise TypeError(
                f"{path} belongs to torch.nn.MultiheadAttention, which reads the weights without "
                "calling the layer, so that a patch there would have no effect."
            )
        columns, (n_in, n_out) = None, features(module)
        if isinstance(name, Slice):
            counts = self.head_counts(path) if name.counts_heads() else (1, 1)
            columns = name.columns(n_out, *counts)
            n_out = len(columns)
        stack, layer = self._where(path)
        return Place(target, path, module, columns, n_in, n_out, stack, layer)

    def _of_layers(self, places: list[Place], target: str, layers: set[int]) -> list[Place]:
        kept = [place for place in places if place.layer in layers]
        missing = sorted(layers - {place.layer for place in kept})
        if missing:
            have = sorted({place.layer for place in places if place.layer is not None})
            raise ValueError(
                f"The target {target!r} has no layer {missing}; its layers are {have}."
            )
        return kept
