"""How an architecture is described: a `Family` of names, a `Slice` for a part of a fused map."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

KINDS = ("decoder", "encoder", "encoder-decoder")
COUNTS = ("heads", "key_value_heads")  # what a Slice's parts may be as many as
TARGETS = ("query", "key", "value", "qkv", "output", "up", "gate", "down")


@dataclass(frozen=True)
class Slice:
    """One of several projections that are fused into a single linear map.

    module: the fused map.  index, of: the index-th of so many parts of its output, equal ones
    unless `sizes` says how they compare.
    sizes: of the parts, each a number, or "heads" or "key_value_heads" for as many as there are
        (grouped queries: a key has fewer heads than a query).
    groups: how often the parts follow each other, a number, "heads" or "key_value_heads"; 1: all
        of the query, then all of the key.
    per_head: the same as groups="heads", as in GPT-NeoX: (H, of, D) instead of (of, C).
    """

    module: str
    index: int
    of: int
    per_head: bool = False
    sizes: tuple[str | int, ...] = ()
    groups: str | int = 1

    def __post_init__(self) -> None:
        whole = isinstance(self.index, int) and isinstance(self.of, int)
        if not whole or not 0 <= self.index < self.of:
            raise ValueError(
                f"A Slice is the index-th of some parts, counted from 0, such as 0 of 3, not "
                f"{str(self.index)[:60]!r} of {str(self.of)[:60]!r}."
            )
        for count in (*self.sizes, self.groups):
            if count not in COUNTS and not (isinstance(count, int) and count > 0):
                raise ValueError(
                    f"A Slice's sizes and groups are whole numbers from 1, or "
                    f"{' or '.join(map(repr, COUNTS))}, not {str(count)[:60]!r}."
                )

    def counts_heads(self) -> bool:
        """Must one know how many heads there are, to find the part?"""
        return self.per_head or any(isinstance(n, str) for n in (*self.sizes, self.groups))

    def columns(self, out_features: int, heads: int, key_value_heads: int | None = None) -> Tensor:
        """Which output features belong to this part: (out_features / of,) where all are equal.

        Raises:
            ValueError: the output cannot be cut so.
        """
        counts = {"heads": heads, "key_value_heads": key_value_heads or heads}
        sizes = [counts.get(size, size) for size in self.sizes or (1,) * self.of]
        groups = heads if self.per_head else counts.get(self.groups, self.groups)
        widths = [out_features * size // (sum(sizes) * groups) for size in sizes]  # in one group
        if sum(widths) * groups != out_features or len(sizes) != self.of:
            raise ValueError(
                f"The {out_features} output features of {self.module} cannot be cut into "
                f"{groups} x {self.of} parts of sizes {tuple(sizes)}: describe it otherwise in the "
                "family's Slice."
            )
        index = torch.arange(out_features).view(groups, -1)  # (groups, features of a group)
        return index.split(widths, dim=1)[self.index].flatten()


@dataclass(frozen=True)
class Family:
    """The names of one architecture. Names of maps are relative to a block; * stands for a part.

    model_types: config.model_type of the models.  blocks: the lists of blocks, by how their path
    ends.  words: the input embeddings.  attention, cross_attention: the memory doors of a block.
    positions: where positions are looked up (a table, or the angles of rotary embeddings).
    query .. down: linear maps of a block, each a tuple (self- and cross-attention, say).
    top: what lies above the last block and below the head.
    norms: layer norms, relative to a block, or to any module that the blocks stand in.
    rowless: modules in which layers read what belongs to no row of the batch (relative positions).
    kind: "decoder", "encoder" or "encoder-decoder"; None is what the model's config says.
    """

    model_types: tuple[str, ...]
    blocks: tuple[str, ...]
    words: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    cross_attention: tuple[str, ...] = ()
    query: tuple[str | Slice, ...] = ()
    key: tuple[str | Slice, ...] = ()
    value: tuple[str | Slice, ...] = ()
    qkv: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    up: tuple[str | Slice, ...] = ()
    gate: tuple[str | Slice, ...] = ()
    down: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    rowless: tuple[str, ...] = ()
    kind: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in (None, *KINDS):
            raise ValueError(
                f"A Family's kind must be one of {', '.join(KINDS)}, not {str(self.kind)[:60]!r}."
            )
        for field in self.named():
            names = getattr(self, field)
            names = (names,) if isinstance(names, str | Slice) else names
            fitting = isinstance(names, list | tuple)
            if not fitting or not all(isinstance(n, str | Slice) and n for n in names):
                raise ValueError(
                    f"A Family's {field} must be a tuple of names, such as "
                    f'("self_attn",), not {str(names)[:60]!r}.'
                )
            object.__setattr__(self, field, tuple(names))

    @classmethod
    def named(cls) -> list[str]:
        """The fields that hold names."""
        return [field.name for field in fields(cls) if field.name != "kind"]

    def names(self, target: str) -> tuple[str | Slice, ...]:
        """The maps that a word of the field stands for."""
        if target == "qkv" and not self.qkv:
            return self.query + self.key + self.value
        return getattr(self, target)

    def targets(self) -> list[str]:
        """The words of the field that this family has."""
        return [target for target in TARGETS if self.names(target)]
