"""VeRA in 🤗 PEFT's layout.

    base_model.model.<module>.vera_lambda_d (r,), .vera_lambda_b (out,)      of every linear map
    base_model.vera_A (r, in), base_model.vera_B (out, r)                    unless save_projection
                                                                             is False

Either library draws the same A and B from the same `projection_prng_key`, ours being `seed`. PEFT
has one d and one b for the whole of a fused map, so VeRAs on parts of it have a layout of our own.
"""

from __future__ import annotations

from torch import Tensor

from minipeft.files.peft.common import (
    BASE,
    PREFIX,
    by_module,
    check_same_modules,
    common_settings,
    copied,
    drop_base,
    pop_ending,
    short_names,
    sizes_at,
    target_names,
    without_prefix,
)
from minipeft.files.peft.options import check_options
from minipeft.methods.vera import VeRA
from minipeft.model.anatomy import Anatomy
from minipeft.model.sites import name_of

D, B = ".vera_lambda_d", ".vera_lambda_b"
SHARED = ("vera_A", "vera_B")
KNOWN = {"peft_type", "r", "vera_dropout", "d_initial", "init_weights"}
KNOWN |= {"projection_prng_key", "save_projection"}


def write_vera(tuner) -> tuple[dict, dict[str, Tensor]] | None:
    """adapter_config.json and the tensors; None where parts of fused maps are adapted."""
    method: VeRA = tuner.method
    if any(place.columns is not None for place, _ in tuner.patches):
        return None
    tensors: dict[str, Tensor] = {}
    for place, patch in tuner.patches:
        tensors[f"{PREFIX}{place.path}{D}"] = patch.d.detach()
        tensors[f"{PREFIX}{place.path}{B}"] = patch.b.detach()
    if method.store_matrices:
        matrices = tuner.patches[0][1].matrices
        tensors |= {f"{BASE}vera_A": matrices.A, f"{BASE}vera_B": matrices.B}
    paths = list(by_module(tuner.patches))
    settings = common_settings(tuner, paths) | {
        "bias": "none",
        "d_initial": method.initial,
        "init_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "peft_type": "VERA",
        "projection_prng_key": method.seed,
        "r": method.rank,
        "save_projection": method.store_matrices,
        "target_modules": short_names(tuner.anatomy, paths),
        "vera_dropout": method.dropout,
    }
    return settings, tensors | copied(tuner)


def read_vera(
    settings: dict, tensors: dict[str, Tensor], anatomy: Anatomy, method: VeRA | None
) -> tuple[VeRA, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off the settings."""
    tensors = dict(tensors)
    shared = {name: tensors.pop(BASE + name) for name in SHARED if BASE + name in tensors}
    named = without_prefix(tensors, "VeRA")
    drop_base(named, anatomy)
    d, b = pop_ending(named, D), pop_ending(named, B)
    if not d or set(d) != set(b):
        which = min(set(d) ^ set(b), default="vera_lambda_d")
        raise ValueError(f"The file is no whole VeRA: {which} is missing, or has no partner.")
    if len(shared) == 1:
        raise ValueError(f"The file has {min(shared)} without its partner: it is incomplete.")
    method = method or _method_from(settings, list(d), bool(shared), anatomy)
    if method.store_matrices != bool(shared):
        raise ValueError(
            "The file's settings and its tensors do not agree on whether vera_A and vera_B are "
            "stored (save_projection): the two files do not belong together."
        )
    places = anatomy.find(method.targets, method.layers)
    check_same_modules(d, places)
    for path in d:
        n_out = sizes_at(path, anatomy)[1]
        if d[path].shape != (method.rank,) or b[path].shape != (n_out,):
            raise ValueError(
                f"{path} needs vectors of {method.rank} and {n_out} numbers, but the file has "
                f"{tuple(d[path].shape)} and {tuple(b[path].shape)}: it belongs to another base."
            )
    values = dict(named)
    for place in places:
        values |= {f"{name_of(place)}.d": d[place.path], f"{name_of(place)}.b": b[place.path]}
    for name, matrix in shared.items():
        values[f"{name_of(places[0])}.matrices.{name[-1]}"] = matrix
    return method, values


def _method_from(settings: dict, paths: list[str], stored: bool, anatomy: Anatomy) -> VeRA:
    """A VeRA for exactly the modules that the file has tensors for."""
    check_options(settings, KNOWN, "VeRA")
    if settings.get("save_projection", True) and not stored:
        raise ValueError("The file lacks vera_A and vera_B, which its settings say it stores.")
    return VeRA(
        rank=settings.get("r"),
        targets=target_names(anatomy, paths),
        seed=settings.get("projection_prng_key") or 0,
        initial=settings.get("d_initial") or 0.1,
        dropout=settings.get("vera_dropout") or 0.0,
        store_matrices=stored,
    )
