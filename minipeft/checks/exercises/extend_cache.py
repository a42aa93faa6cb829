"""The key-value cache of one layer: what was computed for earlier tokens is kept."""

from __future__ import annotations

from itertools import accumulate, pairwise

from torch import Tensor

from minipeft.checks.framework import Case, Check, Draw, Trial, expect, mistake

STEPS = {
    "prompt, then one by one": (3, 1, 1),
    "several": (2, 3),
    "whole": (4,),
    "single": (1, 1),
    "long": (260, 4),
}


def inputs(case: Case, draw: Draw) -> dict:
    """Keys and values (B, H, T, D) of all tokens, which come step by step, and a new cache."""
    shape = case.B, case.H, sum(STEPS[case.steps]), case.D
    return {"key": draw.normal(*shape), "value": draw.normal(*shape), "cache": {}}


def run(extend_cache, case: Case, given) -> dict:
    """What every step gives back, and what the cache holds in the end."""
    steps = []
    for a, b in pairwise(accumulate(STEPS[case.steps], initial=0)):
        both = extend_cache(given.cache, given.key[:, :, a:b], given.value[:, :, a:b])
        expect(both is not None, "it should return keys and values (is a return missing?)")
        expect(
            isinstance(both, (tuple, list)) and len(both) == 2,
            "extend_cache should return two tensors, the keys and the values of all tokens so far",
        )
        steps.append(tuple(both))
    expect(
        {"key", "value"} <= given.cache.keys(),
        'the cache stays empty: keep what the next step needs in cache["key"] and cache["value"]',
    )
    for name in ("key", "value"):
        held = given.cache[name]
        expect(isinstance(held, Tensor), f'cache["{name}"] should be a tensor, (B, H, past + T, D)')
    return {"steps": steps, "key": given.cache["key"], "value": given.cache["value"]}


KEYS = 'key = torch.cat([cache["key"], key], dim=2)'
VALUES = 'value = torch.cat([cache["value"], value], dim=2)'
STORE = 'cache["key"], cache["value"] = key, value'
BOTH = "return key, value"
READ = "if cache:"

MISTAKES = [
    mistake(
        "the cache is filled but not read: put the cached keys and values before the new ones",
        (READ, "if False:"),
    ),
    mistake(
        "the cache keeps the first step only: store the past and the new ones together, each time",
        (STORE, 'cache.setdefault("key", key), cache.setdefault("value", value)'),
    ),
    mistake(
        "the cache keeps the new tokens only: store the past and the new ones together",
        (READ, f"new = key, value\n    {READ}"),
        (STORE, 'cache["key"], cache["value"] = new'),
    ),
    mistake(
        "the new tokens stand before the cached ones: put the past first",
        (KEYS, 'key = torch.cat([key, cache["key"]], dim=2)'),
        (VALUES, 'value = torch.cat([value, cache["value"]], dim=2)'),
    ),
    mistake(
        "the new keys stand before the cached ones: put the past first",
        (KEYS, 'key = torch.cat([key, cache["key"]], dim=2)'),
    ),
    mistake(
        "the new values stand before the cached ones: put the past first",
        (VALUES, 'value = torch.cat([value, cache["value"]], dim=2)'),
    ),
    mistake(
        "the cached keys are not put before the new ones: keys and values both have a past",
        (KEYS, "pass"),
    ),
    mistake(
        "the cached values are not put before the new ones: keys and values both have a past",
        (VALUES, "pass"),
    ),
    mistake(
        'the cache keeps no values: the next step reads cache["value"], too',
        (STORE, 'cache["key"] = key'),
    ),
    mistake(
        'the cache keeps no keys: the next step reads cache["key"], too',
        (STORE, 'cache["value"] = value'),
    ),
    mistake(
        "keys and values have changed places in the cache",
        (STORE, 'cache["value"], cache["key"] = key, value'),
    ),
    mistake(
        "keys and values have changed places: return the keys first", (BOTH, "return value, key")
    ),
    mistake(
        "the values are made of the cached keys: each has its own entry",
        (VALUES, 'value = torch.cat([cache["key"], value], dim=2)'),
    ),
    mistake(
        "only the new tokens are given back: a query looks at all tokens so far",
        (BOTH, "return key[:, :, -T:], value[:, :, -T:]"),
        (READ, f"T = key.shape[2]\n    {READ}"),
    ),
    mistake(
        "what is cached is cut off from the graph: keep the tensors as they are",
        (STORE, 'cache["key"], cache["value"] = key.detach(), value.detach()'),
    ),
    mistake(
        "tokens are joined along the heads (dim 1): in (B, H, T, D) they are dim 2",
        (KEYS, 'key = torch.cat([cache["key"], key], dim=1)'),
        (VALUES, 'value = torch.cat([cache["value"], value], dim=1)'),
    ),
    mistake(
        "tokens are joined along the batch (dim 0): in (B, H, T, D) they are dim 2",
        (KEYS, 'key = torch.cat([cache["key"], key], dim=0)'),
        (VALUES, 'value = torch.cat([cache["value"], value], dim=0)'),
    ),
    mistake(
        "tokens are joined along the last axis, the D numbers of a head: in (B, H, T, D) they are "
        "dim 2",
        (KEYS, 'key = torch.cat([cache["key"], key], dim=-1)'),
        (VALUES, 'value = torch.cat([cache["value"], value], dim=-1)'),
    ),
]

extend_cache = Check(
    "extend_cache",
    "tiny_transformer.attention:extend_cache",
    "the past before the new tokens, given back and kept, in steps of any size",
    [
        Trial(
            "what the steps give",
            inputs,
            run,
            axes={
                "steps": tuple(STEPS),
                "B": (2, 1),
                "H": (2, 1, 3),
                "D": (3, 1),
            },
            scratch=("cache",),
            names={
                "key": 'cache["key"]',
                "value": 'cache["value"]',
                **{
                    f"steps[{i}][{j}]": f"{what} after step {i + 1}"
                    for i in range(3)
                    for j, what in enumerate(("key", "value"))
                },
            },
        )
    ],
    MISTAKES,
)
