"""What the layouts of several of PEFT's methods share: names, settings, heads, checks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from minipeft.attaching.in_training import record_of
from minipeft.doors.door import bottom
from minipeft.doors.layers import check_plain, features, is_linear, is_map, is_transposed
from minipeft.files.peft.task_types import task_type
from minipeft.model.anatomy import Anatomy
from minipeft.model.libraries import is_of_library, is_tiny
from minipeft.model.sites import keys_at

PREFIX = "base_model.model."  # before the names of weights; before those of prompts it is
BASE = "base_model."
ROWS_AT = ".token_adapter"  # inside PEFT's module around an embedding, of which it trains rows


def common_settings(tuner, paths: Iterable[str] = (), task: str | None = None) -> dict:
    """What every adapter_config.json says.

    paths: of adapted linear maps, where there are any.
    task: the task_type, where it decides something.
    """
    task = task or task_type(tuner)
    modules = [tuner.anatomy.modules[path] for path in paths]
    name, revision = base_name(tuner)
    settings = {
        "auto_mapping": None if task else model_class(tuner.model),
        "base_model_name_or_path": name,
        "inference_mode": True,
        "modules_to_save": heads_to_save(tuner) or None,
        "revision": revision,
        "task_type": task,
    }
    return settings | ({"fan_in_fan_out": any(map(is_transposed, modules))} if modules else {})


def base_name(tuner) -> tuple[str | None, str | None]:
    """(name, revision) of the base: of the tuner's file, unless the model says another name."""
    name = getattr(getattr(tuner.model, "config", None), "_name_or_path", None) or None
    return tuner.base_name if name in (None, tuner.base_name[0]) else (name, None)


def model_class(model: nn.Module) -> dict[str, str] | None:
    """PEFT's auto_mapping, by which its AutoPeftModel finds the class of a transformers model."""
    kind = type(model)
    if is_tiny(model) or not is_of_library(kind):
        return None
    return {"base_model_class": kind.__name__, "parent_library": kind.__module__}


def by_module(patches: Iterable) -> dict[str, list]:
    """Path of a linear map -> its (place, patch), several where parts of it are adapted."""
    patches_at: dict[str, list] = {}
    for place, patch in patches:
        patches_at.setdefault(place.path, []).append((place, patch))
    return patches_at


def copied(tuner, begin: str = PREFIX) -> dict[str, Tensor]:
    """The tensors of trained heads and other copied layers, by PEFT's names."""
    return {
        f"{begin}{path}.{key}": tensor
        for path, twin in tuner.copies.items()
        for key, tensor in twin.state_dict().items()
    }


