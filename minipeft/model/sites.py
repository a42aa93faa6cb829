"""Where something can be put into a model: linear maps, attention layers, token embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Place:
    """One linear map, or one part of a fused one, where a patch can sit.

    target: as it was asked for, "query".  path: of the linear map.  columns: the output features
    of the part, None for all.  stack, layer: the list of blocks it stands in, the block's number.
    """

    target: str
    path: str
    module: nn.Module
    columns: Tensor | None
    in_features: int
    out_features: int
    stack: str
    layer: int | None


@dataclass(frozen=True, eq=False)
class AttentionSite:
    """An attention layer, which can be given a memory.

    target: "memory" or, for cross-attention, "cross memory".  path, module: of the layer.  stack,
    layer: the list of blocks it stands in, the block's number.  heads, head_width: H of keys and
    values, D.  width: C, features of what enters the layer.
    """

    target: str
    path: str
    module: nn.Module
    stack: str
    layer: int | None
    heads: int
    head_width: int
    width: int
    columns = None  # a patch acts on all of the layer


@dataclass(frozen=True, eq=False)
class EmbeddingSite:
    """A token embedding, which can be given new words.

    path, module: of the embedding.  width: C, features of a word's vector.
    """

    path: str
    module: nn.Module
    width: int
    target = "words"
    stack, layer, columns = "", None, None  # it stands in no block; a patch acts on all of it


Site = AttentionSite | EmbeddingSite


def name_of(place: Place | Site) -> str:
    """<module>.<target>, what tensors and ranks of a patch at this place are called."""
    return f"{place.path}.{place.target.replace('.', '/')}"


def keys_at(place: Place, table: Iterable[str]) -> list[str]:
    """What a table calls this place, its target or the end of its path: the longest name first."""
    keys = [k for k in table if k == place.target or f".{place.path}".endswith(f".{k}")]
    return sorted(keys, key=len, reverse=True)
