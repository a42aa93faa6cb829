"""Linear maps by the words of the field: "query", "down", or names of modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import nn

from minipeft.doors.door import bottom
from minipeft.doors.layers import check_plain, features, is_linear, is_map
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
        for target in self._spelt_out(targets):
            of_target = self._by_word(target) if self._is_word(target) else self._by_name(target)
            if layers is not None:
                of_target = self._of_layers(of_target, target, set(layers))
            places += of_target
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

    def _spelt_out(self, targets: Iterable[str]) -> Iterator[str]:
        """The targets; for "all-linear" the words that name every linear map of a block, once, and
        in a model that nobody listed, as in PEFT, the paths of all linear maps but a head's.
        """
        for target in targets:
            if target != "all-linear":
                yield target
                continue
            if self.family is None:
                yield from self._maps_below_heads()
                continue
            twice = ("query", "key", "value") if self._known_family(target).qkv else ("qkv",)
            spelt = self._targets_here()
            yield from (word for word in TARGETS if repr(word) in spelt and word not in twice)

    def _maps_below_heads(self) -> list[str]:
        """Paths of the linear maps of which none writes words or belongs to a task's head."""
        ask = getattr(self.model, "get_output_embeddings", None)
        writes = bottom(ask() if ask else None)
        heads = (*self.heads(), *(path for path, m in self.modules.items() if m is writes))
        inside = tuple(f"{path}." for path in heads)
        paths = [path for path, module in self.modules.items() if is_map(module)]
        paths = [p for p in paths if p not in heads and not p.startswith(inside)]
        if not paths:
            raise ValueError('"all-linear" names nothing: this model has no linear map.')
        return paths

    def _is_word(self, target: str) -> bool:
        """Is it a word of the field? A model of unknown family may call its modules so itself."""
        if self.family is None and self.matching(f"*.{target}", target):
            return False
        return target in TARGETS

    def _by_word(self, target: str) -> list[Place]:
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
        if without:
            targets = ", ".join(self._targets_here())
            first = self.modules[without[0]]
            if target in FEED_FORWARD and any(p.dim() == 3 for p in first.parameters()):
                targets += " (its experts are three-dimensional parameters, which no door reaches)"
            some = "no layer" if len(without) == len(blocks) else f"{len(without)} layers lack it"
            raise ValueError(
                f"The target {target!r} is not in this model ({self.model_type}: {some}, "
                f"such as {without[0]}); it has {targets}, or give the name of a module."
            )
        return places

    def _by_name(self, target: str) -> list[Place]:
        """A module's path, the end of it, or a pattern with * in it."""
        paths = self.matching(target, f"*.{target}")
        if not paths:
            raise ValueError(
                f"The target {target!r} matches nothing in this model{self.near(target)}"
            )
        places = [self._place(target, path) for path in paths]
        if not re.search(r"(^|\.)(\d+|\[.*\])(\.|$)", target):  # no layer is named on purpose
            for stack in dict.fromkeys(place.stack for place in places if place.stack):
                have = {place.layer for place in places if place.stack == stack}
                lack = [i for i in range(len(self.modules[stack])) if i not in have]
                if lack:
                    raise ValueError(
                        f"The target {target!r} is in layers {sorted(have)} of {stack} but not in "
                        f"{lack}: name every module you mean, or use layers=."
                    )
        return places

    def _place(self, target: str, path: str, name: str | Slice | None = None) -> Place:
        module = self.modules[path]
        if is_map(module):
            check_plain(path, module)
        if not is_linear(module):
            raise TypeError(
                f"The target {target!r} names {path}, a {type(module).__name__}: a weights door "
                "needs a linear map (torch.nn.Linear or transformers' Conv1D)."
            )
        parents = [path[: i.start()] for i in re.finditer(r"\.", path)]
        if any(isinstance(self.modules[parent], nn.MultiheadAttention) for parent in parents):
            raise TypeError(
                f"{path} belongs to torch.nn.MultiheadAttention, which reads the weights without "
                "calling the layer, so that a patch there would have no effect."
            )
        columns, (n_in, n_out) = None, features(module)
        if isinstance(name, Slice):
            columns = name.columns(n_out, self.heads_count, self.key_value_heads)
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
