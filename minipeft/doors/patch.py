"""What a patch may do: the base class of all that methods put into doors.

A patch says how it acts in `forward`, and that is all it must say:

    in the weights door    forward(x, y) -> y        y is what the map, and the patches before this
                                                     one, have made of x
    in the memory door     forward(x) -> (keys, values)     a `MemoryPatch`, see memory.py
    in the words door      forward() -> vectors (n, C) of its words, see words.py

Everything else has a default here that does nothing. A module of somebody else's that has a
`forward` alone is welcome in every door (`as_patch`).

Shapes: x (B, T, in), y (B, T, out); W (out, in) and b (out,) of a linear map.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from minipeft.doors.named_once import NamedOnce


class Patch(NamedOnce):
    """Base of all patches. Only `forward` must be written."""

    needs_bias = False  # does `fold` need a bias that the map has?
    changes_weight = True  # False: `fold` changes the bias alone, so that W may be shared

    def bind_base(self, frozen: Callable[[], Tensor]) -> None:
        """Called once, when the patch comes into its door. frozen() is W without what is merged."""

    def base_loaded(self, module: nn.Module) -> None:
        """Called when `load_state_dict` may have given the frozen module other weights."""

    def before(self, x: Tensor) -> Tensor:
        """What the map, and the patches attached before this one, read instead of x."""
        return x

    def base_replacement(self) -> nn.Module | None:
        """What is called in place of the base, as call(x, b) -> y; None: the base answers."""
        return None

    def delta(self) -> Tensor | None:
        """Where the patch adds a difference D x, that D (out, in): merged in any order."""
        return None

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(W, b) of the linear map that does what this map and the patch do together."""
        return weight + self.delta().to(weight), bias

    def changes_input(self) -> bool:
        """Does the map read something else than x? Where `before` is written."""
        return type(self).before is not Patch.before

    def is_additive(self) -> bool:
        """Does it add a difference to W, so that its turn does not matter? Where `delta` is."""
        return type(self).delta is not Patch.delta

    def unmergeable(self) -> str | None:
        """What of it is no change of a weight; None: it can be merged, by `fold` or `delta`."""
        written = self.is_additive() or type(self).fold is not Patch.fold
        return None if written else type(self).__name__

    def trained_on(self, weight: Tensor) -> Tensor:
        """The W that the patch was trained on, where that is not the base's (QLoRA)."""
        return weight


class MemoryPatch(Patch):
    """Keys and values for an attention layer: forward(x) with what enters it, (B, T, C), gives
    them, each (B or 1, H, P, D).

    since: (B,), the token from which on a row reads the memory; None: from its first.
    window: W places back are seen from a token, as if the memory stood right before the text, as
        PEFT has it with sliding windows; None: all of the memory.
    bias: (P, T, S) -> (1, H, T, P), what T5 adds to the scores of its keys; None: nothing.
    """

    since: Tensor | None = None
    window: int | None = None
    bias: Callable[[int, int, int], Tensor] | None = None


class PositionShift(Patch):
    """For the door at a table of positions: every token stands `shift` places further back."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift


METHODS = ("bind_base", "base_loaded", "before", "base_replacement", "delta", "fold", "trained_on")
FLAGS = ("needs_bias", "changes_weight")
OF_MEMORIES = ("since", "window", "bias")


class ForeignPatch:
    """A module that is no Patch, seen as one: whatever it has of a Patch's methods is used."""

    needs_bias, changes_weight = Patch.needs_bias, Patch.changes_weight
    since, window, bias = MemoryPatch.since, MemoryPatch.window, MemoryPatch.bias

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        for name in (*METHODS, *FLAGS, *OF_MEMORIES):
            if hasattr(module, name):  # the one place that asks: whoever wrote it knew no Patch
                setattr(self, name, getattr(module, name))

    def __call__(self, *inputs: Tensor):
        return self.module(*inputs)

    bind_base, before, delta, fold = Patch.bind_base, Patch.before, Patch.delta, Patch.fold
    base_loaded, trained_on = Patch.base_loaded, Patch.trained_on
    base_replacement = Patch.base_replacement

    def changes_input(self) -> bool:
        return "before" in vars(self)

    def is_additive(self) -> bool:
        return "delta" in vars(self)

    def unmergeable(self) -> str | None:
        written = {"delta", "fold"} & set(vars(self))
        return None if written else type(self.module).__name__


def as_patch(module: nn.Module) -> Patch:
    """The module itself, or, if it is none of ours, what it can do in the words of a Patch."""
    return module if isinstance(module, Patch) else ForeignPatch(module)
