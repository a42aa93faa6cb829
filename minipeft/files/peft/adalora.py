"""AdaLoRA in 🤗 PEFT's layout.

PEFT stores `base_model.model.<module>.lora_A (r, in)`, `.lora_E (r, 1)` and `.lora_B (out, r)`:
Q, Lambda and P. Its config has, for a pruned file, which of the init_r triplets of each module are
left (`rank_pattern`, a list of booleans for each `<module>.lora_E`); the tensors have those only.

Parts of a fused projection are written as one AdaLoRA of all their triplets, P block by block, as
lora.py does it. A triplet of ours belongs to the part where its column of P is not zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.doors.layers import features
from minipeft.files.peft.common import (
    PREFIX,
    by_module,
    check_same_modules,
    check_shapes,
    common_settings,
    copied,
    drop_base,
    pick,
    short_names,
    target_names,
    whole,
    without_prefix,
)
from minipeft.files.peft.options import check_options, check_start
from minipeft.files.peft.renamed_maps import peft_reads_otherwise
from minipeft.methods.adalora import AdaLoRA
from minipeft.model.anatomy import Anatomy
from minipeft.model.sites import name_of

READ = {"alpha_pattern", "lora_alpha", "lora_dropout", "peft_type", "init_lora_weights"}
READ |= {"init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"}
READ |= {"r", "total_step", "use_rslora"}  # AdaLoRA does not look at these, nor at alpha_pattern
SMALL = 1e-5  # PEFT divides alpha by init_r + 1e-5


def write_adalora(tuner) -> tuple[dict, dict[str, Tensor]] | None:
    """adapter_config.json and the tensors of an AdaLoRA tuner; None where PEFT refuses a map."""
    method: AdaLoRA = tuner.method
    layers = by_module(tuner.patches)
    if peft_reads_otherwise(tuner, layers, "ADALORA"):
        return None
    init_r = method.init_rank * max(map(len, layers.values()))
    tensors, pattern = {}, {}
    for path, parts in layers.items():
        P, Lambda, Q = stack(parts)
        tensors[f"{PREFIX}{path}.lora_A"] = Q
        tensors[f"{PREFIX}{path}.lora_E"] = Lambda[:, None]
        tensors[f"{PREFIX}{path}.lora_B"] = P
        pattern[f"{path}.lora_E"] = [i < len(Lambda) for i in range(init_r)]
    warmup, final = (0 if n < 1 else int(n) for n in (method.warmup, method.final))
    settings = common_settings(tuner, layers) | {
        "beta1": method.betas[0],
        "beta2": method.betas[1],
        "bias": "none",
        "deltaT": method.every,
        "init_lora_weights": True,
        "init_r": init_r,
        "lora_alpha": whole(tuner.patches[0][1].scale * (init_r + SMALL)),
        "lora_dropout": method.dropout,
        "orth_reg_weight": method.orthogonality,
        "peft_type": "ADALORA",
        "rank_pattern": None if all(map(all, pattern.values())) else pattern,
        "target_modules": short_names(tuner.anatomy, list(layers)),
        "target_r": method.target_rank * max(map(len, layers.values())),
        "tfinal": final,
        "tinit": warmup,
        "total_step": warmup + final + 1,  # PEFT wants some number here that leaves a step between
    }
    return settings, tensors | copied(tuner)


def stack(parts: list) -> tuple[Tensor, Tensor, Tensor]:
    """P (out, r), Lambda (r,), Q (r, in) that do what the patches on parts do together."""
    place, patch = parts[0]
    if place.columns is None:
        return patch.P.detach(), patch.Lambda.detach(), patch.Q.detach()
    Lambda = torch.cat([patch.Lambda.detach() for _, patch in parts])
    Q = torch.cat([patch.Q.detach() for _, patch in parts])
    P = Q.new_zeros(features(place.module)[1], len(Q))
    begin = 0
    for place, patch in parts:
        end = begin + len(patch.Lambda)
        P[place.columns.to(P.device), begin:end] = patch.P.detach()
        begin = end
    return P, Lambda, Q


def read_adalora(
    settings: dict, tensors: dict[str, Tensor], anatomy: Anatomy, method: AdaLoRA | None
) -> tuple[AdaLoRA, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off PEFT's settings."""
    named = without_prefix(tensors, "AdaLoRA")
    drop_base(named, anatomy)
    Q, Lambda, P = (pick(named, f".lora_{letter}") for letter in "AEB")
    values = {key: value for key, value in named.items() if ".lora_" not in key}
    odd = sorted((set(Q) | set(Lambda) | set(P)) - (set(Q) & set(Lambda) & set(P)))
    if odd or not Q or len(values) + 3 * len(Q) != len(named):
        which = odd[0] if odd else next((k for k in named if ".lora_" in k), "the file")
        raise ValueError(f"The file is no AdaLoRA: {which} has no meaning or lacks a partner.")
    for path in Q:
        check_shapes(path, Q[path], P[path], anatomy)
        if Lambda[path].shape != (len(Q[path]), 1):
            raise ValueError(f"{path} has {len(Q[path])} triplets but another number of lora_E.")
    method = method or _method_from(settings, Q, anatomy)
    places = anatomy.find(method.targets, method.layers)
    check_same_modules(Q, places)
    for place in places:
        path, key = place.path, name_of(place)
        fused = place.columns is not None
        P_part = P[path][place.columns] if fused else P[path]  # (out of this part, r)
        used = torch.ones(P_part.shape[1], dtype=torch.bool)  # the triplets of this part: (r,)
        if fused:
            used = (P_part != 0).any(0)
        values[f"{key}.P"] = P_part[:, used]
        values[f"{key}.Lambda"] = Lambda[path][used, 0]
        values[f"{key}.Q"] = Q[path][used]
    return method.import_state(values)


def _method_from(settings: dict, Q: dict[str, Tensor], anatomy: Anatomy) -> AdaLoRA:
    """An AdaLoRA for exactly the modules that the file has tensors for, scaled as PEFT would."""
    check_options(settings, READ | {"rank_pattern"}, "AdaLoRA")
    check_start(settings.get("init_lora_weights"))
    init_r, pattern = settings.get("init_r"), settings.get("rank_pattern") or {}
    for path, tensor in Q.items():
        left = pattern.get(f"{path}.lora_E") if isinstance(pattern, dict) else False
        if left is not None and not isinstance(left, list):
            raise ValueError("adapter_config.json has a rank_pattern that is no dict of lists.")
        expected = init_r if left is None else sum(map(bool, left))
        if expected != len(tensor):
            raise ValueError(
                f"{path} has {len(tensor)} triplets in the tensors, but adapter_config.json says "
                f"{expected}: the two files do not belong together."
            )
    try:
        return AdaLoRA(
            init_rank=init_r,
            target_rank=min(settings["target_r"], init_r),
            alpha=settings["lora_alpha"],
            targets=target_names(anatomy, list(Q)),
            dropout=settings.get("lora_dropout") or 0.0,
            warmup=settings.get("tinit") or 0,
            final=settings.get("tfinal") or 0,
            every=settings.get("deltaT") or 1,
            betas=(settings.get("beta1", 0.85), settings.get("beta2", 0.85)),
            orthogonality=settings.get("orth_reg_weight", 0.5),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"adapter_config.json lacks a number ({error}).") from None
