"""What stands against an attachment, or a merge."""

from __future__ import annotations

import re

from torch import Tensor, nn

from minipeft.attached import tuners
from minipeft.doors.copies import CopyDoor
from minipeft.doors.door import bottom
from minipeft.doors.layers import is_linear
from minipeft.doors.patch import as_patch
from minipeft.methods.method import Method
from minipeft.model.libraries import is_sharded
from minipeft.model.sites import Place, Site


def check_attach(model: nn.Module, method: Method, name: str, head) -> None:
    """Raise ValueError or TypeError for arguments that `attach` cannot take."""
    if not isinstance(method, Method):
        raise TypeError(f"attach() needs a method such as minipeft.LoRA(rank=8), not {method!r}.")
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"A tuner's name is made of letters, digits, _ and -, not {name!r}.")
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"The name {name!r} is one that torch modules use: choose another.")
    named = isinstance(head, list | tuple) and all(isinstance(path, str) for path in head)
    if not (named and head) and head not in (True, False, "auto"):
        raise ValueError(
            f'head must be "auto", True, False or paths of modules, such as ("out",), not {head!r}.'
        )
    if any(map(is_offloaded, model.modules())):
        raise ValueError(
            "Weights of this model are offloaded (accelerate's cpu_offload or device_map), so that "
            "no layer has them but while it is called: load the model where all of it fits."
        )
    if name in tuners(model):
        raise ValueError(
            f"This model already has a tuner named {name!r}: detach it or choose another name."
        )


def check_merge(tuner) -> None:
    """Raise ValueError, in one sentence, where a tuner cannot be merged as things are."""
    if not tuner.enabled:
        raise ValueError(f"{tuner.name!r} is disabled: call enable() before merge().")
    if is_sharded(tuner.model):
        raise ValueError(
            f"{tuner.name!r} cannot be merged into a sharded base: save it, and merge it where "
            "the base is whole."
        )
    if tuner.record.routing is not None:
        raise ValueError(
            f"{tuner.name!r} would act on every row once it is merged: leave route() first."
        )
    uses = tuner.anatomy.uses()
    for place, patch in tuner.patches:
        check_has_weight(tuner, place, patch)
        check_not_shared(tuner, place, patch, uses)
        check_not_trained(tuner, place)
    check_no_copy(tuner)
    for door in tuner.doors():
        door.check_merge(tuner.name)


def check_has_weight(tuner, place: Place | Site, patch: nn.Module) -> None:
    """Raise ValueError where there is no weight that this patch could be added to."""
    if place.path in tuner.inert_places and changes(patch):
        raise ValueError(
            f"{tuner.name!r} cannot be merged: it does nothing at {place.path}, whose weight "
            "the model reads without calling the layer, and a merge would act there."
        )
    if isinstance(place, Site):
        kind = type(tuner.method).__name__
        raise ValueError(
            f"{tuner.name!r} cannot be merged: {kind} adds {place.target.split()[-1]}, and "
            "there is no weight that it could be added to."
        )
    for key in ("weight", "bias"):
        is_parameter = place.module._parameters.get(key) is not None
        if not is_parameter and isinstance(getattr(place.module, key, None), Tensor):
            raise ValueError(
                f"{tuner.name!r} cannot be merged: the {key} of {place.path} is computed anew "
                "in every pass, since it is pruned or parametrized: make that permanent "
                "(torch.nn.utils.prune.remove, remove_parametrizations), or leave it attached."
            )


def check_not_shared(
    tuner, place: Place, patch: nn.Module, uses: dict[nn.Parameter, list[str]]
) -> None:
    """Raise ValueError where another module computes with what a merge would change.

    uses: parameter -> paths of the modules that use it.
    """
    weight, bias = (place.module._parameters.get(key) for key in ("weight", "bias"))
    shared = uses[weight] if as_patch(patch).changes_weight else []
    if len(shared) < 2 and bias is not None:
        shared = [use for use in uses[bias] if reads_bias(tuner.anatomy.modules[use])]
    if len(shared) > 1:
        raise ValueError(
            f"The weight of {place.path} is shared with "
            f"{[use for use in shared if use != place.path][0]}, which a merge would "
            "change too: untie them first, or do not merge."
        )


def check_not_trained(tuner, place: Place) -> None:
    """Raise ValueError where another tuner trains in place what a merge would change."""
    for other in tuners(tuner.model).values():
        trains = other.enabled and not other.merged and other is not tuner
        if trains and any(p in other.base_values for p in place.module._parameters.values()):
            raise ValueError(
                f"{tuner.name!r} cannot be merged into {place.path}, which {other.name!r} "
                f"trains in place: merge, disable or detach {other.name!r} first."
            )


def check_no_copy(tuner) -> None:
    """Raise ValueError where one tuner trains a copy of a layer and the other one patches it."""
    for door in tuner.doors():
        for other in tuner.record.doors_of(bottom(door)):
            if other is not door and CopyDoor in (type(door), type(other)):
                name = next(iter(other.patches))
                raise ValueError(
                    f"{tuner.name!r} cannot be merged: {name!r} has a place at the same layer, "
                    "one copies it and the other patches it; detach that one first."
                )


def changes(patch: nn.Module) -> bool:
    """Has a patch learnt, or been given, anything? Rounding is nothing."""
    if as_patch(patch).is_additive():
        return bool((as_patch(patch).delta().abs() > 1e-6).any())
    return any(bool(parameter.any()) for parameter in patch.parameters())


def is_offloaded(module: nn.Module) -> bool:
    """Does accelerate keep the numbers of this layer elsewhere, until it is called?"""
    return "_hf_hook" in vars(module) and any(p.is_meta for p in module.parameters(recurse=False))


def check_offloaded(record) -> None:
    """Before a pass: accelerate may have offloaded a model that had tuners already."""
    for tuner in record.tuners.values():
        first = [patch for _, patch in tuner.patches[:1]] + [*tuner.copies.values()][:1]
        if any(is_offloaded(module) for patch in first for module in patch.modules()):
            raise ValueError(
                f"{tuner.name!r} was offloaded together with the model (accelerate), which does "
                "not find its numbers again: detach it, and attach to a model that is not "
                "offloaded."
            )


def check_copy(record) -> None:
    """Before a copy of a model is called for the first time: torch may have quantized all of it."""
    for tuner in record.tuners.values() if record.is_copy else ():
        inside = [module for _, patch in tuner.patches for module in patch.modules()]
        inside += [bottom(door) for door in tuner.doors() if door.is_replaced()]
        if any(type(module).__module__.startswith("torch.ao.") for module in inside):
            raise ValueError(
                f"The layers of {tuner.name!r} were quantized together with the model, and cannot "
                "be used so: quantize before attach(), or a copy into which it is merged."
            )
    record.is_copy = False


def reads_bias(module: nn.Module) -> bool:
    """Does this module add its bias by itself, and not hold it for another one?"""
    return is_linear(module) or isinstance(module, nn.LayerNorm)
