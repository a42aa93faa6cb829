"""What a model is called with: its arguments by name, what is cached, what is encoded already."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache

from torch import Tensor, nn

from minipeft.doors.words import cached_tokens

CACHES = ("past_key_values", "cache")
ENCODED = ("encoder_outputs", "encoder_states")


def named_arguments(module: nn.Module, args: tuple, kwargs: dict) -> dict:
    """The arguments of a call by name."""
    if not args:
        return kwargs
    try:
        signature = inspect.signature(module.forward)
        named = dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError:  # the call itself will say what is wrong
        return kwargs
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(parameter.name, {})
    return named


def takes(module: nn.Module, name: str) -> bool:
    """Is this an argument of the module?"""
    names = arguments_of(module)
    return name in names or "**" in names


def arguments_of(module: nn.Module) -> frozenset[str]:
    """The names of the arguments of a call, and "**" if it takes any other as well."""
    return argument_names(getattr(module.forward, "__func__", module.forward))


@lru_cache(maxsize=256)
def argument_names(function: Callable) -> frozenset[str]:
    """The names of a function's arguments, and "**" if it takes any other as well."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset("**" if p.kind is p.VAR_KEYWORD else p.name for p in parameters)


def past_tokens(given: dict) -> int:
    """How many tokens stand in the cache that was given."""
    return cached_tokens(next((given[name] for name in CACHES if name in given), None))


def encoded(given: dict) -> Tensor | None:
    """An encoder's outputs (B, S, C) that were given."""
    states = next((given[name] for name in ENCODED if name in given), None)
    return states if states is None or isinstance(states, Tensor) else states[0]
