"""Rows of the vocabulary alone, in 🤗 PEFT's layout TRAINABLE_TOKENS.

    base_model.model.<embedding>.trainable_tokens_delta    the rows (n, C) themselves

`token_indices` names their n ids. PEFT stores them once more for every module that shares the
matrix. Beside a LoRA they are a part of its file, see lora_parts.py. PEFT keeps no trained head in
such a file, so a tuner that has one gets a layout of our own.
"""

from __future__ import annotations

from torch import Tensor

from minipeft.files.peft.common import (
    PREFIX,
    common_settings,
    drop_base,
    pop_ending,
    stands_twice,
    without_prefix,
)
from minipeft.files.peft.lora_parts import biased_head, check_rows, embeddings_of, token_table
from minipeft.files.peft.options import OPEN, check_options
from minipeft.methods.token_rows import TokenRows
from minipeft.model.anatomy import Anatomy
from minipeft.model.sites import name_of

END = ".trainable_tokens_delta"
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
    return settings, {f"{PREFIX}{path}{END}": patch.rows.detach()}


def read_rows(
    settings: dict, tensors: dict[str, Tensor], anatomy: Anatomy, method: TokenRows | None
) -> tuple[TokenRows, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off PEFT's settings."""
    named = without_prefix(tensors, "TRAINABLE_TOKENS")
    ids = settings.get("token_indices")
    if not isinstance(ids, list):
        raise ValueError("adapter_config.json has no token_indices: it is damaged.")
    rows = pop_ending(named, END)
    drop_base(named, anatomy, dict.fromkeys(rows, ids))
    if named or not rows:
        which = min(named, default="no rows")
        raise ValueError(f"The file has {which}, so it is no TRAINABLE_TOKENS file of PEFT's.")
    path = min(embeddings_of(rows, anatomy).values())
    if method is None:
        check_options(settings, KNOWN, "TRAINABLE_TOKENS")
        check_rows(path, set(), anatomy, by="target_modules")
        method = TokenRows(tuple(ids), path)
    if len(set(embeddings_of(rows, anatomy).values())) > 1:
        raise ValueError(
            f"The file trains rows of {' and of '.join(sorted(rows))}, which are several matrices, "
            f"and one is known here at a time: {OPEN}."
        )
    return method, {f"{name_of(anatomy.tables((method.target,))[0])}.rows": rows[path]}
