"""LoRA on an embedding, in the weights door (Hu et al. 2021, arXiv 2106.09685, and loralib).

Path: attach(model, LoRAEmbedding(...)) -> LoRAEmbedding.install -> LoRAEmbeddingPatch in a
WeightDoor around the embedding, which looks up y = E[ids] and calls the patch's forward(ids, y). A
door stands in the place of a frozen layer and calls the patches of every tuner.

An embedding is a linear map of one-hot vectors: row i of E is what it says of id i. So the detour
of LoRA's equation 3 is a product of two small tables, of which row i is looked up as well:

    e(i) = E[i] + (alpha / r) A[:, i]^T B^T                                             (eq. 3)

    E (V, C) frozen    A (r, V), B (C, r) trained    e (C,)
    ids (N, T) -> rows of A^T (N, T, r) -> e (N, T, C)

Start: A = 0, so that e(i) = E[i] exactly; B ~ N(0, 1). It is the other way round than in LoRA,
since it is A of which a single id touches a column: dL/dB = 0 at the first step.

Merge: E + (alpha / r) (B A)^T. Embeddings that multiply what they look up (BART's and Gemma's
`embed_scale`) multiply the detour too, so that it can be merged.

Parameters: r (V + C), trained and stored. There is no dropout: an id has no features.

Departures.
(1) Tied heads. Paper: not said. PEFT: the head keeps E alone, and a merge changes it without a
    word, unless ensure_weight_tying is set. Here: see `LoRAEmbedding`; a merge that would change
    what another module reads is refused.
    Shown by test_peft_lora_parts.py::test_their_file_opens_is_saved_and_is_merged
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.patch import Patch
from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.parts.tied_embedding import TiedEmbeddingPatch


class LoRAEmbeddingPatch(Patch):
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
        """ids (N, T), y = E[ids] (N, T, C) -> e (N, T, C), in the dtype of y."""
        return self.look_up(ids, y, self.factor)

    def look_up(self, ids: Tensor, y: Tensor, factor: float) -> Tensor:
        """As `forward`; factor: by which this embedding multiplies its vectors."""
        low = F.embedding(ids, self.A.T, self.padding_idx)  # eq. 3: A[:, i]^T, (N, T, r)
        detour = F.linear(low, self.B)  # eq. 3: A[:, i]^T B^T, (N, T, C)
        return (y + factor * self.scale * detour).to(y.dtype)  # eq. 3: e, (N, T, C)

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
        tables = (patch for _, patch in tuner.patches if isinstance(patch, LoRAEmbeddingPatch))
        return {patch.B: self.plus or 1.0 for patch in tables}
