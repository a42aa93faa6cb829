"""LoRA on linear maps, in 🤗 PEFT's layout; lora_parts.py reads and writes the whole file.

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

DoRA has `.lora_magnitude_vector (out,)` besides; rows of other parts keep the length they have.
PiSSA is written as a LoRA of rank 2 r, A above A0 and B beside -B0, as PEFT converts it. A PiSSA
of PEFT's that was not converted opens too: A0 and B0 are computed from the base, as they are there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minipeft.doors.layers import features, is_transposed
from minipeft.doors.weights import Frozen
from minipeft.files.peft.common import (
    PREFIX,
    base_value,
    by_module,
    by_pattern,
    check_same_modules,
    check_shapes,
    pick,
    target_names,
    value_of,
    whole,
)
from minipeft.methods.dora import DoRA, DoRAPatch
from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.lora_bias import LoRABias
from minipeft.methods.parts.validation import shorten
from minipeft.methods.pissa import PiSSA, PiSSAPatch, principal
from minipeft.model.anatomy import Anatomy
from minipeft.model.sites import name_of

READ = {"alpha_pattern", "lora_alpha", "lora_dropout", "peft_type", "r", "rank_pattern"}
READ |= {"init_lora_weights", "use_dora", "use_rslora", "lora_bias", "bias"}
READ |= {"eva_config"}  # which vectors it started with
READ |= {"trainable_token_indices"}  # see lora_parts.py
ENDS = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")


def write_maps(patches: list, rank_stabilized: bool) -> tuple[dict[str, Tensor], dict, dict]:
    """(tensors, rank and alpha by path) of LoRAs on linear maps; patches: (place, patch) pairs."""
    tensors, ranks, alphas = {}, {}, {}
    for path, parts in by_module(patches).items():
        A, B, scale = stack(parts)
        tensors[f"{PREFIX}{path}.lora_A.weight"] = A
        tensors[f"{PREFIX}{path}.lora_B.weight"] = B
        if isinstance(parts[0][1], DoRAPatch):
            tensors[f"{PREFIX}{path}.lora_magnitude_vector"] = magnitudes(parts)
        ranks[path] = len(A)
        alphas[path] = whole(scale * (math.sqrt(len(A)) if rank_stabilized else len(A)))
    return tensors, ranks, alphas


def stack(parts: Sequence) -> tuple[Tensor, Tensor, float]:
    """(A, B, scale) of one LoRA that does what the patches on parts of a projection do together."""
    place, patch = parts[0]
    scale = patch.scale
    if place.columns is None:
        return *factors(patch), scale
    A = torch.cat([factors(patch)[0] for _, patch in parts])  # (r1 + r2, in)
    B = A.new_zeros(features(place.module)[1], len(A))  # (out, r1 + r2)
    begin = 0
    for place, patch in parts:
        B_part = factors(patch)[1]
        end = begin + B_part.shape[1]
        columns = place.columns.to(A.device)  # output features of this part = rows of B
        B[columns, begin:end] = B_part * (patch.scale / scale)
        begin = end
    return A, B, scale


def factors(patch: LoRAPatch) -> tuple[Tensor, Tensor]:
    """A and B of the plain LoRA that does what this patch does."""
    A, B = patch.A.detach(), patch.B.detach()
    if isinstance(patch, PiSSAPatch):
        return torch.cat([A, patch.A0]), torch.cat([B, -patch.B0], dim=1)
    return A, B


def magnitudes(parts: Sequence) -> Tensor:
    """DoRA's lengths of all rows of a projection: (out,)."""
    place, patch = parts[0]
    if place.columns is None:
        return patch.m.detach()
    W = Frozen(patch.frozen.door)().to(patch.m.dtype)  # of all parts: (out, in)
    lengths = torch.linalg.vector_norm(W, dim=1)
    for place, patch in parts:
        lengths[place.columns.to(lengths.device)] = patch.m.detach()
    return lengths


