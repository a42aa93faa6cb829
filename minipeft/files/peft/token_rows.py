"""Rows of the vocabulary alone, in 🤗 PEFT's layout TRAINABLE_TOKENS.

    base_model.model.<embedding>.trainable_tokens_delta    the rows (n, C) themselves

`token_indices` names their n ids. PEFT stores them once more for every module that shares the
matrix. Beside a LoRA they are a part of its file, see lora_parts.py. PEFT keeps no trained head in
such a file, so a tuner that has one gets a layout of our own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipeft.files.peft.common import PREFIX, common_settings, drop_base, pick, without_prefix
from minipeft.files.peft.lora_parts import biased_head, check_rows, stands_twice, token_table
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
    drop_base(named, anatomy)
    rows = pick(named, END)
    if not rows or len(named) != len(rows):
        which = next((key for key in named if not key.endswith(END)), "no rows")
        raise ValueError(f"The file has {which}, so it is no TRAINABLE_TOKENS file of PEFT's.")
    if method is None:
        check_options(settings, KNOWN, "TRAINABLE_TOKENS")
        ids = settings.get("token_indices")
        if not isinstance(ids, list):
            raise ValueError("adapter_config.json has no token_indices: it is damaged.")
        tables = (p for p, m in anatomy.modules.items() if isinstance(m, nn.Embedding))
        path = next((path for path in tables if path in rows), min(rows))
        check_rows(path, set(), anatomy, by="target_modules")
        method = TokenRows(tuple(ids), path)
    first = anatomy.tables((method.target,))[0]
    tensor = rows.get(first.path, next(iter(rows.values())))
    same = {first.path, *(place.path for place in anatomy.tied(first))}
    for path, other in rows.items():
        if path not in same or not torch.equal(other, tensor):
            raise ValueError(
                f"The file trains rows of {path} and of {first.path}, and one matrix is known here "
                f"at a time: {OPEN}."
            )
    return method, {f"{name_of(first)}.rows": tensor}