def without_prefix(tensors: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors by the base's own names.

    Raises:
        ValueError: one has another beginning, so that it is none of PEFT's.
    """
    for key in tensors:
        if not key.startswith(PREFIX):
            raise ValueError(f"The file has a tensor {key}, which is none of PEFT's {what} names.")
    return {key.removeprefix(PREFIX): value for key, value in tensors.items()}


def sizes_at(path: str, anatomy: Anatomy) -> tuple[int, int]:
    """(in, out) of the linear map that a file adapts.

    Raises:
        ValueError: this model has no linear map of that name.
    """
    module = anatomy.modules.get(path)
    if module is not None and is_map(module):
        check_plain(path, module)
    if module is None or not is_linear(module):
        raise ValueError(
            f"The file adapts {path}, which is no linear map of this model{anatomy.near(path)}"
        )
    return features(module)


def check_shapes(path: str, A: Tensor, B: Tensor, anatomy: Anatomy) -> None:
    """A (r, in) and B (out, r) must fit the linear map of this name."""
    n_in, n_out = sizes_at(path, anatomy)
    if A.dim() != 2 or B.dim() != 2 or A.shape[1] != n_in or B.shape != (n_out, A.shape[0]):
        raise ValueError(
            f"{path} maps {n_in} features to {n_out}, but the file has A {tuple(A.shape)} and B "
            f"{tuple(B.shape)}: it belongs to another base."
        )


def check_same_modules(adapted: Iterable[str], places: list) -> None:
    """The modules that the tensors are for must be those that the settings name."""
    odd = sorted(set(adapted) ^ {place.path for place in places})
    if odd:
        raise ValueError(
            f"What the file's settings name in this model is not what it has tensors for, {odd[0]} "
            "for one: load the class of model that it was made for."
        )


def short_names(anatomy: Anatomy, paths: list[str]) -> list[str]:
    """The last parts of the names when they mean these modules and no others, else the names."""
    ends = sorted({path.split(".")[-1] for path in paths})
    meant = {path for path in anatomy.modules if path.split(".")[-1] in ends}
    return ends if meant == set(paths) else list(paths)


def target_names(anatomy: Anatomy, paths: list[str]) -> tuple[str, ...]:
    """Short names if they find these modules here too, where "key" is a word of the field."""
    short = short_names(anatomy, paths)
    try:
        places = anatomy.find(short)
    except (TypeError, ValueError):
        places = []
    adapted = {place.path for place in places if place.columns is None}
    return tuple(short if adapted == set(paths) else paths)


def by_pattern(patterns: dict | None, path: str, default):
    """PEFT's rule: the first pattern that matches the end of the name, as a regular expression."""
    if patterns and not isinstance(patterns, dict):
        raise ValueError(f"adapter_config.json has patterns {patterns!r} that are no dict.")
    for pattern, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", path):
                return value
        except re.error:
            raise ValueError(f"adapter_config.json has a broken pattern {pattern!r}.") from None
    return default


def value_of(table, place, default):
    """The table's value for this place, else the default: `Tuner.choose` for one."""
    return next((table[key] for key in keys_at(place, table)), default)


def pick(named: dict[str, Tensor], end: str) -> dict[str, Tensor]:
    """Path -> tensor of the names with this end, which stay where they are."""
    return {key.removesuffix(end): value for key, value in named.items() if key.endswith(end)}


def pop_ending(named: dict[str, Tensor], end: str) -> dict[str, Tensor]:
    """Path -> tensor of the names with this end, which are taken out of `named`."""
    taken = pick(named, end)
    for path in taken:
        del named[f"{path}{end}"]
    return taken


def base_value(anatomy: Anatomy, parameter: nn.Parameter) -> Tensor:
    """A parameter of the base as files mean it: without what tuners have made of it."""
    record = record_of(anatomy.model)
    return parameter.detach() if record is None else record.first_value(parameter)


def drop_base(
    named: dict[str, Tensor], anatomy: Anatomy, rows: Mapping[str, Iterable[int]] | None = None
) -> None:
    """PEFT stores the base's matrix of an adapted embedding or head too: it must be this base's.

    rows: path -> ids of rows that the file replaces, so that the base's do not count. These are new
    tokens, as a rule, whose rows are drawn anew by every resize_token_embeddings.
    """
    for path, weight in pop_ending(named, ".base_layer.weight").items():
        path = path.removesuffix(ROWS_AT)
        module = anatomy.modules.get(path)
        matrix = getattr(module, "weight", None)
        if matrix is None or matrix.shape != weight.shape:
            shape = "none" if matrix is None else tuple(matrix.shape)
            raise ValueError(
                f"The file holds a matrix of {path} of shape {tuple(weight.shape)}, this model "
                f"has {shape}: call resize_token_embeddings({len(weight)}) before, if tokens were "
                "added to the base."
            )
        same = base_value(anatomy, matrix).to(weight) == weight  # (V, C)
        for i in (rows or {}).get(path, ()):
            if type(i) is int:
                same[i : i + 1] = True
        if not same.all():
            raise ValueError(
                f"The file holds a matrix of {path} that is not this base's: it was trained, or "
                "made for another base; save the base that it was made for, and load that one."
            )


def stands_twice(anatomy: Anatomy, module: nn.Module) -> bool:
    """Is this one module in two places of the tree? PEFT would put its own in one of them."""
    children = (bottom(m) for parent in anatomy.modules.values() for m in parent.children())
    return sum(child is module for child in children) > 1


def has_copies_as_in_peft(tuner) -> bool:
    """Does no copied layer stand in several places, where PEFT would copy it in one?"""
    modules = tuner.anatomy.modules
    return not any(stands_twice(tuner.anatomy, modules[path]) for path in tuner.copies)


def heads_to_save(tuner) -> list[str]:
    """PEFT's modules_to_save: task heads by their name, other copied layers one by one."""
    names = set()
    for path in tuner.copies:
        above = [h for h in tuner.anatomy.heads() if f"{path}.".startswith(f"{h}.")]
        names.add(above[0] if above else path)
    return sorted(names)


def whole(number: float) -> float | int:
    """An alpha as people write it: 16, not 16.0."""
    near = round(number)
    return near if math.isclose(number, near, rel_tol=1e-12) else number