def read_maps(
    settings: dict, named: dict[str, Tensor], anatomy: Anatomy, method: LoRA | None
) -> tuple[LoRA, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off PEFT's settings.

    named: A, B and lengths of linear maps, and layers of trained heads, by the base's names.
    """
    A, B, m = (pick(named, end) for end in ENDS)
    others = {key: value for key, value in named.items() if ".lora_" not in key}
    unknown = [key for key in named if ".lora_" in key and not key.endswith(ENDS)]
    if unknown or set(A) != set(B) or not A:
        which = unknown or sorted(set(A) ^ set(B)) or ["a LoRA tensor"]
        raise ValueError(f"The file is not a plain LoRA: {which[0]} has no meaning or no partner.")
    for path in A:
        check_shapes(path, A[path], B[path], anatomy)
    ours = method is not None
    method = method or _method_from(settings, A, anatomy)
    foreign_pissa = isinstance(method, PiSSA) and not ours
    odd = sorted(set(m) ^ (set(A) if isinstance(method, DoRA) else set()))
    if odd:
        has = "has a" if odd[0] in m else "has no"
        raise ValueError(
            f"The file is a {type(method).__name__} by its settings, but {odd[0]} {has} "
            "lora_magnitude_vector: the two files do not belong together."
        )
    values: dict[str, Tensor] = {}
    places = anatomy.find(method.targets, method.layers)
    if method.means_all() and not method.layers and {place.path for place in places} > set(A):
        method = replace(method, targets=target_names(anatomy, list(A)))  # older: it knew fewer
        places = anatomy.find(method.targets)
    check_same_modules(A, places)
    by_path: dict[str, list] = {}
    for place in places:
        by_path.setdefault(place.path, []).append(place)
    for path, places in by_path.items():
        if foreign_pissa:  # A and B are for a base without its principal part, which is not ours
            weight = _weight(anatomy, places[0].module).to(A[path].device)
            A0, B0 = principal(weight, *rank_and_scale(places[0], method))
            A[path], B[path] = torch.cat([A[path], A0]), torch.cat([B[path], -B0], dim=1)
        values |= _unstack(places, A[path], B[path], method)
        for place in places if path in m else ():
            values[f"{name_of(place)}.m"] = (
                m[path] if place.columns is None else m[path][place.columns]
            )
    return method, {**values, **others}


def _unstack(places: list, A: Tensor, B: Tensor, method: LoRA) -> dict[str, Tensor]:
    """The tensors of the patches at the parts of a map, by our names; undoes `stack`."""
    values, begin, first = {}, 0, None
    for place in places:
        rank, scale = rank_and_scale(place, method)
        first = first or scale
        end = begin + (2 * rank if isinstance(method, PiSSA) else rank)
        A_part, B_part = A[begin:end], B[:, begin:end]
        if place.columns is not None:
            B_part = B_part[place.columns] * (first / scale)
        key = name_of(place)
        values |= {f"{key}.A": A_part[:rank], f"{key}.B": B_part[:, :rank]}
        if isinstance(method, PiSSA):
            values |= {f"{key}.A0": A_part[rank:], f"{key}.B0": -B_part[:, rank:]}
        begin = end
    return values


def rank_and_scale(place, method: LoRA) -> tuple[int, float]:
    """Of the patch at this place."""
    rank = value_of(method.ranks, place, method.rank)
    alpha = value_of(method.alphas, place, method.alpha)
    return rank, alpha / (math.sqrt(rank) if method.rank_stabilized else rank)


def _method_from(settings: dict, A: dict[str, Tensor], anatomy: Anatomy) -> LoRA:
    """A LoRA for exactly the modules that the file has tensors for, scaled as PEFT would."""
    start = settings.get("init_lora_weights")
    ranks, alphas = patterns(settings, {path: len(tensor) for path, tensor in A.items()})
    kind = DoRA if settings.get("use_dora") else PiSSA if start == "pissa" else LoRA
    biased = _bias_kind(settings)
    bias, kind = ({"bias": biased}, LoRABias) if biased else ({}, kind)
    try:
        return kind(
            rank=settings["r"],
            alpha=settings["lora_alpha"],
            targets=target_names(anatomy, list(A)),
            dropout=settings.get("lora_dropout") or 0.0,
            rank_stabilized=bool(settings.get("use_rslora")),
            ranks=ranks,
            alphas=alphas,
            **bias,
        )
    except TypeError:
        raise ValueError("adapter_config.json has words where numbers should be.") from None


def patterns(settings: dict, ranks: dict[str, int]) -> tuple[dict, dict]:
    """(ranks, alphas) of the modules that have others than the most; ranks: of the tensors."""
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise ValueError(
            f"adapter_config.json has r={rank!r} and lora_alpha={alpha!r}, no numbers."
        )
    for path, r in ranks.items():
        expected = by_pattern(settings.get("rank_pattern"), path, rank)
        if expected != r:
            raise ValueError(
                f"{path} has rank {r} in the tensors, but adapter_config.json says "
                f"{expected}: the two files do not belong together."
            )
    alphas = {path: by_pattern(settings.get("alpha_pattern"), path, alpha) for path in ranks}
    for path, a in alphas.items():
        if not isinstance(a, int | float) or a <= 0:
            raise ValueError(
                f"LoRA's alpha must be a positive number, not {a!r}, which adapter_config.json has "
                f"for {path} (lora_alpha, alpha_pattern): open the file with PEFT."
            )
    return (
        {path: r for path, r in ranks.items() if r != rank},
        {path: a for path, a in alphas.items() if a != alpha},
    )


def _bias_kind(settings: dict) -> str | None:
    """LoRABias' word for the settings lora_bias and bias; None for a plain LoRA."""
    bias = settings.get("bias") or "none"
    if bias not in ("none", "all", "lora_only"):
        raise ValueError(f"The file sets bias={shorten(bias)}, which PEFT does not know either.")
    kinds = {"all": "all", "lora_only": "adapted"}
    return "detour" if settings.get("lora_bias") else kinds.get(bias)


def _weight(anatomy: Anatomy, linear) -> Tensor:
    """The base's (out, in), whichever way the layer keeps it."""
    weight = base_value(anatomy, linear.weight)
    return weight.T if is_transposed(linear) else weight
