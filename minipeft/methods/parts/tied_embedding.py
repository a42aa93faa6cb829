"""One patch for several embeddings that share their matrix, as those of encoder and decoder do."""

from __future__ import annotations

from torch import Tensor, nn

from minipeft.doors.patch import Patch


class TiedEmbeddingPatch(Patch):
    """Sits at another embedding with the same matrix and does what the first one's patch does.

    first: a patch with `look_up(ids, y, factor)`.  embedding: the one it sits at.
    """

    def __init__(self, first: nn.Module, embedding: nn.Embedding) -> None:
        super().__init__()
        self.first = (first,)  # in a tuple, so that what is trained is counted and stored once
        self.factor = float(getattr(embedding, "embed_scale", 1.0))

    def forward(self, ids: Tensor, y: Tensor) -> Tensor:
        """ids (B, T), y (B, T, C) -> (B, T, C)."""
        return self.first[0].look_up(ids, y, self.factor)
