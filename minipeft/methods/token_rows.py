"""Rows of the vocabulary that are trained in full: 🤗 PEFT's `trainable_token_indices`.

In the weights door. Path: attach(model, TokenRows(...)) -> TokenRows.install -> TokenRowsPatch in a
WeightDoor around the embedding, which looks up y = E[ids] and calls the patch's forward(ids, y). A
door stands in the place of a frozen layer and calls the patches of every tuner.

New tokens, or a few that mean something else in this task, get vectors of their own, and all others
stay as they are (the number of the equation is ours):

    e(i) = R[k] if i is the k-th of n chosen ids, else E[i]                             (eq. 1)

    E (V, C) frozen    R (n, C) trained    ids (N, T) -> e (N, T, C)

Where the matrix that writes words is the same as the one that reads them (tied weights), its rows
change too: the logit of the k-th id is R[k] h, plus the head's bias if it has one, and
what a trained copy of the head (HeadOnly) adds.

Start: R holds these rows of E, so that e(i) = E[i] exactly; every row has a gradient when its id is
read or its logit counts.

Merge: R takes the place of these rows of E.

Parameters: n C, trained and stored.

Departures.
(1) Source. Paper: there is none; it is a common practice. PEFT: R beside E in every module that
    shares it. Here: one R for all of them.
    Shown by test_peft_lora_parts.py::test_it_trains_on_with_the_same_numbers
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.patch import Patch
from minipeft.methods.method import Method
from minipeft.methods.parts.tied_embedding import TiedEmbeddingPatch
from minipeft.methods.parts.validation import LARGEST, as_tuple, shorten


class TokenRowsPatch(Patch):
    """R (n, C), in place of rows of an embedding that the ids (n,) name."""

    def __init__(self, embedding: nn.Embedding, ids: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(embedding.weight.detach()[ids].clone())
        self.register_buffer("ids", ids, persistent=False)
        self.factor = float(getattr(embedding, "embed_scale", 1.0))

    def forward(self, ids: Tensor, y: Tensor) -> Tensor:
        """ids (B, T), y = E[ids] (B, T, C) -> (B, T, C), in the dtype of y."""
        return self.look_up(ids, y, self.factor)

    def look_up(self, ids: Tensor, y: Tensor, factor: float) -> Tensor:
        """As `forward`; factor: by which this embedding multiplies its vectors."""
        hit = ids[..., None] == self.ids  # (B, T, n)
        rows = factor * F.embedding(hit.int().argmax(-1), self.rows)  # (B, T, C)
        return torch.where(hit.any(-1, keepdim=True), rows.to(y.dtype), y)  # eq. 1: e, (N, T, C)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight.index_copy(0, self.ids, self.rows.to(weight)), bias


class TiedRowsPatch(Patch):
    """The same R in place of rows of the head that shares the embedding's matrix."""

    def __init__(self, first: TokenRowsPatch, head: nn.Module) -> None:
        super().__init__()
        self.first, self.head = (first,), (head,)  # in tuples: counted and stored elsewhere

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (N, T, C), y (N, T, V) -> (N, T, V), in the dtype of y."""
        rows, ids = self.first[0].rows, self.first[0].ids
        change = rows - self.head[0].weight.detach()[ids].to(rows.dtype)  # (n, C)
        logits = F.linear(x.to(rows.dtype), change)  # (R - E[ids]) h: (N, T, n)
        return y.index_add(-1, ids, logits.to(y.dtype))


@dataclass(frozen=True)
class TokenRows(Method):
    """Train the vectors of a few tokens.

    Args:
        ids: of the tokens, each once.
        target: "words", or the name of an embedding.

    Raises:
        ValueError: when a value is impossible; by `attach` when there is no such id.
    """

    ids: tuple[int, ...]
    target: str = "words"

    def __post_init__(self) -> None:
        ids = as_tuple(self.ids)
        if not ids or not all(type(i) is int and 0 <= i < LARGEST for i in ids):
            raise ValueError(f"TokenRows needs the ids of tokens, not {shorten(self.ids)}.")
        if len(set(ids)) < len(ids):
            raise ValueError("TokenRows names an id twice: name each token once.")
        if not isinstance(self.target, str):
            raise ValueError(f"TokenRows' target is a name, not {shorten(self.target)}.")
        object.__setattr__(self, "ids", ids)

    def install(self, tuner) -> None:
        first, *others = tuner.anatomy.tables((self.target,))
        if max(self.ids) >= first.in_features:
            raise ValueError(
                f"There is no token {max(self.ids)}, only {first.in_features}: enlarge the model "
                "by resize_token_embeddings() before."
            )
        for place in others:
            if place.module.weight is not first.module.weight:
                raise ValueError(
                    f"The target {self.target!r} names {first.path} and {place.path}, which have "
                    "nothing in common: name one of them."
                )
        ids = torch.tensor(self.ids, device=first.module.weight.device)
        patch = TokenRowsPatch(first.module, ids)
        tuner.add(first, patch)
        for place in tuner.tied(first):
            if isinstance(place.module, nn.Embedding):
                tuner.add(place, TiedEmbeddingPatch(patch, place.module))
            else:
                tuner.add(place, TiedRowsPatch(patch, place.module))
