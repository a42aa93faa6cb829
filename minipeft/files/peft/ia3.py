"""(IA)^3 in 🤗 PEFT's layout.

PEFT stores one vector per linear map, `base_model.model.<module>.ia3_l`: (out, 1) where it
multiplies what the map gives back, (1, in) where it multiplies what the map reads; the setting
`feedforward_modules` names the latter.

Parts of a fused projection. PEFT has one vector for the whole of GPT-2's c_attn, so that it scales
the query too. Ours for its key and value parts are written as one vector with ones for the query:
PEFT then gives the same logits, but if it trains on, the ones train as well. A file of PEFT's own
scales the whole map here as it does there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.doors.layers import features
from minipeft.files.peft.common import (
    PREFIX,
    check_same_modules,
    common_settings,
    copied,
    drop_base,
    pick,
    short_names,
    sizes_at,
    target_names,
    without_prefix,
)
from minipeft.files.peft.options import check_options
from minipeft.methods.ia3 import IA3, InputScale
from minipeft.model.anatomy import Anatomy
from minipeft.model.sites import name_of

END = ".ia3_l"
KNOWN = {"feedforward_modules", "init_ia3_weights", "peft_type"}


def write_ia3(tuner) -> tuple[dict, dict[str, Tensor]]:
    """adapter_config.json and the tensors of an IA3 tuner."""
    tensors: dict[str, Tensor] = {}
    inputs = set()  # paths of the maps whose input is rescaled
    for place, patch in tuner.patches:
        key = f"{PREFIX}{place.path}{END}"
        if isinstance(patch, InputScale):
            inputs.add(place.path)
            tensors[key] = patch.l.detach()[None]  # (1, in)
        elif place.columns is None:
            tensors[key] = patch.l.detach()[:, None]  # (out, 1)
        else:
            if key not in tensors:
                tensors[key] = patch.l.new_ones(features(place.module)[1], 1)
            tensors[key] = tensors[key].clone()
            tensors[key][place.columns.to(patch.l.device), 0] = patch.l.detach()
    paths = list(dict.fromkeys(place.path for place, _ in tuner.patches))
    modules = short_names(tuner.anatomy, paths)
    ends = [name for name in modules if any(_is(path, name) for path in inputs)]
    # one short name may mean both kinds, since PEFT looks at the end of a path, dot or not
    if any(path.endswith(tuple(ends)) for path in paths if path not in inputs):
        modules, ends = paths, sorted(inputs)
    settings = common_settings(tuner, paths) | {
        "feedforward_modules": ends,
        "init_ia3_weights": True,
        "peft_type": "IA3",
        "target_modules": modules,
    }
    return settings, tensors | copied(tuner)


def read_ia3(
    settings: dict, tensors: dict[str, Tensor], anatomy: Anatomy, method: IA3 | None
) -> tuple[IA3, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off the tensors."""
    named = without_prefix(tensors, "IA3")
    drop_base(named, anatomy)
    vectors = pick(named, END)
    others = {key: value for key, value in named.items() if not key.endswith(END)}
    if not vectors:
        raise ValueError("The file has no ia3_l at all: it is no IA3 tuner.")
    inputs = {path for path, vector in vectors.items() if _reads(path, vector, anatomy)}
    if method is None:
        method = _method_from(settings, list(vectors), inputs, anatomy)
    values: dict[str, Tensor] = {}
    places = anatomy.find(method.targets, method.layers)
    odd = {p.path for p in places if (p.target in method.feedforward) != (p.path in inputs)}
    check_same_modules(vectors, [place for place in places if place.path not in odd])
    for place in places:
        vector = vectors[place.path].flatten()
        part = vector if place.columns is None else vector[place.columns]
        values[f"{name_of(place)}.l"] = part
    return method, {**values, **others}


def _is(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _reads(path: str, vector: Tensor, anatomy: Anatomy) -> bool:
    """True for a vector that multiplies the input of a map, (1, in); False for (out, 1)."""
    n_in, n_out = sizes_at(path, anatomy)
    if vector.shape not in (torch.Size([n_out, 1]), torch.Size([1, n_in])):
        raise ValueError(
            f"{path} maps {n_in} features to {n_out}, but the file has a vector "
            f"{tuple(vector.shape)}: it belongs to another base."
        )
    return vector.shape != (n_out, 1)


def _method_from(settings: dict, paths: list[str], inputs: set[str], anatomy: Anatomy) -> IA3:
    """An IA3 for exactly the modules that the file has tensors for."""
    check_options(settings, KNOWN, "IA3")
    targets = target_names(anatomy, paths)
    kinds = {name: {path in inputs for path in paths if _is(path, name)} for name in targets}
    if any(len(kind) > 1 for kind in kinds.values()):  # one short name would mean both kinds
        targets = tuple(paths)
        kinds = {path: {path in inputs} for path in paths}
    return IA3(targets=targets, feedforward=tuple(name for name in targets if True in kinds[name]))
