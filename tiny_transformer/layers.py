"""The two sublayers and the block that joins them: Vaswani et al. 2017, section 3.1 and 3.3.

    FFN(x) = phi(x W_up + b_up) W_down + b_down                     (eq. 2)

    post-norm (2017, BERT, BART):  x <- LayerNorm(x + sublayer(x))
    pre-norm  (GPT-2):             x <- x + sublayer(LayerNorm(x))

Sublayers: self-attention, then cross-attention if there is an encoder to read, then FFN.
Parameters of a block without cross-attention: 4 C^2 + 4 C + 2 C I + I + C + 4 C, I the inner width
(with I = 4 C that is 12 C^2 + 13 C).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention
from .config import TransformerConfig

ACTIVATION = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


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
        own = None if cache is None else cache.setdefault("self", {})
        x = self.add(
            x,
            lambda h: self.attention(h, mask=mask, causal=causal, cache=own),
            self.attention_norm,
        )
        if context is not None:
            read = None if cache is None else cache.setdefault("cross", {})
            x = self.add(
                x,
                lambda h: self.cross_attention(h, context, mask=context_mask, cache=read),
                self.cross_attention_norm,
            )
        return self.add(x, self.feed_forward, self.feed_forward_norm)
