"""What files of version 0.1 call by other names: they open as if they had been written today."""

from __future__ import annotations

import re

from torch import Tensor

# (pattern, name of today), in this order, for the names of tensors
TENSORS = (
    (r"\b(memory|inner)\.rows\.", r"\1.encoder."),  # what gives a prefix its rows
    (r"\.encoder\.words$", ".encoder.embedding"),  # its P'
    (r"\.words\.words$", ".words.embedding"),  # P' of a prefix at the input
    (r"^minipeft\.words$", "minipeft.embedding"),  # P' beside a prefix in the layout of PEFT
)


def names_of_today(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file of ours by the names that they have now."""
    renamed = {}
    for key, tensor in tensors.items():
        for pattern, name in TENSORS:
            key = re.sub(pattern, name, key)
        renamed[key] = tensor
    return renamed
