"""LoRA in 🤗 PEFT's layout.

PEFT stores `base_model.model.<module>.lora_A.weight (r, in)` and `.lora_B.weight (out, r)`, always
as a torch Linear would, and the layers of a trained head as `base_model.model.<layer>.weight`.

Parts of a fused projection. PEFT has one A and one B for the whole of GPT-2's c_attn. LoRA on its
query and value parts, ranks r1 and r2, is written as one LoRA of rank r1 + r2 that computes the
same: the A stacked, the B block by block, rows of the other parts zero,

    A = [A_q]  (r1 + r2, in)        B = [B_q  0 ]  (out, r1 + r2)
        [A_v]                           [ 0   0 ]   key
                                        [ 0  B_v]

with alpha raised so that the scale stays what it was. PEFT then gives the same logits, but if it
trains on, the zero blocks train as well. Parts of unequal scale have the ratio folded into B.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from minipeft.anatomy import Anatomy
from minipeft.doors import features, is_linear, is_transposed
from minipeft.layouts.common import (
    PREFIX,
    by_pattern,
    heads_to_save,
    pick,
    short_names,
    target_names,
    task_type,
    value_of,
    whole,
)
from minipeft.methods.lora import LoRA

# Settings that we read, and settings that decide nothing once the tensors are there. Every other
# setting that is on makes the file more than W0 x + scale B A x: it is refused, not misread.
READ = {"alpha_pattern", "lora_alpha", "lora_dropout", "peft_type", "r", "rank_pattern"}
READ |= {"init_lora_weights", "use_rslora"}
IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
}
# starts that subtract something from the base's weights, so that A and B fit a changed base only
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def write_lora(tuner) -> tuple[dict, dict[str, Tensor]]:
    """adapter_config.json and the tensors of a LoRA tuner."""
    method: LoRA = tuner.method
    layers: dict[str, list] = {}  # module -> [(place, patch)], several where parts are adapted
    for place, patch in tuner.places:
        layers.setdefault(place.path, []).append((place, patch))
    tensors, ranks, alphas = {}, {}, {}
    for path, parts in layers.items():
        A, B, scale = stack(parts)
        tensors[f"{PREFIX}{path}.lora_A.weight"] = A
        tensors[f"{PREFIX}{path}.lora_B.weight"] = B
        ranks[path] = len(A)
        alphas[path] = whole(scale * (math.sqrt(len(A)) if method.rank_stabilized else len(A)))
    for path, twin in tuner.copies.items():
        tensors |= {f"{PREFIX}{path}.{key}": t for key, t in twin.state_dict().items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    modules = [tuner.anatomy.modules[path] for path in layers]
    config = getattr(tuner.model, "config", None)
    settings = {  # the settings that PEFT has had since 2024, so that older versions open it too
        "alpha_pattern": {path: a for path, a in alphas.items() if a != alpha},
        "auto_mapping": None,
        "base_model_name_or_path": getattr(config, "_name_or_path", None) or None,
        "bias": "none",
        "fan_in_fan_out": any(map(is_transposed, modules)),
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_dropout": method.dropout,
        "modules_to_save": heads_to_save(tuner) or None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "revision": None,
        "target_modules": short_names(tuner.anatomy, list(layers)),
        "task_type": task_type(tuner),
        "use_dora": False,
        "use_rslora": method.rank_stabilized,
    }
    return settings, tensors


def stack(parts: Sequence) -> tuple[Tensor, Tensor, float]:
    """(A, B, scale) of one LoRA that does what the patches on parts of a projection do together."""
    place, patch = parts[0]
    if place.columns is None:
        return patch.A.detach(), patch.B.detach(), patch.scale
    scale = patch.scale
    A = torch.cat([patch.A.detach() for _, patch in parts])  # (r1 + r2, in)
    B = A.new_zeros(features(place.module)[1], len(A))  # (out, r1 + r2)
    begin = 0
    for place, patch in parts:
        end = begin + len(patch.A)
        columns = place.columns.to(A.device)  # output features of this part = rows of B
        B[columns, begin:end] = patch.B.detach() * (patch.scale / scale)
        begin = end
    return A, B, scale


def read_lora(
    settings: dict, tensors: dict[str, Tensor], anatomy: Anatomy, method: LoRA | None
) -> tuple[LoRA, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off PEFT's settings."""
    foreign = [key for key in tensors if not key.startswith(PREFIX)]
    if foreign:
        raise ValueError(f"The file has a tensor {foreign[0]}, which is none of PEFT's LoRA names.")
    named = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    A = pick(named, ".lora_A.weight")
    B = pick(named, ".lora_B.weight")
    others = {key: value for key, value in named.items() if ".lora_" not in key}
    unknown = [key for key in named if ".lora_" in key and not key.endswith(_ENDS)]
    if unknown or set(A) != set(B) or not A:
        which = unknown or sorted(set(A) ^ set(B)) or ["a LoRA tensor"]
        raise ValueError(f"The file is not a plain LoRA: {which[0]} has no meaning or no partner.")
    for path in A:
        check_shapes(path, A[path], B[path], anatomy)
    if method is None:
        method = _method_from(settings, A, anatomy)
    values: dict[str, Tensor] = {}
    by_path: dict[str, list] = {}
    for place in anatomy.find(method.targets, method.layers):
        by_path.setdefault(place.path, []).append(place)
    odd = sorted(set(A) ^ set(by_path))
    if odd:
        raise ValueError(f"The file's settings and its tensors differ in {odd[0]}: it is damaged.")
    for path, places in by_path.items():
        values |= _unstack(path, places, A[path], B[path], method)
    return method, {**values, **others}


