"""A file of 🤗 PEFT's type LORA: on linear maps (lora.py), and what PEFT puts beside it.

    <map>.lora_A.weight, .lora_B.weight                  LoRA, DoRA, PiSSA
    <map>.lora_B.bias                                    lora_bias=True      LoRABias("detour")
    <map>.base_layer.bias, <module>.bias                 bias="lora_only"    LoRABias("adapted")
                                                         bias="all"          LoRABias("all")
    <embedding>.lora_embedding_A (r, V), _B (C, r)       LoRAEmbedding
    <embedding>.token_adapter.trainable_tokens_delta     TokenRows: the rows (n, C) themselves
    <embedding or head>.base_layer.weight                the base's, which must be this base's

A file with several of them is a Combined of these methods. Biases of the base are stored whole by
PEFT, and as a difference here.
"""

from __future__ import annotations

import warnings
from collections import Counter

import torch
from torch import Tensor

from minipeft.doors.layers import features
from minipeft.files.peft.common import (
    PREFIX,
    ROWS_AT,
    base_value,
    by_module,
    common_settings,
    copied,
    drop_base,
    pick,
    pop_ending,
    short_names,
    stands_twice,
    whole,
    without_prefix,
)
from minipeft.files.peft.lora import READ, patterns, rank_and_scale, read_maps, write_maps
from minipeft.files.peft.options import OPEN, check_options, check_start, check_together
from minipeft.files.peft.renamed_maps import read_otherwise
from minipeft.files.peft.token_rows import (
    DELTA,
    biased_head,
    check_rows,
    embeddings_of,
    indices,
    token_table,
)
from minipeft.methods.bitfit import BiasPatch
from minipeft.methods.combined import Combined
from minipeft.methods.dora import DoRA
from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.lora_bias import LoRABias, LoRABiasPatch
from minipeft.methods.lora_embedding import LoRAEmbedding, LoRAEmbeddingPatch
from minipeft.methods.parts.tied_embedding import TiedEmbeddingPatch
from minipeft.methods.parts.validation import shorten
from minipeft.methods.pissa import PiSSA
from minipeft.methods.qlora import QLoRA
from minipeft.methods.token_rows import TokenRows, TokenRowsPatch
from minipeft.model.anatomy import Anatomy
from minipeft.model.sites import name_of

ROWS = f"{ROWS_AT}{DELTA}"
MAPS = (LoRA, DoRA, PiSSA, QLoRA, LoRABias)


def write_lora(tuner) -> tuple[dict, dict[str, Tensor]] | None:
    """adapter_config.json and the tensors; None for a Combined that PEFT has no file for."""
    methods = parts_of(tuner.method)
    if not methods:
        return None
    maps, tables, rows = (
        [pair for pair in tuner.patches if isinstance(pair[1], kind)]
        for kind in (LoRAPatch, LoRAEmbeddingPatch, TokenRowsPatch)
    )
    tied = (p.first[0] for _, p in tuner.patches if isinstance(p, TiedEmbeddingPatch))
    if any(isinstance(patch, LoRAEmbeddingPatch) for patch in tied):
        return None  # PEFT gives each embedding its own A and B
    if any(biased_head(tuner.anatomy, place) for place, _ in rows):
        return None
    if any(stands_twice(tuner.anatomy, place.module) for place, _ in tables + rows):
        return None
    if read_otherwise(tuner, [place.path for place, _ in maps]):
        return None
    first = methods.get("maps") or methods["tables"]
    tensors, ranks, alphas = write_maps(maps, first.rank_stabilized)
    for place, patch in tables:
        tensors[f"{PREFIX}{place.path}.lora_embedding_A"] = patch.A.detach()
        tensors[f"{PREFIX}{place.path}.lora_embedding_B"] = patch.B.detach()
        r = ranks[place.path] = len(patch.A)
        alphas[place.path] = whole(patch.scale * (r**0.5 if first.rank_stabilized else r))
    ids = {token_table(tuner, place): patch for place, patch in rows}
    tensors |= {f"{PREFIX}{path}{ROWS}": patch.rows.detach() for path, patch in ids.items()}
    tensors |= write_biases(tuner)
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    kind = getattr(first, "bias", None)
    # settings that PEFT has had since 2024, so that older versions open it too
    settings = common_settings(tuner, by_module(maps)) | {
        "alpha_pattern": {path: a for path, a in alphas.items() if a != alpha},
        "bias": {"adapted": "lora_only", "all": "all"}.get(kind, "none"),
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_dropout": first.dropout,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "target_modules": short_names(tuner.anatomy, list(ranks)),
        "use_dora": isinstance(first, DoRA),
        "use_rslora": first.rank_stabilized,
    }
    if kind == "detour":
        settings["lora_bias"] = True
    if rows:
        settings["trainable_token_indices"] = {path: p.ids.tolist() for path, p in ids.items()}
    return settings, tensors | copied(tuner)


