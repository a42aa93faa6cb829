"""Attention: Vaswani et al. 2017, "Attention Is All You Need", section 3.2 (arXiv 1706.03762).

    head_h = softmax(Q_h K_h^T / sqrt(D) + mask) V_h        (eq. 1)
    y      = [head_1 ; ... ; head_H] W_O                    (section 3.2.2)

with Q = x W_Q, K = c W_K, V = c W_V. In self-attention the context c is x itself; in
cross-attention it is what the encoder wrote.

| tensor            | shape        |
|-------------------|--------------|
| x, y              | (B, T, C)    |
| context           | (B, S, C)    |
| Q_h and its heads | (B, H, T, D) |
| K, V              | (B, H, S, D) |
| mask              | (B, 1, T, S) |

Parameters: 4 C^2 + 4 C.

`MultiHeadAttention` is that and no more; `Attention` adds two things to it:

**The cache.** To write word after word, keys and values of earlier tokens are kept
(`extend_cache`).

**The memory door.** `attention.memory` may hold extra keys and values, each (B or 1, H, P, D). They
are put before the keys and values of the context, and every query may look at them
(`put_in_front`). They never enter the cache and take no position. Prefix-tuning and P-Tuning v2
live here; with `memory = None` nothing happens.

The models compute `mix` by torch's kernel for the same: see fused_attention.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Equation 1, by hand.

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        mask: added to the scores; 0 where a query may look, a very negative number where not.
            Any shape that broadcasts to (B, H, T, S).
        dropout: share of attention weights set to zero.

    Returns:
        The heads (B, H, T, D) and the attention weights (B, H, T, S), whose rows sum to 1 (without
        dropout), both in the dtype of `query`.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, S)
    if mask is not None:
        scores = scores + mask
    weights = F.dropout(scores.softmax(dim=-1), dropout)  # (B, H, T, S)
    return weights @ value, weights  # (B, H, T, D)


def causal_mask(tokens: int, keys: int, like: Tensor) -> Tensor:
    """(T, S): 0 where query i may look at key j, very negative where j lies in its future.

    The last query stands at the last key, so with S > T the first S - T keys are the past.
    Very negative, and not minus infinity: a query that may look nowhere (padding) must not give
    NaN. The mask has the dtype of `like`.
    """
    future = torch.ones(tokens, keys, dtype=torch.bool, device=like.device)
    future = future.triu(diagonal=keys - tokens + 1)
    forbidden = torch.finfo(like.dtype).min
    return torch.zeros(tokens, keys, dtype=like.dtype, device=like.device).masked_fill(
        future, forbidden
    )


def padding_mask(attention_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """(B, S) of ones and zeros -> (B, 1, 1, S) to add to the scores; None when all are ones."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    mask = torch.zeros(attention_mask.shape, dtype=like.dtype, device=like.device)
    mask = mask.masked_fill(attention_mask == 0, torch.finfo(like.dtype).min)
    return mask[:, None, None, :]  # (B, 1, 1, S)


