"""Multi-head attention: Vaswani et al. 2017, section 3.2.2, with a cache and the memory door."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from minipeft.checks.exercises.attention_mistakes import MISTAKES
from minipeft.checks.framework import DROPOUT, OMIT, Case, Check, Draw, Trial, call, expect

STEPS = {"one by one": (3, 1, 1), "several": (2, 3), "all single": (1, 1, 1), "whole": (4,)}


def build(Attention: type, case: Case) -> nn.Module:
    """Attention(width, heads, dropout), in training or not."""
    layer = call(Attention, case.heads * case.D, case.heads, dropout=case.dropout)
    return layer.train() if case.training else layer.eval()


def padding(draw: Draw, B: int, T: int, S: int, kind: str) -> Tensor:
    """A mask (B, 1, 1 or T, S) whose first key is always open."""
    rows = {"padding": 1, "per query": T}[kind]
    closed = torch.rand(B, 1, rows, S, generator=draw.generator) < 0.5
    closed[..., 0] = False
    zeros = torch.zeros(closed.shape, dtype=draw.dtype)
    return zeros.masked_fill(closed, torch.finfo(draw.dtype).min)


def memory(draw: Draw, case: Case):
    """Keys and values (1 or B, H, P, D), or None."""
    if case.memory == "none":
        return None
    rows = 1 if case.memory == "for all" else case.B
    return tuple(draw.normal(rows, case.heads, 2, case.D) for _ in range(2))


def inputs(case: Case, draw: Draw) -> dict:
    """x (B, T, C), context (B, S, C) or none, mask, memory."""
    C = case.heads * case.D
    S = {"shorter": 2, "longer": case.T + 2}.get(case.context, case.T)
    context = case.context
    if context not in (OMIT, None):
        context = draw.normal(case.B, S, C)
    mask = case.mask
    if mask not in (OMIT, None):
        mask = draw.whole(padding(draw, case.B, case.T, S, mask))
    x = draw.normal(case.B, case.T, C)
    return {"x": x, "context": context, "mask": mask, "memory": memory(draw, case)}


def run(layer, case: Case, given) -> Tensor:
    layer.memory, layer.keep_weights = given.memory, case.keep_weights
    return call(layer, given.x, context=given.context, mask=given.mask, causal=case.causal)


def step_inputs(case: Case, draw: Draw) -> dict:
    """A whole text and its mask, to be read in steps with a cache."""
    T, C = sum(STEPS[case.steps]), case.heads * case.D
    cross = case.context == "given"
    S = 3 if cross else T
    return {
        "x": draw.normal(case.B, T, C),
        "context": draw.normal(case.B, S, C) if cross else None,
        "mask": padding(draw, case.B, T, S, "padding") if case.mask else None,
        "memory": memory(draw, case),
        "cache": {},
    }


def run_steps(layer, case: Case, given) -> dict:
    """Read the text step by step; what comes out, and whether the cache is filled."""
    layer.memory, layer.keep_weights = given.memory, case.keep_weights
    cross, outputs = given.context is not None, []
    for a, b in pairwise(accumulate(STEPS[case.steps], initial=0)):
        mask = given.mask
        if mask is not None and not cross:
            mask = mask[..., :b]  # (B, 1, 1, past + T)
        outputs.append(
            call(
                layer,
                given.x[:, a:b],
                given.context,
                mask=mask,
                causal=case.causal,
                cache=given.cache,
            )
        )
        _lengths(given.cache, b, cross, given)
    return {"outputs": outputs, "filled": bool(given.cache) or cross}


def _lengths(cache: dict, seen: int, cross: bool, given) -> None:
    """A cache holds each key once, and no memory."""
    longest = given.context.shape[1] if cross else seen
    lengths = {part.shape[2] for part in cache.values() if isinstance(part, Tensor)}
    if max(lengths, default=0) <= longest:
        return
    expect(
        given.memory is None,
        "the memory enters the cache, so the next step would add it again: fill the cache first",
    )
    expect(
        not cross,
        "in cross-attention the cache grows at every step: the context does not change, so its "
        "keys and values are stored once",
    )
    expect(False, f"after {seen} tokens the cache holds {max(lengths)} keys: each is stored once")


def heads_of(case: Case, draw: Draw) -> dict:
    return {"heads": draw.normal(case.B, case.heads, case.T, case.D)}


def x_of(case: Case, draw: Draw) -> dict:
    return {"x": draw.normal(case.B, case.T, case.heads * case.D)}


PLAIN = {"dropout": (0.0,), "training": (False,)}
SIZES = {"B": (2, 1, 3), "T": (5, 1, 2), "heads": (2, 1, 3), "D": (3, 1, 2, 6)}
MADE = {"dropout": (OMIT, 0.0, 0.3), "training": (False, True)}


def possible(case: Case) -> bool:
    """Dropout in training has a trial of its own; a causal cross-attention means nothing."""
    quiet = not (case.training and case.dropout == 0.3)
    return quiet and not (case.causal is True and case.context not in (OMIT, None))


attention = Check(
    "attention",
    "tiny_transformer.attention:Attention",
    "heads split and joined, masks, cross-attention, a cache that changes nothing, the memory door",
    [
        Trial(
            "split(x)",
            x_of,
            lambda layer, case, given: layer.split(given.x),
            build=build,
            axes={**SIZES, **PLAIN},
        ),
        Trial(
            "join(heads)",
            heads_of,
            lambda layer, case, given: layer.join(given.heads),
            build=build,
            axes={**SIZES, **PLAIN},
        ),
        Trial(
            "the output",
            inputs,
            run,
            build=build,
            axes={
                **SIZES,
                "context": (OMIT, None, "longer", "same length", "shorter"),
                "mask": (OMIT, None, "padding", "per query"),
                "causal": (OMIT, False, True),
                "memory": ("none", "for all", "per row"),
                "keep_weights": (False, True),
                **MADE,
            },
            valid=possible,
            draws=True,
        ),
        Trial(
            "the output with a cache",
            step_inputs,
            run_steps,
            build=build,
            axes={
                "steps": ("one by one", "several", "all single", "whole"),
                "B": (2, 1),
                "heads": (2, 1),
                "D": (3, 1),
                "context": ("none", "given"),
                "mask": (False, True),
                "causal": (True, OMIT),
                "memory": ("none", "for all", "per row"),
                "keep_weights": (False, True),
                "dropout": (0.0, 0.3),
                "training": (False, True),
            },
            valid=lambda case: (
                (case.context == "none" or case.causal is OMIT)
                and not (case.training and case.dropout)
            ),
            scratch=("cache",),
            draws=True,
        ),
        Trial(
            "the output in training",
            lambda case, draw: x_of(case, draw) | {"context": None, "mask": None, "memory": None},
            run,
            build=build,
            axes={
                "dropout": (0.5, 0.1, 0.0),
                "T": (2, 1),
                "heads": (1, 2),
                "D": (2, 1),
                "B": (1,),
                "causal": (False, True),
                "keep_weights": (False, True),
                "training": (True,),
                "context": (None,),
            },
            valid=lambda case: case.T * case.heads < 4,
            **DROPOUT,
        ),
    ],
    MISTAKES,
    blank=("split", "join", "forward"),
)
