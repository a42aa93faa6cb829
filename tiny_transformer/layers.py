"""What stands before the blocks and what a block is made of: Vaswani et al. 2017, section 3.

    x_t    = word(id_t) + position(t) (+ type_t, LayerNorm)         (section 3.4, 3.5)
    FFN(x) = phi(x W_up + b_up) W_down + b_down                     (eq. 2)

    post-norm (2017, BERT, BART):  x <- LayerNorm(x + sublayer(x))
    pre-norm  (GPT-2):             x <- x + sublayer(LayerNorm(x))

Sublayers: self-attention, then cross-attention if there is an encoder to read, then FFN.

Parameters, I the inner width:

    embeddings                     (V + positions + offset + types) C, and 2 C with a LayerNorm
    feed-forward                   2 C I + I + C
    block                          4 C^2 + 4 C + 2 C I + I + C + 4 C; with I = 4 C 12 C^2 + 13 C
    block with cross-attention     4 C^2 + 6 C more
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import TransformerConfig
from .fused_attention import FusedAttention as Attention  # attention.py's, by torch's kernel

ACTIVATION = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class Embeddings(nn.Module):
    """Word + position (+ segment) vectors: the words door is `embeddings.words`."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        C = config.width
        self.config = config
        self.words = nn.Embedding(config.vocab_size, C)
        self.positions = nn.Embedding(config.positions + config.position_offset, C)
        self.types = nn.Embedding(config.token_types, C) if config.token_types else None
        self.norm = nn.LayerNorm(C, eps=config.norm_epsilon) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout)
        self.scale = C**0.5 if config.scale_embedding else None

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor | None = None) -> Tensor:
        """Ids and positions (B, T) -> vectors (B, T, C)."""
        x = self.words(ids)  # (B, T, C)
        if self.scale is not None:
            x = x * self.scale
        x = x + self.positions(positions + self.config.position_offset)
        if self.types is not None:
            x = x + self.types(torch.zeros_like(ids) if types is None else types)
        if self.norm is not None:
            x = self.norm(x)
        return self.dropout(x)


def count_positions(
    ids: Tensor, attention_mask: Tensor | None, limit: int, past: int = 0
) -> Tensor:
    """Ids (B, T) -> positions (B, T): 0, 1, 2, ... over the real tokens, after `past` cached ones.

    Raises:
        ValueError: when the sequence is longer than the model's table of positions, or the mask
            (B, past + T) has another shape.
    """
    B, T = ids.shape
    S = past + T
    if S > limit:
        raise ValueError(
            f"The input has {S} tokens but the model knows {limit} positions; shorten the input."
        )
    if attention_mask is None:
        return torch.arange(past, S, device=ids.device).expand(B, T)
    if attention_mask.shape != (B, S):
        raise ValueError(
            f"The attention mask is {tuple(attention_mask.shape)} but must be {(B, S)}: one number "
            "per token, cached tokens included."
        )
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]


class FeedForward(nn.Module):
    """Equation 2: the same two linear maps at every token.

    Args:
        width: C.
        inner: I, the width between the two maps.
        activation: phi, one of "gelu", "gelu_tanh", "relu".
    """

    def __init__(self, width: int, inner: int, activation: str = "gelu_tanh"):
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.activation = ACTIVATION[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, I) -> (B, T, C)."""
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """One layer of the transformer: each sublayer adds to the residual stream.

    Args:
        config: the numbers.
        cross: also read an encoder's output (the decoder of an encoder-decoder).
    """

    def __init__(self, config: TransformerConfig, cross: bool = False):
        super().__init__()
        C, epsilon = config.width, config.norm_epsilon
        self.pre_norm = config.norm == "pre"
        self.attention = Attention(C, config.heads, config.dropout)
        self.attention_norm = nn.LayerNorm(C, eps=epsilon)
        if cross:
            self.cross_attention = Attention(C, config.heads, config.dropout)
            self.cross_attention_norm = nn.LayerNorm(C, eps=epsilon)
        self.feed_forward = FeedForward(C, config.inner_width, config.activation)
        self.feed_forward_norm = nn.LayerNorm(C, eps=epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def add(self, x: Tensor, sublayer, norm: nn.LayerNorm) -> Tensor:
        """x plus what the sublayer says, normalised before (pre) or after (post)."""
        if self.pre_norm:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        cache: dict | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); see `Attention.forward` for masks and cache."""
        self_cache = None if cache is None else cache.setdefault("self", {})
        x = self.add(
            x,
            lambda h: self.attention(h, mask=mask, causal=causal, cache=self_cache),
            self.attention_norm,
        )
        if context is not None:
            cross_cache = None if cache is None else cache.setdefault("cross", {})
            x = self.add(
                x,
                lambda h: self.cross_attention(h, context, mask=context_mask, cache=cross_cache),
                self.cross_attention_norm,
            )
        return self.add(x, self.feed_forward, self.feed_forward_norm)
