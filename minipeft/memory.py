"""The memory door: extra keys and values that attention reads.

    MemoryDoor    stands where an attention layer stood. Before each call it asks its patches for
                  memories and lays them side by side; the layer reads them before its own:

        softmax(Q [M_k ; K]^T / sqrt D) [M_v ; V]       M_k, M_v (B or 1, H, P, D)

A patch is called with what enters the layer, x (B, T, C), and gives (keys, values), each (B or 1,
H, P, D), H being the number of key-value heads (fewer than query heads under grouped queries).
A row may read the memory of its own tuners only (`route`): `visible` (B, P) says which.

tiny_transformer's Attention reads its `memory`. transformers' models hand queries, keys and values
to a function that can be chosen by name (AttentionInterface). `open_attention` chooses one of ours,
which puts the memory in front and passes everything on to the function that was there. Nothing goes
through the cache, so that generation, checkpointing, encoders and cross-attention work alike.

Since every query may look at all of the memory, positions of words do not change. `shift` counts
them as if the memory stood before the text, which is how 🤗 PEFT's prefixes see it.

Shapes: B batch, T tokens, S keys, P memory length, H heads, D head width, C width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors import Door

Memory = tuple[Tensor, Tensor, Tensor | None]  # keys, values (B or 1, H, P, D), visible (B, P)


class MemoryDoor(Door):
    """An attention layer with memories before its keys and values."""

    def forward(self, *args, **kwargs):
        x = args[0] if args else kwargs["hidden_states"]  # (B, T, C)
        self.base.memory = self.gather(x)
        try:
            return self.base(*args, **kwargs)
        finally:
            self.base.memory = None

    def gather(self, x: Tensor) -> Memory | None:
        """The memories of all active patches, one after the other; None when there is none."""
        B = x.shape[0]
        keys, values, visible = [], [], []
        for patch, rows in self.active(B):
            if rows is None:
                k, v = patch(x)  # (B or 1, H, P, D)
                seen = torch.ones(B, k.shape[2], dtype=torch.bool, device=x.device)
            else:
                rows = rows.to(x.device)
                k, v = (self.spread(part, rows, B) for part in patch(x[rows]))  # (B, H, P, D)
                seen = torch.zeros(B, k.shape[2], dtype=torch.bool, device=x.device)
                seen[rows] = True
            keys.append(k), values.append(v), visible.append(seen)
        if not keys:
            return None
        B = max(k.shape[0] for k in keys)
        key = torch.cat([k.expand(B, -1, -1, -1) for k in keys], dim=2)  # (B or 1, H, P, D)
        value = torch.cat([v.expand(B, -1, -1, -1) for v in values], dim=2)
        seen = torch.cat(visible, dim=1)  # (B, P)
        return key, value, None if self.rows is None or bool(seen.all()) else seen

    @staticmethod
    def spread(part: Tensor, rows: Tensor, B: int) -> Tensor:
        """(1 or rows, H, P, D) -> (B, H, P, D), zeros in the other rows, which do not see it."""
        whole = part.new_zeros(B, *part.shape[1:])
        return whole.index_copy(0, rows, part.expand(len(rows), -1, -1, -1))


class PositionDoor(Door):
    """Where positions are looked up: every token stands `shift` places further back.

    A patch is a module with a whole number `shift`.
    """

    def forward(self, *args, **kwargs):
        shift = 0
        for patch, rows in self.active(len(self.rows or [None])):
            if rows is not None and len(rows) < len(self.rows):
                raise ValueError(
                    "Rows of one batch cannot count positions differently: a prefix in PEFT's "
                    "layout must act on every row, or on none."
                )
            shift += patch.shift
        if not shift:
            return self.base(*args, **kwargs)
        args = [self.moved(value, shift) for value in args]
        return self.base(*args, **{k: self.moved(v, shift) for k, v in kwargs.items()})

    @staticmethod
    def moved(value, shift: int):
        whole = isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())
        return value + shift if whole and value.dtype != torch.bool else value


# ---- transformers ----


def open_attention(model: nn.Module) -> str | None:
    """Let a transformers model's attention read `memory`; returns what it used before.

    Raises:
        ValueError: the model uses a kernel that takes no mask of its own.
    """
    if not hasattr(model, "set_attn_implementation"):
        return None  # tiny_transformer reads its memory by itself
    from transformers import AttentionInterface, AttentionMaskInterface

    before = model.config._attn_implementation
    if before not in ("sdpa", "eager"):
        raise ValueError(
            f"A memory needs attention that takes a mask, and this model uses {before!r}: load it "
            'with attn_implementation="sdpa".'
        )
    for kind in ("sdpa", "eager"):
        AttentionInterface.register(f"minipeft_{kind}", reading_memory(kind))
        AttentionMaskInterface.register(f"minipeft_{kind}", AttentionMaskInterface()[kind])
    model.set_attn_implementation(f"minipeft_{before}")
    return before


def reading_memory(kind: str) -> Callable:
    """An attention function for transformers: memory in front, then the function of that kind."""

    def attention(module, query, key, value, attention_mask, **kwargs):
        from transformers import AttentionInterface

        if kind == "eager":  # every architecture writes its own, in the file of its classes
            original = sys.modules[type(module).__module__].eager_attention_forward
        else:
            original = AttentionInterface()[kind]
        memory = getattr(module, "memory", None)
        if memory is not None:
            causal = kwargs.get("is_causal")
            causal = getattr(module, "is_causal", True) if causal is None else causal
            key, value, attention_mask = before(memory, query, key, value, attention_mask, causal)
            if kwargs.get("position_bias") is not None:  # T5: no place, so no bias
                kwargs["position_bias"] = F.pad(kwargs["position_bias"], (memory[0].shape[2], 0))
            if kind == "sdpa":
                kwargs["is_causal"] = False
        return original(module, query, key, value, attention_mask, **kwargs)

    return attention


def before(
    memory: Memory, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Memory before keys and values (B, H, S, D), and the mask that goes with it.

    mask: (B or 1, 1, T, S), bool (True: may look) or numbers to add; None: look everywhere, or only
    at the past if causal.
    """
    more_keys, more_values, visible = memory
    B, _, S, _ = key.shape
    T, P = query.shape[2], more_keys.shape[2]
    key = torch.cat([more_keys.to(key).expand(B, -1, -1, -1), key], dim=2)  # (B, H, P + S, D)
    value = torch.cat([more_values.to(value).expand(B, -1, -1, -1), value], dim=2)
    if mask is None and causal and T > 1:
        past = torch.ones(T, S, dtype=torch.bool, device=key.device).tril(S - T)
        mask = past[None, None]  # (1, 1, T, S)
    if mask is None and visible is None:
        return key, value, None
    if mask is None:
        mask = torch.ones(1, 1, T, S, dtype=torch.bool, device=key.device)
    if visible is None:
        visible = torch.ones(1, P, dtype=torch.bool, device=key.device)
    front = visible[:, None, None, :]  # (B or 1, 1, 1, P)
    if mask.dtype != torch.bool:
        hidden = torch.zeros(front.shape, dtype=mask.dtype, device=mask.device)
        front = hidden.masked_fill(~front, torch.finfo(mask.dtype).min)
    rows = max(front.shape[0], mask.shape[0])
    front = front.expand(rows, 1, T, P)
    return key, value, torch.cat([front, mask.expand(rows, -1, -1, -1)], dim=-1)
