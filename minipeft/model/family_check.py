"""Does a Family that a user wrote fit the model? A name that matches nothing is told at once.

Of a field with several names one is enough, since a family may be written for several models
(LLAMA's norms have many names). But a name that fits nothing is a slip where the model has a part
with a name much like it, and nobody else has named that part.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from torch import nn

from minipeft.doors.layers import is_linear
from minipeft.model.families import FAMILIES
from minipeft.model.family import Family, Slice

BY_THE_END = ("blocks", "words", "positions", "rowless", "top")  # how a path ends, anywhere
LIKE = 0.8  # names that are as similar as that are one name misspelt
# of these a model may have none, so that a known family's names for them do no harm
MAY_BE_MISSING = ("positions", "cross_attention", "gate", "rowless", "top", "norms")

KINDS: dict[str, Callable[[nn.Module], bool]] = {  # what a field names; others name linear maps
    "blocks": lambda module: isinstance(module, nn.ModuleList),
    "words": lambda module: hasattr(module, "num_embeddings"),
    "positions": lambda module: not is_linear(module),
    "attention": lambda module: any(is_linear(child) for child in module.children()),
    "cross_attention": lambda module: any(is_linear(child) for child in module.children()),
    "rowless": lambda module: not is_linear(module),
    "top": lambda module: any(True for _ in module.parameters()),
    "norms": lambda module: "norm" in type(module).__name__.lower(),
}


def check_family(anatomy) -> None:
    """Raise ValueError for a name in the anatomy's family that fits no part of its model."""
    family = anatomy.family
    if not isinstance(family, Family):
        raise TypeError(f"family must be a minipeft.Family, not a {type(family).__name__}.")
    if family in FAMILIES:
        return
    blocks = [path for path, _ in anatomy.blocks()]  # says so where there are none
    names = {f: plain_names(family, f) for f in Family.named() if f != "model_types"}
    fitting = {(f, n): fits(anatomy, blocks, f, n) for f, every in names.items() for n in every}
    claimed = {path for paths in fitting.values() for path in paths}
    for field, every in names.items():
        known = [name for name in every if fitting[field, name]]
        borrowed = any(getattr(family, field) == getattr(each, field) for each in FAMILIES)
        if borrowed and (known or field in MAY_BE_MISSING):
            continue
        parts = parts_of_kind(anatomy, blocks, field, claimed)
        for name in every:
            near = difflib.get_close_matches(name, parts, n=3, cutoff=LIKE if known else 0.5)
            if not fitting[field, name] and (near or not known):
                raise ValueError(sentence(field, name, near, parts))


def plain_names(family: Family, field: str) -> list[str]:
    """The names in a field of a family, those of slices as the modules that hold them."""
    names = getattr(family, field)
    return [name.module if isinstance(name, Slice) else name for name in names]


def fits(anatomy, blocks: list[str], field: str, name: str) -> list[str]:
    """The paths that a name of a field stands for."""
    if field in BY_THE_END:
        return [path for path in anatomy.modules if f".{path}".endswith(f".{name}")]
    roots = blocks
    if field == "norms":  # in a block, or in anything that the blocks stand in
        parts = [path.split(".") for path in blocks]
        roots = [*blocks, *dict.fromkeys(".".join(p[:i]) for p in parts for i in range(len(p)))]
    return [path for r in roots for path in anatomy.matching(f"{r}.{name}" if r else name)]


def parts_of_kind(anatomy, blocks: list[str], field: str, claimed: set[str]) -> list[str]:
    """Names of the parts that a name of this field could mean, those left out that have one."""
    is_kind, names = KINDS.get(field, is_linear), []
    for path, module in anatomy.modules.items():
        if path in claimed or path.rpartition(".")[2].isdecimal() or not is_kind(module):
            continue
        block = next((block for block in blocks if path.startswith(f"{block}.")), None)
        if path and block is None and (field in BY_THE_END or field == "norms"):
            ends = path.split(".")
            names += [".".join(ends[-count:]) for count in (1, 2)]
        elif block is not None and field not in BY_THE_END:
            names.append(re.sub(r"\b\d+\b", "*", path[len(block) + 1 :]))
    return list(dict.fromkeys(names))


def sentence(field: str, name: str, near: list[str], parts: list[str]) -> str:
    """What an error says of a name that stands for nothing."""
    guess = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    where = "the model" if field in BY_THE_END else "a block"
    left = f"unnamed parts of that kind: {', '.join(parts[:20])}" if parts else "every part has one"
    return f"The family's {field} names {name!r}, which {where} does not have ({left}){guess}"
