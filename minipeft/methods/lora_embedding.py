"""LoRA on an embedding, in the weights door (Hu et al. 2021; loralib's and 🤗 PEFT's `Embedding`).

An embedding is a linear map of one-hot vectors: row i of E (V, C) is what it says of id i. So the
detour of equation 3 is a product of two small tables, of which row i is looked up as well:

    e(i) = E[i] + (alpha / r) A[:, i]^T B^T          A (r, V)   B (C, r)   e (C,)

    A = 0 at the start, so that e(i) = E[i] exactly; B ~ N(0, 1) is the other way round than in
    LoRA, since it is A that a single id touches a column of.

Parameters: r (V + C). Embeddings that multiply what they look up (BART's and Gemma's `embed_scale`)
multiply the detour too, so that it can be merged. There is no dropout: an id has no features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.parts.tied_embedding import TiedEmbeddingPatch


class LoRAEmbeddingPatch(nn.Module):
    """A (r, V), B (C, r).

    Args:
        embedding: the frozen one.
        scale: alpha / r.
    """

    def __init__(self, embedding: nn.Embedding, rank: int, scale: float) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.zeros(rank, embedding.num_embeddings))
        self.B = nn.Parameter(torch.randn(embedding.embedding_dim, rank))
        self.scale = scale
        self.factor = float(getattr(embedding, "embed_scale", 1.0))
        self.padding_idx = embedding.padding_idx  # an id that is not trained

    def forward(self, ids: Tensor, y: Tensor) -> Tensor:
        """ids (B, T), y = E[ids] (B, T, C) -> (B, T, C), in the dtype of y."""
        return self.look_up(ids, y, self.factor)

    def look_up(self, ids: Tensor, y: Tensor, factor: float) -> Tensor:
        low = F.embedding(ids, self.A.T, self.padding_idx)  # (B, T, r)
        detour = F.linear(low, self.B)  # (B, T, C)
        return (y + factor * self.scale * detour).to(y.dtype)

    def delta(self) -> Tensor:
        """scale (B A)^T: (V, C)."""
        return self.scale * (self.B @ self.A).T


@dataclass(frozen=True)
class LoRAEmbedding(LoRA):
    """LoRA on embeddings. targets: names of embeddings, or "words" for the token embedding, which
    is one detour where several modules share its matrix.

    The other settings are LoRA's; `layers` and `dropout` mean nothing here.
    """

    targets: tuple[str, ...] = ("words",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is not None or self.dropout:
            raise ValueError("LoRAEmbedding knows neither layers nor dropout: leave them out.")

    def install(self, tuner) -> None:
        places = tuner.anatomy.tables(self.targets)
        ranks = tuner.choose(places, self.ranks, self.rank)
        alphas = tuner.choose(places, self.alphas, self.alpha)
        patches: dict[nn.Parameter, LoRAEmbeddingPatch] = {}  # of each matrix
        for place, rank, alpha in zip(places, ranks, alphas, strict=True):
            first = patches.get(place.module.weight)
            if first is not None and place.target == "words":
                tuner.add(place, TiedEmbeddingPatch(first, place.module))
                continue
            scale = LoRAPatch(1, 1, rank, alpha, 0.0, self.rank_stabilized).scale
            patch = LoRAEmbeddingPatch(place.module, rank, scale)
            tuner.add(place, patch)
            patches[place.module.weight] = patch

    def learning_rates(self, tuner) -> dict[nn.Parameter, float]:
        tables = (patch for _, patch in tuner.places if isinstance(patch, LoRAEmbeddingPatch))
        return {patch.B: self.plus or 1.0 for patch in tables}