def parts_of(method) -> dict[str, object]:
    """The parts that a file of PEFT's can have: "maps", "tables", "rows"; empty for any others."""
    kinds = {TokenRows: "rows", LoRAEmbedding: "tables"} | dict.fromkeys(MAPS, "maps")
    methods = method.methods if isinstance(method, Combined) else (method,)
    parts = {kinds.get(type(part)): part for part in methods}
    if None in parts or len(parts) < len(methods) or not {"maps", "tables"} & set(parts):
        return {}
    if {"maps", "tables"} <= set(parts):
        maps, tables = parts["maps"], parts["tables"]
        plain = type(maps) in (LoRA, LoRABias) and getattr(maps, "bias", "") != "detour"
        if not plain or maps.rank_stabilized != tables.rank_stabilized:
            return {}
    return parts


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
            tensors[f"{PREFIX}{path}.base_layer.bias"] = (
                tuner.record.originals.value(place.module.bias) + b
            )
    for place, patch in tuner.patches:
        if isinstance(patch, BiasPatch):
            value = tuner.record.originals.value(place.module.bias) + patch.d.detach()
            for path in names[place.module.bias]:
                tensors[f"{PREFIX}{path}.bias"] = value.clone()
    return tensors


def read_lora(
    settings: dict, tensors: dict[str, Tensor], anatomy: Anatomy, method
) -> tuple[object, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off PEFT's settings."""
    named = without_prefix(tensors, "LoRA")
    if method is None:
        check_options(settings, READ, "LoRA")
        check_start(settings.get("init_lora_weights"))
        if settings.get("init_lora_weights") == "mica":
            warnings.warn(
                "The file was started with init_lora_weights='mica', where PEFT trains A alone: it "
                "answers the same here, and if it is trained on here, B trains as well.",
                UserWarning,
                stacklevel=3,
            )
        check_together(settings, any(key.endswith(".lora_embedding_A") for key in named))
        if settings.get("trainable_token_indices") and not any(key.endswith(ROWS) for key in named):
            raise ValueError(
                "adapter_config.json has trainable_token_indices, and the file has no rows of any "
                "tokens: it is incomplete, save it anew with PEFT."
            )
    known = parts_of(method) if method else {}
    rows = pop_ending(named, ROWS)
    firsts = embeddings_of(rows, anatomy)
    ids = {path: indices(settings, first, anatomy) for path, first in firsts.items()}
    drop_base(named, anatomy, ids)
    rows = {path: rows[path] for path in firsts.values()}
    tables = take_tables(named)
    biases = take_biases(named, settings, anatomy)
    parts, values = [], {}
    if any(".lora_" in key for key in named) or not tables:
        part, read = read_maps(settings, named, anatomy, known.get("maps"))
        parts.append(part)
        values |= read | read_biases(part, biases, anatomy)
    elif biases:
        raise ValueError(
            f"The file sets bias={shorten(settings.get('bias'))} and adapts embeddings alone: the "
            f"biases that it trains, of {min(biases)} for one, are known beside linear maps only, "
            f"{OPEN}."
        )
    else:
        values |= named
    if tables:
        part, read = read_tables(settings, tables, anatomy, known.get("tables"))
        parts.append(part)
        values |= read
    adapted = {key.partition(".lora_")[0] for key in named if ".lora_" in key}
    for path, tensor in rows.items():
        if method is None:
            check_rows(path, adapted, anatomy, "trainable_token_indices")
        part = known.get("rows") or TokenRows(ids[path], path)
        parts.append(part)
        values[f"{name_of(anatomy.tables((part.target,))[0])}.rows"] = tensor
    return method or (parts[0] if len(parts) == 1 else Combined(tuple(parts))), values


def take_tables(named: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Path of an embedding -> (A, B)."""
    A, B = pop_ending(named, ".lora_embedding_A"), pop_ending(named, ".lora_embedding_B")
    if set(A) != set(B):
        raise ValueError(f"{min(set(A) ^ set(B))} has an A without B, or a B without A.")
    return {path: (A[path], B[path]) for path in A}


def read_tables(
    settings: dict, tables: dict, anatomy: Anatomy, method: LoRAEmbedding | None
) -> tuple[LoRAEmbedding, dict[str, Tensor]]:
    """(method, values by our names) of the LoRAs on embeddings.

    tables: path -> its A (r, V) and B (C, r).

    Raises:
        ValueError: a path is no embedding of this model, or has other shapes.
    """
    for path, (A, B) in tables.items():
        table = anatomy.modules.get(path)
        if not isinstance(table, torch.nn.Embedding):
            raise ValueError(f"The file adapts {path}, which is no embedding of this model.")
        if (A.shape[1], B.shape[0]) != tuple(table.weight.shape) or len(A) != B.shape[1]:
            raise ValueError(
                f"{path} has shape {tuple(table.weight.shape)}, but the file has A "
                f"{tuple(A.shape)} and B {tuple(B.shape)}: it belongs to another base."
            )
        if stands_twice(anatomy, table):
            raise ValueError(
                f"{path} stands in several places of this model, of which PEFT adapts one: open "
                "the file with PEFT."
            )
    if method is None:
        ranks, alphas = patterns(settings, {path: len(A) for path, (A, _) in tables.items()})
        method = LoRAEmbedding(
            rank=settings["r"],
            alpha=settings["lora_alpha"],
            targets=tuple(tables),
            rank_stabilized=bool(settings.get("use_rslora")),
            ranks=ranks,
            alphas=alphas,
        )
    values = {}
    for place in anatomy.tables(method.targets):
        A, B = tables[place.path]
        values |= {f"{name_of(place)}.A": A, f"{name_of(place)}.B": B}
    return method, values


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
    """Biases as differences, by our names."""
    if not isinstance(method, LoRABias):
        if biases:
            raise ValueError(
                f"The file has a bias of {min(biases)}, which its settings do not mention."
            )
        return {}
    values, names, read, scales = {}, anatomy.uses(), set(), {}
    places = anatomy.find(method.targets, method.layers)
    adapted = {place.path for place in places}
    for place in places:
        key, columns = name_of(place), slice(None) if place.columns is None else place.columns
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
        difference = biases[path].to(place.module.weight.device) - base
        values[f"{key}.b"] = difference[columns] * factor
        read.add(path)
    for place in anatomy.biased(True, True) if method.bias == "all" else ():
        if place.path not in adapted:
            base = base_value(anatomy, place.module.bias)
            shared = [path for path in names[place.module.bias] if path in biases]
            values[f"{name_of(place)}.d"] = (
                biases[shared[0]].to(base.device) if shared else base
            ) - base
            read.update(shared)
    for path, bias in biases.items():
        if path in read:
            continue
        base = getattr(anatomy.modules.get(path), "bias", None)
        if (
            base is None
            or base.shape != bias.shape
            or not torch.equal(base_value(anatomy, base).to(bias), bias)
        ):
            raise ValueError(
                f"The file trains the bias of {path}, which is no bias of a linear map or a layer "
                "norm of this model outside of its head."
            )
    return values
