"""Which attention function a transformers model uses, while memories are attached and after."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence

from torch import nn

from minipeft.doors.memory import reading_memory

OURS = "minipeft_"  # what the names of our attention functions begin with


class OpenedAttention:
    """Transformers models whose attention reads memories, and what they used before.

    A model of one's own may have several inside. One that is told to use another implementation
    later is opened again before its next pass.
    """

    def __init__(self, model: nn.Module) -> None:
        from transformers import PreTrainedModel

        every = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
        self.before = [(module, module.config._attn_implementation) for module in every]
        self.opened: list[nn.Module] = []  # innermost first

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        register()  # a model that comes out of a file may be the first in this process

    def open(self, around: Sequence[nn.Module]) -> None:
        """Let the attention in these models, one inside the other, read memories; innermost first.

        Raises:
            ValueError: a model uses a kernel that takes no mask of its own, or attention of its
                own that nothing can be told.
        """
        owner = around[0]
        kind = implementation_of(owner)
        if kind not in ("sdpa", "eager"):
            raise ValueError(
                f"A memory needs attention that takes a mask, and this model uses {kind!r}: load "
                'it with attn_implementation="sdpa".'
            )
        register()
        for module in around:
            if not is_open(module):
                set_attention(module, OURS + kind)
        if not is_open(owner):
            self.restore()
            raise ValueError(
                f"{type(owner).__name__} has no memory door: its attention cannot be extended from "
                "outside. Methods of the words and weights doors do work on it: PromptTuning, "
                "PTuning, LoRA, Adapter, IA3, BitFit."
            )
        self.opened += [module for module in around if module not in self.opened]

    def open_again(self) -> None:
        """After `set_attn_implementation`: keep what was chosen, and open it."""
        closed = [module for module in self.opened if not is_open(module)]
        if closed:
            self.before = [
                (m, old if is_open(m) else implementation_of(m)) for m, old in self.before
            ]
            for module in closed:
                self.open([module])

    def restore(self) -> None:
        """Every model uses again what it used before."""
        for module, before in self.before:  # outermost first: it sets those inside as well
            if module.config._attn_implementation != before:
                set_attention(module, before)


def register() -> None:
    """Tell transformers the names of our attention functions."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for kind in ("sdpa", "eager"):
        AttentionInterface.register(OURS + kind, reading_memory(kind))
        AttentionMaskInterface.register(OURS + kind, AttentionMaskInterface()[kind])


def implementation_of(module: nn.Module) -> str:
    """The attention implementation of a transformers model, ours called by what it stands for."""
    return str(module.config._attn_implementation).removeprefix(OURS)


def is_open(module: nn.Module) -> bool:
    """Does a transformers model use one of our attention functions?"""
    return str(module.config._attn_implementation).startswith(OURS)


def set_attention(module: nn.Module, name: str) -> None:
    """set_attn_implementation, without the warning of models that cannot; they stay as they are."""
    log = logging.getLogger("transformers.modeling_utils")
    quiet, log.disabled = log.disabled, True
    try:
        module.set_attn_implementation(name)
    finally:
        log.disabled = quiet


def models_around(path: str, modules: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The transformers models that a module stands in, innermost first."""
    hub = sys.modules.get("transformers.modeling_utils")
    if hub is None:
        return []
    parts = path.split(".")
    inside = [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
    modules_there = [modules[place] for place in inside if place in modules]
    return [module for module in modules_there if isinstance(module, hub.PreTrainedModel)]
