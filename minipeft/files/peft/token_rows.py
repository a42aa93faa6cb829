"""Rows of the vocabulary alone, in 🤗 PEFT's layout TRAINABLE_TOKENS.

    base_model.model.<embedding>.trainable_tokens_delta    the rows (n, C) themselves

`token_indices` names their n ids. PEFT stores them once more for every module that shares the
matrix. PEFT keeps no trained head in such a file, so a tuner that has one gets a layout of our own.

Beside a LoRA such rows are a part of its file, `trainable_token_indices`: see lora_parts.py, which
finds their embeddings by the functions at the end of this one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.doors.door import bottom
from minipeft.files.peft.common import (
    PREFIX,
    common_settings,
    drop_base,
    pop_ending,
    stands_twice,
    without_prefix,
)
from minipeft.files.peft.options import OPEN, check_options
from minipeft.methods.token_rows import TokenRows
from minipeft.model.anatomy import Anatomy
from minipeft.model.sites import name_of

DELTA = ".trainable_tokens_delta"  # behind the name of what PEFT trains rows of
KNOWN = {"peft_type", "token_indices", "init_weights"}


def write_rows(tuner) -> tuple[dict, dict[str, Tensor]] | None:
    """adapter_config.json and the tensor; None where PEFT would do something else."""
    place, patch = tuner.patches[0]
    anatomy = tuner.anatomy
    if tuner.copies or biased_head(anatomy, place) or stands_twice(anatomy, place.module):
        return None
    path = token_table(tuner, place)
    settings = common_settings(tuner) | {
        "init_weights": True,
        "peft_type": "TRAINABLE_TOKENS",
        "target_modules": [path],
        "token_indices": patch.ids.tolist(),
    }
    del settings["modules_to_save"]  # which PEFT does not know here
    return settings, {f"{PREFIX}{path}{DELTA}": patch.rows.detach()}


def read_rows(
    settings: dict, tensors: dict[str, Tensor], anatomy: Anatomy, method: TokenRows | None
) -> tuple[TokenRows, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off PEFT's settings."""
    named = without_prefix(tensors, "TRAINABLE_TOKENS")
    ids = settings.get("token_indices")
    if not isinstance(ids, list):
        raise ValueError("adapter_config.json has no token_indices: it is damaged.")
    rows = pop_ending(named, DELTA)
    drop_base(named, anatomy, dict.fromkeys(rows, ids))
    if named or not rows:
        which = min(named, default="no rows")
        raise ValueError(f"The file has {which}, so it is no TRAINABLE_TOKENS file of PEFT's.")
    path, *others = sorted(set(embeddings_of(rows, anatomy).values()))
    if method is None:
        check_options(settings, KNOWN, "TRAINABLE_TOKENS")
        check_rows(path, set(), anatomy, "target_modules")
        method = TokenRows(tuple(ids), path)
    if others:
        raise ValueError(
            f"The file trains rows of {' and of '.join(sorted(rows))}, which are several matrices, "
            f"and one is known here at a time: {OPEN}."
        )
    return method, {f"{name_of(anatomy.tables((method.target,))[0])}.rows": rows[path]}


# -- rows alone, and beside a LoRA


def check_rows(path: str, adapted: set[str], anatomy: Anatomy, by: str) -> None:
    """Rows that PEFT trains must be of an embedding, and whatever shares its matrix as PEFT has it.

    adapted: paths of the linear maps with a LoRA.  by: the setting that named the embedding.

    Raises:
        ValueError: they are of something else, or what shares the matrix is not as in PEFT.
    """
    if not isinstance(anatomy.modules.get(path), torch.nn.Embedding):
        raise ValueError(
            f"The file trains rows of {path} ({by}), which is no embedding of this model: {OPEN}."
        )
    for place in anatomy.tables((path,)):
        if biased_head(anatomy, place):
            raise ValueError(
                f"The file trains rows of {path}, whose matrix a head with a bias shares: PEFT "
                f"leaves that bias out, which is not done here; {OPEN}."
            )
        both = sorted(adapted & {tied.path for tied in anatomy.tied(place)})
        if both:
            raise ValueError(
                f"The file trains rows of {path} ({by}) and adapts {both[0]}, which shares "
                f"its matrix: each is known alone but not together, {OPEN}."
            )


def embeddings_of(rows: dict[str, Tensor], anatomy: Anatomy) -> dict[str, str]:
    """Path of rows (n, C) -> path of the embedding that they are of.

    PEFT stores them again for what shares the embedding's matrix, a tied head, say: equal rows of
    one matrix are those of one embedding.
    """
    modules, firsts = anatomy.modules, {}
    tables = {p for p in rows if isinstance(modules.get(p), torch.nn.Embedding)}
    for path in [*sorted(tables), *sorted(set(rows) - tables)]:
        weight = getattr(modules.get(path), "weight", None)
        same = (
            first
            for first in firsts.values()
            if weight is not None
            and weight is modules[first].weight
            and torch.equal(rows[path], rows[first])
        )
        firsts[path] = next(same, path)
    return firsts


def token_table(tuner, place) -> str:
    """The path where PEFT looks for rows of this matrix, the others being tied to it."""
    ask = getattr(tuner.model, "get_input_embeddings", None)
    words = bottom(ask()) if ask else None
    tied = [place, *tuner.tied(place)]
    return next((other.path for other in tied if other.module is words), place.path)


def indices(settings: dict, path: str, anatomy: Anatomy) -> tuple[int, ...]:
    """The ids that `trainable_token_indices` names for this embedding.

    Raises:
        ValueError: it names none.
    """
    wanted = settings.get("trainable_token_indices")
    if isinstance(wanted, dict):
        wanted = next((ids for key, ids in wanted.items() if f".{path}".endswith(f".{key}")), None)
    if not isinstance(wanted, list):
        raise ValueError(f"adapter_config.json does not say which tokens of {path} were trained.")
    return tuple(wanted)


def biased_head(anatomy: Anatomy, place) -> bool:
    """Does a head with a bias share the matrix of this embedding?"""
    return any(getattr(tied.module, "bias", None) is not None for tied in anatomy.tied(place))
