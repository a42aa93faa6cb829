"""A door: it stands in the module tree where a frozen module stood and keeps it inside as `base`.

A door holds patches by *name* (the name given to `attach`). A patch may be off, merged into the
base, or on for some rows of the batch only (`routing`, set by `minipeft.route`).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from minipeft.doors.marks import Mark
from minipeft.doors.named_once import NamedOnce
from minipeft.doors.rows import Routing


class Originals:
    """What merging has taken out of a base, to be put back: one for all doors of a model.

    values: base parameter -> its value before the first of the merges that have written over it.
    tensors: module -> its parameters and its buffers, where a trained copy's stand in their place.
    """

    def __init__(self) -> None:
        self.values: dict[nn.Parameter, Tensor] = {}
        self.tensors: dict[nn.Module, tuple[dict, dict]] = {}

    def value(self, parameter: nn.Parameter) -> Tensor:
        """The parameter without what is merged into it."""
        return self.values.get(parameter, parameter).detach()


class Door(NamedOnce):
    """A frozen module, `base`, and the named patches that change what comes out of it.

    Reading or tying an attribute goes through to the base (`door.weight`, `door.in_features`,
    `door.nf`), because models look at their layers: T5 asks for `wo.weight.dtype` in every pass.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.patches = nn.ModuleDict()  # name -> patch, in the order they were attached
        self.marks: dict[str, Mark] = {}  # name -> was its patch used? See minipeft.passes.reach
        self.path = ""  # where the door stands
        self.off: set[str] = set()  # names that are attached but disabled
        self.merged: list[str] = []  # names whose effect is inside the base's weights now
        self.originals = Originals()  # the model's, where the door belongs to one
        self.routing: Routing | None = None  # see `route`
        self.training = base.training

    def __getstate__(self) -> dict:
        """A copy of the model is not inside the `route` that this one is in."""
        return {**self.__dict__, "routing": None}

    def add(self, name: str, patch: nn.Module) -> None:
        """Let a patch in under a name that is not taken yet."""
        if name in self.patches:
            raise ValueError(
                f"{self.path or 'This door'} already has a patch named {name!r} and takes one of a "
                "name: attach the other method under another name, or give it other targets."
            )
        self.marks[name] = Mark()
        self.patches[name] = patch.train(self.training)

    def remove(self, name: str) -> None:
        """Take the patch of this name out; may be repeated, also after half of an `add`."""
        self.patches._modules.pop(name, None)
        self.marks.pop(name, None)
        self.off.discard(name)

    def check_merge(self, name: str) -> None:
        """ValueError where the patch of this name cannot be merged as things are."""

    def merge(self, name: str) -> None:
        """The patch acts through the base's own tensors from now on."""
        self.check_merge(name)
        self.merged.append(name)
        self.write()

    def unmerge(self, name: str) -> None:
        """Take the patch out of the base again; one that is not merged is no error."""
        if name in self.merged:
            self.merged.remove(name)
        self.write()

    def write(self) -> None:
        """Let the base's tensors be what `merged` says. May be repeated."""

    def rejoin(self) -> None:
        """Patches that stood aside are where the base is now, and in its mode."""
        module = bottom(self)
        self.training = module.training
        self.patches.train(module.training)
        parameter = next(module.parameters(), None)
        if parameter is not None:
            self.patches.to(parameter.device)

    def blocked(self, name: str) -> str | None:
        """A merged patch before which this one can no longer act; there is none by default."""
        return None

    def is_replaced(self) -> bool:
        """Does a patch answer in place of the base? Only in a WeightDoor."""
        return False

    def active(self, size: int) -> Iterator[tuple[nn.Module, Tensor | None]]:
        """The patches that act now, in order, each with the rows it acts on (None: on every row).

        size: the first dimension of the input. It is a multiple of the routed rows where a model
        folds something into the batch, always row by row: beams (B*beams, T, in), or all tokens
        (B*T, in).
        """
        rows_of = None if self.routing is None else self.routing.row_indices(size)
        for name, patch in self.patches.items():
            if name in self.off or name in self.merged:
                continue
            if rows_of is None or name in rows_of:
                self.marks[name].read = True
                yield patch, None if rows_of is None else rows_of[name]

    def state_dict(self, *args, destination=None, prefix="", keep_vars=False):
        """The base's tensors, by the names they have without the door: see attaching/state.py."""
        return self.base.state_dict(
            *args, destination=destination, prefix=prefix, keep_vars=keep_vars
        )

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, *lists) -> None:
        """torch calls it before what `base` and `patches` hold is read from the state.

        What the state lacks is given to it as it is: of the base it is reported as missing.
        """
        base, patches = f"{prefix}base.", f"{prefix}patches."
        for key in [k for k in state if k.startswith(prefix)]:
            if not key.startswith((base, patches)):
                state[base + key.removeprefix(prefix)] = state.pop(key)
        for key, tensor in self.base.state_dict(prefix=base, keep_vars=True).items():
            if key not in state:
                missing.append(prefix + key.removeprefix(base))
                state[key] = tensor
        state |= self.patches.state_dict(prefix=patches, keep_vars=True) | state
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, *lists)

    def __getattr__(self, key: str):
        try:
            return super().__getattr__(key)
        except AttributeError:
            if key in ("base", "patches"):  # not there yet: do not look for it inside itself
                raise
            if key == "weight":
                for mark in self.marks.values():
                    mark.weight_read = True
            return getattr(self.behind(), key)

    def behind(self) -> nn.Module:
        """The layer that answers for what the door itself does not have."""
        return self.base

    def __setattr__(self, key: str, value) -> None:
        base = bottom(self.__dict__.get("_modules", {}).get("base"))
        if (
            base is not None and key in base._parameters
        ):  # tying weights: model.lm_head.weight = embedding.weight
            setattr(base, key, value)
        else:
            super().__setattr__(key, value)


def bottom(module: nn.Module | None) -> nn.Module | None:
    """The frozen module behind a door, or behind two: a patched layer may be copied as well."""
    while isinstance(module, Door):
        module = module.base
    return module


def walk(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of the model as it was before anything was attached: doors are looked through.

    A module that hangs in two places is named once, by the first.
    """
    seen: set[int] = set()

    def visit(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        module = bottom(module)
        if id(module) in seen:
            return
        seen.add(id(module))
        yield path, module
        for key, child in module._modules.items():
            if child is not None:
                yield from visit(child, f"{path}.{key}" if path else key)

    return visit(model, path)


def doors(model: nn.Module) -> list[Door]:
    """Every door that stands in the model."""
    return [module for module in model.modules() if isinstance(module, Door)]
