"""What a prefix can do beside being one: settings, starts at words, infix, 🤗 PEFT's ways, files.

`methods/prefix.py` has the prefix itself. Prefix, PTuningV2 and UniPELT share what stands here.

Shapes: P length, L layers, H key-value heads, D head width, C width, k hidden features of the MLP.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.memory import capture_keys_values
from minipeft.doors.words import insert
from minipeft.methods.parts.validation import (
    check_choice,
    check_flag,
    check_layers,
    check_names,
    check_number,
)
from minipeft.passes.call_arguments import takes
from minipeft.passes.word_placing import lies_in

KINDS = ("encoder", "decoder", "cross")  # of attention


# ---- settings ----


def check(method) -> None:
    """The settings of a Prefix, each by itself and beside the others.

    Raises:
        ValueError: one is impossible.
    """
    check_number(method, "length", "from 1", lambda n: n >= 1, whole=True)
    if method.hidden is not None:
        check_number(method, "hidden", "from 1, or None", lambda k: k >= 1, whole=True)
    if method.after is not None:
        check_number(method, "after", "from 0, or None", lambda i: i >= 0, whole=True)
    check_number(method, "dropout", "from 0 and below 1", lambda p: 0 <= p < 1)
    check_number(method, "std", "from 0", lambda s: 0 <= s < math.inf)
    check_flag(method, "keep_mlp", "embedding_only")
    check_choice(method, "position", ("prefix", "infix"))
    check_choice(method, "compatibility", ("minipeft", "peft"))
    check_layers(method)
    check_start(method)
    if method.where is not None:
        check_names(method, "where")
        for kind in method.where:
            if kind not in KINDS:
                raise ValueError(f"Prefix's where is any of {', '.join(KINDS)}, not {kind!r}.")
    if (method.position == "infix") != (method.after is not None):
        raise ValueError('Give `after`, a token\'s id, with position="infix", and only then.')
    whole = method.layers is None and method.where is None and method.position == "prefix"
    if not whole and (method.embedding_only or method.compatibility == "peft"):
        raise ValueError(
            'embedding_only and compatibility="peft" know no layers, where and infix: leave them '
            "out."
        )
    if method.embedding_only and (method.compatibility == "peft" or method.dropout):
        raise ValueError('embedding_only has neither dropout nor compatibility="peft".')


def check_start(method) -> None:
    """`start` must be a word or a text's ids."""
    start = method.start
    if start in ("random", "words"):
        return
    ids = tuple(start) if isinstance(start, list | tuple) else ()
    if not ids or len(ids) > method.length or not all(type(i) is int and i >= 0 for i in ids):
        raise ValueError(
            f'{type(method).__name__}\'s start must be "random", "words" or from 1 to '
            f"{method.length} ids of words, not {start!r}."
        )
    object.__setattr__(method, "start", ids)


def notes(method) -> list[str]:
    """Sentences for the report."""
    if method.compatibility != "peft":
        return []
    return [
        'compatibility="peft": positions move behind the prefix, layers share, and sliding '
        "windows leave it behind, as in 🤗 PEFT."
    ]


# ---- where ----


def kinds_of(anatomy, layers=None) -> dict[str, list]:
    """The attention layers of a model by kind: encoder, decoder, cross.

    Raises:
        ValueError: those of a kind differ in their heads, so that no prefix fits all of them.
    """
    sites = anatomy.attentions(layers)
    reading = {site.stack for site in sites if site.target == "cross memory"}
    by_kind: dict[str, list] = {}
    for site in sites:
        causal = site.stack in reading or anatomy.is_causal(site)
        kind = "cross" if site.target == "cross memory" else "decoder" if causal else "encoder"
        by_kind.setdefault(kind, []).append(site)
    for kind, every in by_kind.items():
        shapes = {(site.heads, site.head_width): site.layer for site in every}
        if len(shapes) > 1:
            (H, D), (other_H, other_D) = list(shapes)[:2]
            raise ValueError(
                f"The {kind} layers of this model differ in their key-value heads, {H} of width "
                f"{D} and {other_H} of width {other_D}: name layers that are alike, layers=(...)."
            )
    return by_kind


def groups(method, tuner) -> list[tuple[list, list[int], int]]:
    """The attention layers that share one R: [(their sites, each one's share of R, shares in all)].

    Raises:
        ValueError: the model lacks the layers that the method names.
    """
    by_kind = kinds_of(tuner.anatomy, method.layers)
    if method.compatibility == "peft":
        return groups_of_peft(by_kind, tuner.anatomy.is_encoder_decoder())
    missing = [kind for kind in method.where or () if kind not in by_kind]
    if missing:
        raise ValueError(f"This model has no {missing[0]} attention, only {', '.join(by_kind)}.")
    if method.position == "infix" and [*by_kind] != ["decoder"]:
        raise ValueError('position="infix" needs a decoder that reads x and y in one row.')
    chosen = [by_kind[kind] for kind in method.where or by_kind]
    return [(sites, list(range(len(sites))), len(sites)) for sites in chosen]


# ---- as 🤗 PEFT does ----


def groups_of_peft(by_kind: dict[str, list], pair: bool) -> list[tuple[list, list[int], int]]:
    """PEFT hands the prefix over as a cache, which self-attention reads. An encoder-decoder has it
    in the decoder only, with rows for as many layers as the encoder has; layer i reads 2i mod L.
    """
    if not pair:
        chosen = [sites for kind, sites in by_kind.items() if kind != "cross"]
        return [(sites, list(range(len(sites))), len(sites)) for sites in chosen]
    L = len(by_kind["encoder"])
    sites = by_kind["decoder"][:L]
    return [(sites, [2 * i % L for i in range(len(sites))], L)]


