"""The memory door: extra keys and values that attention reads.

    MemoryDoor    stands where an attention layer stood. Before each call it asks its patches for
                  memories and lays them side by side; the layer reads them before its own:

        softmax(Q [M_k ; K]^T / sqrt D) [M_v ; V]       M_k, M_v (B or 1, H, P, D)

A patch is called with what enters the layer, x (B, T, C), and gives (keys, values), each (B or 1,
H, P, D), H being the number of key-value heads (fewer than query heads under grouped queries).
A row may read the memory of its own tuners only (`route`): `visible` (B, P) says which. A patch
with `since`, an index (B,) for every row, is read by the tokens from there on only: `visible` is
then (B, T, P). So it is with `window`, a number W: the memory stands right before the text, and a
token sees W places back from itself (sliding windows in PEFT's layout); without it every token sees
all of the memory, whatever window its layer has. A patch with `bias`, a function (P, T, S) ->
(1, H, T, P), has a place relative to the tokens (T5 in PEFT's layout); without one the scores of
its keys get no bias.

tiny_transformer's Attention reads its `memory`. transformers' models hand queries, keys and values
to a function that can be chosen by name (AttentionInterface). hub_attention.py chooses one of ours,
which puts the memory in front and passes everything on to the function that was there. Nothing goes
through the cache, so that generation, checkpointing, encoders and cross-attention work alike.

Since every query may look at all of the memory, positions of words do not change; they are counted
over a row's own tokens, since rotary angles that padding has turned would meet the memory's keys
elsewhere (doors/positions.py). `shift` counts them as if the memory stood before the text, which is
how 🤗 PEFT's prefixes see it.

Shapes: B batch, T tokens, S keys, P memory length, H heads, D head width, C width.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.contexts import evaluating
from minipeft.doors.door import Door
from minipeft.doors.patch import MemoryPatch, as_patch

PAST = "past_key_values_length"


class Memory(tuple):
    """(keys, values) (B or 1, H, P, D), visible (B, P) or (B, T, P) or None; if any: [(P, bias)].

    It notices that somebody reads it, and before which keys.
    """

    read, keys = False, None

    def __getitem__(self, index):
        self.read = True
        return super().__getitem__(index)

    def __iter__(self):
        self.read = True
        return super().__iter__()

    def check_once(self, keys: Tensor, layer: nn.Module) -> None:
        """Called before it is put in front of a layer's keys.

        Raises:
            ValueError: it stands before these keys already, as in DiffLlama.
        """
        if self.keys is keys:
            raise ValueError(
                f"A memory does not fit {type(layer).__name__}, which looks several times with the "
                "same keys, each time at a part of its values: take a method of another door, such "
                "as PromptTuning or LoRA."
            )
        self.keys = keys


class MemoryDoor(Door):
    """An attention layer with memories before its keys and values."""

    def forward(self, *args, **kwargs):
        """What the layer gives, called with the same arguments, once it has its memory.

        Raises:
            ValueError: it is called without states (B, T, C), or did not read the memory.
        """
        x = args[0] if args else kwargs.get("hidden_states")  # (B, T, C)
        if x is None:
            raise ValueError(
                f"{self.path} has no memory door: a {type(self.base).__name__} is not called with "
                "hidden_states. Take a method of another door, such as PromptTuning or LoRA."
            )
        captured = getattr(self.base, "captured", None)  # see `capture_keys_values`
        if captured is not None and kwargs.get("cache", 0) is None:  # a tiny_transformer
            kwargs["cache"] = captured
        memory = self.gather(x, self.past(kwargs))
        with WithMemory(self.base, memory):
            y = self.base(*args, **kwargs)
        if memory is not None and not memory.read:
            name = next(name for name in self.patches if self.marks[name].read)
            raise ValueError(
                f"{name!r} was not reached at {self.path}: {type(self.base).__name__} did not read "
                "its memory, because it computes attention by itself or stands around the layer "
                "that does; methods of the words and weights doors do work there, such as "
                "PromptTuning and LoRA."
            )
        return y

    def past(self, kwargs: dict) -> int:
        """How many tokens stand in the cache already."""
        tiny_cache = kwargs.get("cache")  # a tiny_transformer's
        if tiny_cache:
            return tiny_cache["key"].shape[2]
        cache = kwargs.get("past_key_values", kwargs.get("layer_past"))
        return 0 if cache is None else int(cache.get_seq_length(self.base.layer_idx))

    def gather(self, x: Tensor, past: int = 0) -> Memory | None:
        """The memories of all active patches, one after the other; None when there is none."""
        B = x.shape[0]
        keys, values, visible, biases = [], [], [], []
        for module, rows in self.active(B):
            patch = as_patch(module)
            if rows is None:
                k, v = patch(x)  # (B or 1, H, P, D)
            else:
                rows = rows.to(x.device)
                k, v = (self.spread(part, rows, B) for part in patch(x[rows]))  # (B, H, P, D)
            keys.append(k), values.append(v), biases.append((k.shape[2], patch.bias))
            visible.append(visible_to(x, patch, k.shape[2], rows, past))
        if not keys:
            return None
        B = max(k.shape[0] for k in keys)
        key = torch.cat([k.expand(B, -1, -1, -1) for k in keys], dim=2)  # (B or 1, H, P, D)
        value = torch.cat([v.expand(B, -1, -1, -1) for v in values], dim=2)
        memory = (key, value, side_by_side(visible, x, keys))
        return Memory((*memory, biases) if any(bias for _, bias in biases) else memory)

    @staticmethod
    def spread(part: Tensor, rows: Tensor, B: int) -> Tensor:
        """(1 or rows, H, P, D) -> (B, H, P, D), zeros in the other rows, which do not see it."""
        whole = part.new_zeros(B, *part.shape[1:])
        return whole.index_copy(0, rows, part.expand(len(rows), -1, -1, -1))


def visible_to(
    x: Tensor, patch: MemoryPatch, P: int, rows: Tensor | None, past: int
) -> Tensor | None:
    """Which tokens read a patch's memory: (B, P), or (B, T, P) where its place counts; None: all.

    x (B, T, C): what enters the layer.  rows: those it acts on, None for every row.  past: how many
    tokens came before.
    """
    B, T = x.shape[:2]
    window = patch.window if patch.window is not None and P + past + T > patch.window else None
    if rows is None and patch.since is None and window is None:
        return None
    seen = torch.full((B, P), rows is None, device=x.device)
    if rows is not None:
        seen[rows] = True
    if patch.since is not None:
        since = patch.since.to(x.device).repeat_interleave(B // len(patch.since))  # (B,), of beams
        place = past + torch.arange(T, device=x.device)  # (T,)
        seen = seen[:, None] & (place >= since[:, None])[..., None]  # (B, T, P)
    if window is not None:
        distance = P + past + torch.arange(T)[:, None] - torch.arange(P)  # (T, P)
        near = (distance < window).to(x.device)
        seen = (seen if seen.dim() == 3 else seen[:, None]) & near  # (B, T, P)
    return seen


def side_by_side(visible: list, x: Tensor, keys: list[Tensor]) -> Tensor | None:
    """What `visible_to` says of memories, as of one: (B, P), (B, T, P), or None for all tokens."""
    if all(seen is None for seen in visible):
        return None
    B, T = x.shape[:2]
    visible = [
        torch.ones(B, k.shape[2], dtype=torch.bool, device=x.device) if seen is None else seen
        for seen, k in zip(visible, keys, strict=True)
    ]
    if any(seen.dim() == 3 for seen in visible):
        visible = [s if s.dim() == 3 else s[:, None].expand(-1, T, -1) for s in visible]
    return torch.cat(visible, dim=-1)


class WithMemory:
    """Inside, an attention layer has a memory; an interrupted pass leaves nothing of it behind."""

    def __init__(self, layer: nn.Module, memory: Memory | None) -> None:
        self.layer, self.memory, self.kept = layer, memory, "memory" in vars(layer)

    def __enter__(self) -> None:
        self.layer.memory = self.memory

    def __exit__(self, *_) -> None:
        if self.kept:
            self.layer.memory = None
        else:
            vars(self.layer).pop("memory", None)


class PositionDoor(Door):
    """Where positions are looked up: every token stands `shift` places further back.

    A patch is a PositionShift. Padding keeps the position that it has by itself in models which
    give it one (RoBERTa, OPT); but not where positions are `given` to the model, as `generate` of
    transformers gives them: there any number may be a word's.
    """

    given = False

    def forward(self, *args, **kwargs):
        """What the base gives for positions that are `shift` higher.

        Raises:
            ValueError: patches act on some rows of the batch only.
        """
        shift = 0
        for name, patch in self.patches.items():
            acts = [name in names for names in self.routing or [(name,)]]
            if name in self.off or not any(acts):
                continue
            if not all(acts):
                raise ValueError(
                    "Rows of one batch cannot count positions differently: a prefix in PEFT's "
                    "layout must act on every row, or on none."
                )
            self.marks[name].read = True
            shift += patch.shift
        if not shift:
            return self.base(*args, **kwargs)
        names = list(inspect.signature(self.base.forward).parameters)
        named = {**dict(zip(names, args, strict=False)), **kwargs}  # every argument by its name
        if named.get("position_ids") is not None:  # rotary angles; the tables of OPT and BART
            return self.base(**{**named, "position_ids": self.moved(named["position_ids"], shift)})
        if PAST in names:  # M2M100 counts by itself, on from what it is told
            return self.base(**{**named, PAST: named.get(PAST, 0) + shift})
        whole = [isinstance(v, Tensor) and not v.is_floating_point() for v in args]  # Qwen: the 2nd
        args = [self.moved(v, shift) if w else v for v, w in zip(args, whole, strict=True)]
        return self.base(*args, **kwargs)

    def moved(self, positions: Tensor, shift: int) -> Tensor:
        """Positions that are `shift` higher, those of padding left as they are.

        Raises:
            ValueError: the table of positions ends before the last one.
        """
        padding = None if self.given else getattr(self.base, "padding_idx", None)
        positions = positions + shift * (positions > (-1 if padding is None else padding))
        rows = getattr(self.base, "num_embeddings", None)
        last = int(positions.max()) + (getattr(self.base, "offset", None) or 0)
        if rows is not None and last >= rows:
            raise ValueError(
                f"Behind a prefix of {shift} the input ends at a position that this model does "
                "not know: shorten the input or the prefix."
            )
        return positions


# ---- transformers ----


def reading_memory(kind: str) -> Callable:
    """An attention function for transformers: memory in front, then the function of that kind."""

    def attention(module, query, key, value, attention_mask, **kwargs):
        from transformers import AttentionInterface

        if kind == "eager":  # every architecture writes its own, in the file of its classes
            files = (vars(sys.modules[cls.__module__]) for cls in type(module).__mro__)
            original = next(filter(None, (file.get("eager_attention_forward") for file in files)))
        else:
            original = AttentionInterface()[kind]
        captured = getattr(module, "captured", None)
        if captured is not None:
            captured.update(key=key, value=value)
        memory = getattr(module, "memory", None)
        if memory is not None:
            T, S = query.shape[2], key.shape[2]
            causal = kwargs.get("is_causal")
            causal = getattr(module, "is_causal", True) if causal is None else causal
            if isinstance(memory, Memory):
                memory.check_once(key, module)
            key, value, attention_mask = memory_in_front(
                memory, query, key, value, attention_mask, causal
            )
            if kind == "eager" and attention_mask is not None:
                attention_mask = as_numbers(attention_mask, query.dtype)
            bias = kwargs.get("position_bias")  # T5: (1, H, T, S)
            if bias is not None and len(memory) == 3:  # no place, so no bias
                kwargs["position_bias"] = F.pad(bias, (memory[0].shape[2], 0))
            elif bias is not None:
                front = [
                    function(P, T, S).to(bias) if function else bias.new_zeros(*bias.shape[:-1], P)
                    for P, function in memory[3]
                ]
                kwargs["position_bias"] = torch.cat([*front, bias], dim=-1)  # (1, H, T, P + S)
            if kind == "sdpa":
                kwargs["is_causal"] = False
        return original(module, query, key, value, attention_mask, **kwargs)

    return attention


def memory_in_front(
    memory: Memory, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Memory before keys and values (B, H, S, D), and the mask that goes with it.

    mask: (B or 1, 1 or H, T or 1, S), bool (True: may look) or numbers to add; None: look
    everywhere, or only at the past if causal.
    """
    more_keys, more_values, visible = memory[:3]
    B, _, S, _ = key.shape
    T, P = query.shape[2], more_keys.shape[2]
    (H, D), fits = key.shape[1::2], [(key.shape, more_keys.shape), (value.shape, more_values.shape)]
    if any(shape[1::2] != new[1::2] for shape, new in fits):
        raise ValueError(
            f"A memory of {more_keys.shape[1]} heads of width {more_keys.shape[3]} does not fit "
            f"this layer, which attends with keys of {H} heads of width {D} and values of width "
            f"{value.shape[3]}: take a method of another door, such as PromptTuning or LoRA."
        )
    key = torch.cat([more_keys.to(key).expand(B, -1, -1, -1), key], dim=2)  # (B, H, P + S, D)
    value = torch.cat([more_values.to(value).expand(B, -1, -1, -1), value], dim=2)
    if mask is None and causal and T > 1:
        past = torch.ones(T, S, dtype=torch.bool, device=key.device).tril()
        mask = past[None, None]  # (1, 1, T, S); behind T a static cache is empty yet
    if visible is None and mask is not None:
        mask = F.pad(mask, (P, 0), value=float(mask.dtype == torch.bool))  # True; to add: 0
    if visible is None:
        return key, value, mask
    if mask is None:
        mask = torch.ones(1, 1, T, S, dtype=torch.bool, device=key.device)
    front = visible[:, None, None] if visible.dim() == 2 else visible[:, None]  # (B or 1, 1, ., P)
    if mask.dtype != torch.bool:
        front = as_numbers(front, mask.dtype)
    rows, heads = max(front.shape[0], mask.shape[0]), mask.shape[1]
    front, mask = front.expand(rows, heads, T, P), mask.expand(rows, heads, T, S)
    return key, value, torch.cat([front, mask], dim=-1)


def as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to the scores: 0 where one may look, elsewhere the smallest number."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


@torch.no_grad()
def capture_keys_values(
    model: nn.Module, layers: Sequence[nn.Module], batch: dict, reader: nn.Module | None = None
) -> list[Tensor]:
    """What attention layers make of a batch by themselves: keys and values (2, B, H, S, D) of each.

    layers: modules that stand behind a memory door. Every tuner of the model is off meanwhile.
    reader: the module that is called, in the model; None for the model itself.
    """
    with evaluating(model), ExitStack() as stack:
        for tuner in model.minipeft.tuners.values():
            if not tuner.merged:
                stack.enter_context(tuner.disabled())
        try:
            for layer in layers:
                layer.captured = {}
            (reader or model)(**batch)
            return [
                torch.stack([layer.captured["key"], layer.captured["value"]]) for layer in layers
            ]
        finally:
            for layer in layers:
                del layer.captured