def extend_cache(cache: dict, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The cache of one layer: what was computed for earlier tokens is not computed again.

    Args:
        cache: empty before the first step; afterwards "key" and "value" of all tokens so far.
        key, value: of the new tokens, each (B, H, T, D).

    Returns:
        Keys and values of all tokens, the earlier ones first, each (B, H, past + T, D). The cache
        holds the same two.
    """
    if cache:
        key = torch.cat([cache["key"], key], dim=2)  # (B, H, past + T, D)
        value = torch.cat([cache["value"], value], dim=2)  # (B, H, past + T, D)
    cache["key"], cache["value"] = key, value
    return key, value


def put_in_front(
    memory: tuple[Tensor, Tensor], key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The memory door: P pairs that belong to no token stand before those of the tokens.

    Args:
        memory: keys and values, each (B, H, P, D), or (1, H, P, D) for all rows of the batch.
        key, value: of the tokens, each (B, H, S, D).
        mask: added to the scores over the S keys, (B or 1, 1, T or 1, S); None hides nothing.

    Returns:
        Keys and values (B, H, P + S, D) and the mask (B or 1, 1, T or 1, P + S), in which every
        query may look at the memory; None stays None.
    """
    more_keys, more_values = memory
    B, P = len(key), more_keys.shape[2]
    key = torch.cat([more_keys.expand(B, -1, -1, -1), key], dim=2)  # (B, H, P + S, D)
    value = torch.cat([more_values.expand(B, -1, -1, -1), value], dim=2)  # (B, H, P + S, D)
    if mask is not None:
        mask = F.pad(mask, (P, 0))  # (..., P + S): a zero means "may look"
    return key, value, mask


class MultiHeadAttention(nn.Module):
    """Attention in H heads.

    Args:
        width: C.
        heads: H; divides C.
        dropout: share of attention weights set to zero in training.

    Attributes:
        keep_weights: when True, `weights` holds the last attention weights (B, H, T, S).
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.keep_weights = False
        self.weights: Tensor | None = None

    def split(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, H, T, D): each head gets D neighbouring numbers of every token."""
        B, T, C = x.shape
        return x.view(B, T, self.heads, C // self.heads).transpose(1, 2)

    def join(self, heads: Tensor) -> Tensor:
        """(B, H, T, D) -> (B, T, C): the heads side by side again."""
        B, H, T, D = heads.shape
        return heads.transpose(1, 2).reshape(B, T, H * D)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Mix information between tokens.

        Args:
            x: (B, T, C), the tokens that ask.
            context: (B, S, C), the tokens that answer; None for self-attention.
            mask: (B, 1, T, S), added to the scores, see `attend`.
            causal: token i sees tokens 0..i only.

        Returns:
            (B, T, C).
        """
        source = x if context is None else context
        query = self.split(self.query(x))  # (B, H, T, D)
        key = self.split(self.key(source))  # (B, H, S, D)
        value = self.split(self.value(source))  # (B, H, S, D)
        heads = self.mix(query, key, value, mask, causal)  # (B, H, T, D)
        return self.output(self.join(heads))

    def mix(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Equation 1 in every head: query (B, H, T, D), key and value (B, H, S, D) -> (B, H, T, D).

        causal: the future is still to be hidden.
        """
        if causal:
            mask = self.hide_future(query, key, mask)
        dropout = self.dropout if self.training else 0.0
        heads, weights = attend(query, key, value, mask, dropout)
        if self.keep_weights:
            self.weights = weights.detach()
        return heads

    def hide_future(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """The mask (or None) with the future hidden as well; a memory lies in the past of all."""
        T, S = query.shape[2], key.shape[2]
        future = causal_mask(T, S, query)  # (T, S)
        return future if mask is None else torch.minimum(mask, future)  # (B, 1, T, S)


class Attention(MultiHeadAttention):
    """Multi-head attention with a memory door and a key-value cache.

    Attributes:
        memory: None, or extra (keys, values), each (B or 1, H, P, D); a third entry, (B, P) of
            True and False or None, says which of it a row may look at; (B, T, P): each token.
        keep_weights: when True, `weights` holds the last attention weights (B, H, T, P + S).
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__(width, heads, dropout)
        self.memory: tuple[Tensor, ...] | None = None

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: dict | None = None,
    ) -> Tensor:
        """As in MultiHeadAttention. With a cache, earlier tokens are the past.

        cache: a dict that this layer fills and reads; pass the same one at the next step.
        """
        query = self.split(self.query(x))  # (B, H, T, D)
        if context is not None and cache:  # cross-attention: the encoder's output does not change
            key, value = cache["key"], cache["value"]  # (B, H, S, D)
        else:
            source = x if context is None else context
            key = self.split(self.key(source))  # (B, H, S, D)
            value = self.split(self.value(source))  # (B, H, S, D)
            if cache is not None:
                key, value = extend_cache(cache, key, value)  # (B, H, past + T, D)
        if self.memory is not None:
            key, value, mask = self.add_memory(key, value, mask)
        heads = self.mix(query, key, value, mask, causal)  # (B, H, T, D)
        return self.output(self.join(heads))

    def add_memory(
        self, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put the memory before the keys and values; a third entry hides parts of it."""
        B, H, S, D = key.shape
        more_keys, more_values = (m.to(key.dtype) for m in self.memory[:2])  # (B or 1, H, P, D)
        visible = self.memory[2] if len(self.memory) == 3 else None  # (B, P) or (B, T, P)
        rows, heads, P, numbers = more_keys.shape
        if more_values.shape != more_keys.shape or (heads, numbers) != (H, D) or rows not in (1, B):
            raise ValueError(
                f"The memory's keys {tuple(more_keys.shape)} and values {tuple(more_values.shape)} "
                f"must both be ({B} or 1, {H}, P, {D}) for this batch."
            )
        if visible is not None and mask is None:
            mask = key.new_zeros(1, 1, 1, S)
        key, value, mask = put_in_front((more_keys, more_values), key, value, mask)
        if visible is not None:
            visible = visible[:, None] if visible.dim() == 2 else visible  # (B, 1 or T, P)
            hidden = F.pad(~visible, (0, S))[:, None]  # (B, 1, 1 or T, P + S)
            mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        return key, value, mask
