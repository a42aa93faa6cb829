"""A file of 🤗 PEFT's type LORA: what it is made of, and how the parts come together.

    <map>.lora_A.weight, .lora_B.weight                  LoRA, DoRA, PiSSA: lora_maps.py
    <map>.lora_B.bias, <module>.bias and others          LoRABias: lora_biases.py
    <embedding>.lora_embedding_A (r, V), _B (C, r)       LoRAEmbedding
    <embedding>.token_adapter.trainable_tokens_delta     TokenRows: the rows (n, C) themselves
    <embedding or head>.base_layer.weight                the base's, which must be this base's

A file with several of them is a Combined of these methods.
"""

from __future__ import annotations

import warnings
from collections import Counter

import torch
from torch import Tensor

from minipeft.files.peft.common import (
    PREFIX,
    ROWS_AT,
    by_module,
    common_settings,
    copied,
    drop_base,
    pop_ending,
    short_names,
    stands_twice,
    whole,
    without_prefix,
)
from minipeft.files.peft.lora_biases import read_biases, take_biases, write_biases
from minipeft.files.peft.lora_maps import READ, patterns, read_maps, write_maps
from minipeft.files.peft.options import OPEN, check_options, check_start, check_together
from minipeft.files.peft.renamed_maps import peft_reads_otherwise
from minipeft.files.peft.token_rows import (
    DELTA,
    biased_head,
    check_rows,
    embeddings_of,
    indices,
    token_table,
)
from minipeft.methods.combined import Combined
from minipeft.methods.dora import DoRA
from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.lora_bias import LoRABias
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
    if peft_has_no_such(tuner, tables, rows):
        return None
    if peft_reads_otherwise(tuner, [place.path for place, _ in maps]):
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
    settings = common_settings(tuner, by_module(maps)) | lora_settings(first, ranks, alphas)
    settings["target_modules"] = short_names(tuner.anatomy, list(ranks))
    if rows:
        settings["trainable_token_indices"] = {path: p.ids.tolist() for path, p in ids.items()}
    return settings, tensors | copied(tuner)


def peft_has_no_such(tuner, tables: list, rows: list) -> bool:
    """Does PEFT train these embeddings, and rows of embeddings, otherwise than they are here?

    tables, rows: (place, patch) pairs.
    """
    tied = (p.first[0] for _, p in tuner.patches if isinstance(p, TiedEmbeddingPatch))
    if any(isinstance(patch, LoRAEmbeddingPatch) for patch in tied):
        return True  # PEFT gives each embedding its own A and B
    if any(biased_head(tuner.anatomy, place) for place, _ in rows):
        return True
    return any(stands_twice(tuner.anatomy, place.module) for place, _ in tables + rows)


def lora_settings(first, ranks: dict[str, int], alphas: dict[str, float]) -> dict:
    """What adapter_config.json says of a LoRA; ranks, alphas: by path.

    first: the method on linear maps, or on embeddings where there is none on maps.
    """
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    bias = getattr(first, "bias", None)
    # settings that PEFT has had since 2024, so that older versions open it too
    settings = {
        "alpha_pattern": {path: a for path, a in alphas.items() if a != alpha},
        "bias": {"adapted": "lora_only", "all": "all"}.get(bias, "none"),
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
        "use_dora": isinstance(first, DoRA),
        "use_rslora": first.rank_stabilized,
    }
    return settings | ({"lora_bias": True} if bias == "detour" else {})


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


def read_lora(
    settings: dict, tensors: dict[str, Tensor], anatomy: Anatomy, method
) -> tuple[object, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off PEFT's settings."""
    named = without_prefix(tensors, "LoRA")
    if method is None:
        check_settings(settings, named)
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
    else:
        check_no_biases(biases, settings)
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


def check_settings(settings: dict, named: dict[str, Tensor]) -> None:
    """The settings of a file of PEFT's own must be known; warn of one that matters in training.

    Raises:
        ValueError: one is not known, alone or beside the others, or names tokens without rows.
    """
    check_options(settings, READ, "LoRA")
    check_start(settings.get("init_lora_weights"))
    if settings.get("init_lora_weights") == "mica":
        warnings.warn(
            "The file was started with init_lora_weights='mica', where PEFT trains A alone: it "
            "answers the same here, and if it is trained on here, B trains as well.",
            UserWarning,
            stacklevel=4,
        )
    check_together(settings, any(key.endswith(".lora_embedding_A") for key in named))
    if settings.get("trainable_token_indices") and not any(key.endswith(ROWS) for key in named):
        raise ValueError(
            "adapter_config.json has trainable_token_indices, and the file has no rows of any "
            "tokens: it is incomplete, save it anew with PEFT."
        )


def check_no_biases(biases: dict[str, Tensor], settings: dict) -> None:
    """Biases are known beside linear maps only, not where a file adapts embeddings alone."""
    if biases:
        raise ValueError(
            f"The file sets bias={shorten(settings.get('bias'))} and adapts embeddings alone: the "
            f"biases that it trains, of {min(biases)} for one, are known beside linear maps only, "
            f"{OPEN}."
        )


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