def behave_as_peft(method, tuner) -> None:
    """A cache stands before the text: positions move behind it, sliding windows leave it behind,
    and T5 gives it a relative bias."""
    for site, patch in tuner.patches:
        patch.bias = tuner.anatomy.relative_bias(site)
        patch.window = tuner.anatomy.window(site)
    stack = site.stack.rpartition(".")[0] if tuner.anatomy.is_encoder_decoder() else ""
    tuner.shift_positions(method.length, stack)


# ---- while the model runs ----


def add_virtual_tokens(tuner, batch: dict) -> dict:
    """The soft words of an embedding-only prefix, in front of every row."""
    return insert(batch, torch.tensor([*tuner.words]), 0, not tuner.anatomy.is_encoder_decoder())


def place_infix(tuner, ids: Tensor | None, after: int) -> None:
    """Tell the patches of an infix from which token on they are seen: the first `after` of a row.

    Raises:
        ValueError: a row (B, T) of `ids` for this tuner has no such token, or there are no ids.
    """
    if ids is None:
        raise ValueError(
            f"The infix of {tuner.name!r} stands behind the token {after}, which is looked for in "
            "input_ids: give the model these in place of vectors, or disable the tuner."
        )
    separators = ids == after  # (B, T)
    routed = tuner.model.minipeft.routing or [(tuner.name,)]
    each = max(1, len(separators) // len(routed))  # rows of the batch for one name: beams
    for row, present in enumerate(separators.any(dim=1).tolist()):
        if not present and tuner.name in routed[min(row // each, len(routed) - 1)]:
            raise ValueError(f"Row {row} has no token {after}: the infix has no place.")
    for _, patch in tuner.patches:
        patch.since = separators.int().argmax(dim=1)  # (B,)


# ---- a start at words ----


def start_at_words(method, tuner, count: int) -> None:
    """Give the last `count` patches the keys and values that words have in the base, or, at the
    input, the words' vectors.

    start: "words" draws them from the vocabulary; or ids of a text, repeated up to the length.
    """
    words, ids, P = tuner.anatomy.words().module, method.start, method.length
    if ids == "words":
        ids = torch.randint(words.num_embeddings, (P,)).tolist()
    ids = (tuple(ids) * P)[:P]
    if max(ids) >= words.num_embeddings:
        raise ValueError(f"start has the id {max(ids)}, but there are {words.num_embeddings}.")
    ids = torch.tensor([ids], device=words.weight.device)  # (1, P)
    patches = tuner.patches[-count:]
    if method.embedding_only:
        set_rows(patches[0][1], words(ids)[0].detach())  # (P, C)
        return
    batch = {"input_ids": ids}
    if tuner.anatomy.is_encoder_decoder():
        batch["decoder_input_ids"] = ids
    sites = [site for site, _ in patches]
    reader = reader_of(tuner, [site.path for site in sites], batch)
    captured = capture_keys_values(tuner.model, [site.module for site in sites], batch, reader)
    whole: dict[nn.Module, Tensor] = {}
    for (_, patch), keys_values in zip(patches, captured, strict=True):
        rows = whole.setdefault(patch.encoder, patch.encoder().detach().clone())  # (P, 2 L H D)
        # (2, B, H, P, D), B = 1 -> (P, 2, H, D) -> (P, 2 H D)
        rows[:, patch.columns] = keys_values[:, 0].permute(2, 0, 1, 3).flatten(1)
    for encoder, rows in whole.items():
        set_rows(encoder, rows)


def reader_of(tuner, paths: list[str], batch: dict) -> nn.Module:
    """The innermost model that reads such a batch and has the layers of these paths: a head around
    it may ask of a text what words alone have not, such as an end token.
    """
    inside = {
        path: body
        for path, body in tuner.record.reach.bodies.items()
        if all(lies_in(layer, path) for layer in paths)
        if all(takes(body, key) for key in batch)
    }
    return inside[max(inside, key=len)] if inside else tuner.model


@torch.no_grad()
def set_rows(encoder, rows: Tensor) -> None:
    """Make R these rows (P, numbers), or as near as k hidden features can come (least squares)."""
    if encoder.table is not None:
        encoder.table.copy_(rows)
        return
    hidden = torch.tanh(encoder.down(encoder.embedding)).double()  # (P, k)
    solution = torch.linalg.pinv(F.pad(hidden, (0, 1), value=1.0)) @ rows.double()  # (k + 1, n)
    encoder.up.weight.copy_(solution[:-1].T)
    encoder.up.bias.copy_(solution[-1])


# ---- files ----


def without_reparameterization(tuner, kind: type, keep_mlp: bool) -> dict[str, Tensor]:
    """A tuner's tensors, R in the place of the MLP that makes it, or beside it.

    kind: PrefixEncoder.
    """
    tensors = tuner.named_tensors()
    for place, patch in tuner.patches:
        for path, module in patch.named_modules():
            if not isinstance(module, kind) or module.table is not None:
                continue
            name = f"{place.path}.{place.target}." + (f"{path}." if path else "")
            if f"{name}embedding" not in tensors:  # shared with a layer before
                continue
            if not keep_mlp:
                tensors = {key: t for key, t in tensors.items() if not key.startswith(name)}
            tensors[f"{name}table"] = module().detach()
    return tensors


def of_the_mlp(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file without R, where the file has the MLP that makes it."""
    has_mlp = any(key.endswith("embedding") for key in tensors)
    return {k: t for k, t in tensors.items() if not (has_mlp and k.endswith(".table"))}
