"""Biases beside a LoRA, in 🤗 PEFT's layout; lora_parts.py reads and writes the whole file.

    <map>.lora_B.bias                          lora_bias=True      LoRABias("detour")
    <map>.base_layer.bias                      bias="lora_only"    LoRABias("adapted")
    <map>.base_layer.bias, <module>.bias       bias="all"          LoRABias("all")

PEFT stores biases of the base whole; here they are differences, b of an adapted map and d of any
other module.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.doors.layers import features
from minipeft.files.peft.common import PREFIX, base_value, by_module, pick, pop_ending
from minipeft.files.peft.lora_maps import rank_and_scale
from minipeft.methods.bitfit import BiasPatch
from minipeft.methods.lora import LoRA
from minipeft.methods.lora_bias import LoRABias, LoRABiasPatch
from minipeft.model.anatomy import Anatomy
from minipeft.model.sites import name_of


def write_biases(tuner) -> dict[str, Tensor]:
    """What LoRABias trains, by PEFT's names."""
    tensors, names = {}, tuner.anatomy.uses()
    maps = [pair for pair in tuner.patches if isinstance(pair[1], LoRABiasPatch)]
    for path, parts in by_module(maps).items():
        place, patch = parts[0]
        b = patch.b.new_zeros(features(place.module)[1])
        for part, inner in parts:
            columns = slice(None) if part.columns is None else part.columns.to(b.device)
            b[columns] = inner.b.detach() * (inner.bias_scale / patch.bias_scale)
        if patch.inside:
            tensors[f"{PREFIX}{path}.lora_B.bias"] = b
        else:
            first = tuner.record.first_value(place.module.bias)
            tensors[f"{PREFIX}{path}.base_layer.bias"] = first + b
    for place, patch in tuner.patches:
        if isinstance(patch, BiasPatch):
            value = tuner.record.first_value(place.module.bias) + patch.d.detach()
            for path in names[place.module.bias]:
                tensors[f"{PREFIX}{path}.bias"] = value.clone()
    return tensors


def take_biases(named: dict[str, Tensor], settings: dict, anatomy: Anatomy) -> dict[str, Tensor]:
    """Path -> bias, of what bias="all" or "lora_only" trained; nothing of a trained head."""
    if (settings.get("bias") or "none") == "none":
        return {f"{path}.lora_B": b for path, b in pop_ending(named, ".lora_B.bias").items()}
    biases = pop_ending(named, ".base_layer.bias")
    for path in pick(named, ".bias"):
        if f"{path}.weight" not in named:
            biases[path] = named.pop(f"{path}.bias")
    return biases


def read_biases(method: LoRA, biases: dict[str, Tensor], anatomy: Anatomy) -> dict[str, Tensor]:
    """Biases as differences, by our names.

    Raises:
        ValueError: one is missing, or there is one that the method does not train.
    """
    if not isinstance(method, LoRABias):
        if biases:
            raise ValueError(
                f"The file has a bias of {min(biases)}, which its settings do not mention."
            )
        return {}
    places = anatomy.find(method.targets, method.layers)
    values, read = at_adapted_maps(method, places, biases, anatomy)
    if method.bias == "all":
        others, read_too = at_other_modules({place.path for place in places}, biases, anatomy)
        values, read = values | others, read | read_too
    check_of_base({path: bias for path, bias in biases.items() if path not in read}, anatomy)
    return values


def at_adapted_maps(
    method: LoRABias, places: list, biases: dict[str, Tensor], anatomy: Anatomy
) -> tuple[dict[str, Tensor], set[str]]:
    """(the differences b of the maps with a LoRA, the names of the biases that they are of)."""
    values, read, scales = {}, set(), {}
    for place in places:
        factor = 1.0
        if method.bias == "detour":
            path, base = f"{place.path}.lora_B", 0.0
            scale = rank_and_scale(place, method)[1]
            factor = scales.setdefault(place.path, scale) / scale  # undoes `write_biases`
        elif place.module.bias is not None:
            path, base = place.path, base_value(anatomy, place.module.bias)
        else:
            continue
        if path not in biases:
            raise ValueError(f"The file lacks the bias of {path}: it is incomplete.")
        columns = slice(None) if place.columns is None else place.columns
        difference = biases[path].to(place.module.weight.device) - base
        values[f"{name_of(place)}.b"] = difference[columns] * factor
        read.add(path)
    return values, read


def at_other_modules(
    adapted: set[str], biases: dict[str, Tensor], anatomy: Anatomy
) -> tuple[dict[str, Tensor], set[str]]:
    """(the differences d of all other maps and norms, the names of the biases that they are of).

    adapted: paths of the maps with a LoRA.
    """
    values, names, read = {}, anatomy.uses(), set()
    for place in anatomy.biased(True, True):
        if place.path not in adapted:
            base = base_value(anatomy, place.module.bias)
            shared = [path for path in names[place.module.bias] if path in biases]
            whole = biases[shared[0]].to(base.device) if shared else base
            values[f"{name_of(place)}.d"] = whole - base
            read.update(shared)
    return values, read


def check_of_base(biases: dict[str, Tensor], anatomy: Anatomy) -> None:
    """Biases that no method here trains must be the base's as they are.

    Raises:
        ValueError: one is not.
    """
    for path, bias in biases.items():
        base = getattr(anatomy.modules.get(path), "bias", None)
        known = base is not None and base.shape == bias.shape
        if not known or not torch.equal(base_value(anatomy, base).to(bias), bias):
            raise ValueError(
                f"The file trains the bias of {path}, which is no bias of a linear map or a layer "
                "norm of this model outside of its head."
            )