_ENDS = (".lora_A.weight", ".lora_B.weight")


def _unstack(path: str, places: list, A: Tensor, B: Tensor, method: LoRA) -> dict[str, Tensor]:
    values, begin, first = {}, 0, None
    for place in places:
        key = f"{path}.{place.target.replace('.', '/')}"
        if place.columns is None:
            return {f"{key}.A": A, f"{key}.B": B}
        rank = value_of(method.ranks, place, method.rank)
        alpha = value_of(method.alphas, place, method.alpha)
        scale = alpha / (math.sqrt(rank) if method.rank_stabilized else rank)
        first = first or scale
        end = begin + rank
        values[f"{key}.A"] = A[begin:end]
        values[f"{key}.B"] = B[place.columns, begin:end] * (first / scale)
        begin = end
    return values


def _method_from(settings: dict, A: dict[str, Tensor], anatomy: Anatomy) -> LoRA:
    """A LoRA for exactly the modules that the file has tensors for, scaled as PEFT would."""
    for key, value in settings.items():
        if key not in READ | IGNORED and value and (key, value) != ("bias", "none"):
            raise ValueError(
                f"The file sets {key}={value!r}, a variant of LoRA that this version does not know."
            )
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
        raise ValueError(
            f"The file was started with init_lora_weights={start!r}, which changes the base: have "
            "it converted to a plain LoRA first (PEFT's path_initial_model_for_weight_conversion)."
        )
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise ValueError(
            f"adapter_config.json has r={rank!r} and lora_alpha={alpha!r}, no numbers."
        )
    ranks, alphas = {}, {}
    for path, tensor in A.items():
        expected = by_pattern(settings.get("rank_pattern"), path, rank)
        if expected != len(tensor):
            raise ValueError(
                f"{path} has rank {len(tensor)} in the tensors, but adapter_config.json says "
                f"{expected}: the two files do not belong together."
            )
        if len(tensor) != rank:
            ranks[path] = len(tensor)
        own = by_pattern(settings.get("alpha_pattern"), path, alpha)
        if own != alpha:
            alphas[path] = own
    try:
        return LoRA(
            rank=rank,
            alpha=alpha,
            targets=target_names(anatomy, list(A)),
            dropout=settings.get("lora_dropout") or 0.0,
            rank_stabilized=bool(settings.get("use_rslora")),
            ranks=ranks,
            alphas=alphas,
        )
    except TypeError:
        raise ValueError("adapter_config.json has words where numbers should be.") from None


def check_shapes(path: str, A: Tensor, B: Tensor, anatomy: Anatomy) -> None:
    """A (r, in) and B (out, r) must fit the linear map of this name."""
    module = anatomy.modules.get(path)
    if module is None or not is_linear(module):
        raise ValueError(
            f"The file adapts {path}, which is no linear map of this model{anatomy.near(path)}"
        )
    n_in, n_out = features(module)
    if A.dim() != 2 or B.dim() != 2 or A.shape[1] != n_in or B.shape != (n_out, A.shape[0]):
        raise ValueError(
            f"{path} maps {n_in} features to {n_out}, but the file has A {tuple(A.shape)} and B "
            f"{tuple(B.shape)}: it belongs to another base."
        )
