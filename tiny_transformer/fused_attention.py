"""The attention of attention.py by torch's kernel, which never keeps the weights (B, H, T, S).

The models use it: it takes less memory, and less time for the future that it need not look at.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .attention import Attention


class FusedAttention(Attention):
    """`Attention` with the same parameters and results (up to rounding), one kernel for `mix`."""

    def mix(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """As in `Attention`; by hand where weights are wanted, which the kernel does not give."""
        if self.keep_weights:
            return super().mix(query, key, value, mask, causal)
        T, S = query.shape[2], key.shape[2]
        causal = causal and T > 1  # the newest token alone has no future to be hidden
        if causal and (mask is not None or T < S):
            mask, causal = self.hide_future(query, key, mask), False
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal
        )
