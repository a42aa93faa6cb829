"""The modules of a model by name, doors looked through, and what its family calls them."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields
from fnmatch import fnmatchcase

from torch import nn

from minipeft.doors.door import bottom, walk
from minipeft.doors.layers import is_linear
from minipeft.model.families import FAMILIES
from minipeft.model.family import Family, Slice
from minipeft.model.kind import config_of, kind_of


def setting(config, name: str):
    """What a config says; None where it says nothing, or that layers differ in it."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # of a config of transformers with settings for each layer
        return None


def key_value_heads(config) -> int | None:
    """How many heads keys and values have, where a config says that it differs from queries."""
    if setting(config, "multi_query") and not setting(config, "new_decoder_architecture"):
        return 1  # Falcon and GPTBigCode
    return setting(config, "num_kv_heads") or setting(config, "num_key_value_heads")


class Names:
    """What every look-up in a model begins with."""

    def __init__(self, model: nn.Module, family: Family | None = None) -> None:
        config = config_of(model)
        tiny = getattr(config, "kind", None)  # a tiny_transformer has a kind, not a model_type
        self.model, self.config = model, config
        self.kind = kind_of(model)  # "decoder", "encoder" or "encoder-decoder"
        self.model_type = f"tiny-{tiny}" if tiny else getattr(config, "model_type", None)
        self.family = family or next(
            (known for known in FAMILIES if self.model_type in known.model_types), None
        )
        self.copied: tuple[str, ...] = ()  # heads of which copies are trained
        self.modules = dict(walk(model))
        self.lists = [path for path, m in self.modules.items() if isinstance(m, nn.ModuleList)]

    def matching(self, *patterns: str) -> list[str]:
        """The paths that the first pattern that matches anything matches."""
        for pattern in patterns:
            if pattern in self.modules:
                return [pattern]
            if re.search(r"[*?\[]", pattern):
                paths = [path for path in self.modules if path and fnmatchcase(path, pattern)]
                if paths:
                    return paths
        return []

    def head_counts(self, path: str) -> tuple[int, int]:
        """How many heads queries, and keys and values, have at a linear map: the innermost module
        around it that has a config knows.

        Raises:
            ValueError: none does.
        """
        parts = path.split(".")
        for end in range(len(parts) - 1, -1, -1):
            config = getattr(self.modules.get(".".join(parts[:end])), "config", None)
            heads = setting(config, "num_attention_heads")
            if heads:
                return heads, key_value_heads(config) or heads
        raise ValueError(
            f"Nobody says how many heads there are at {path}: write numbers in place of "
            '"heads" and of per_head into the family\'s Slice, groups=12 or sizes=(4, 1, 1).'
        )

    def _where(self, path: str) -> tuple[str, int | None]:
        """The outermost list of blocks that this path runs through, and the number of the block."""
        for stack in self.lists:
            if path.startswith(stack + "."):
                return stack, int(path[len(stack) + 1 :].split(".")[0])
        return "", None

    def _known_family(self, target: str = "") -> Family:
        if self.family is None:
            what = f"Nobody has told minipeft where {self.model_type or 'this model'}"
            known = ", ".join(name for family in FAMILIES for name in family.model_types)
            names = ", ".join(field.name for field in fields(Family))
            raise ValueError(
                f"{what} keeps its {target or 'blocks'!r} (known: {known}): target a module by its "
                f"name, or describe the model with attach(..., family=minipeft.Family({names}))."
            )
        return self.family

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """(path, block) of all layers of all stacks, in the model's order."""
        family = self._known_family()
        stacks = [p for p in self.lists if any(f".{p}".endswith(f".{s}") for s in family.blocks)]
        if not stacks:
            raise ValueError(
                f"This model has no list of blocks called {' or '.join(family.blocks)}: describe "
                "it with attach(..., family=minipeft.Family(...))."
            )
        numbers = [(s, str(i)) for s in stacks for i in range(len(self.modules[s]))]
        return [(f"{s}.{i}", self.modules[f"{s}.{i}"]) for s, i in numbers]

    def near(self, target: str) -> str:
        """'; did you mean ...? It has ...' for an error about a name."""
        linear = {re.sub(r"\b\d+\b", "*", p) for p, m in self.modules.items() if is_linear(m)}
        ends = {path.split(".")[-1] for path in linear}
        words = self._words_of_every_block() if self.family else []
        candidates = words + sorted(ends) + sorted(linear)
        near = difflib.get_close_matches(target, candidates, n=3, cutoff=0.6)
        guess = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        known = ", ".join([*map(repr, words), *sorted(linear)]) or "no linear map at all"
        return f"{guess} It has {known}."

    def output_embedding(self) -> nn.Module | None:
        """What turns states into logits over words, as the model's library says; else None."""
        ask = getattr(self.model, "get_output_embeddings", None)  # transformers' models have it
        return bottom(ask()) if ask else None

    def _words_of_every_block(self) -> list[str]:
        """The words of the field that name a linear map in every block."""
        blocks = self.blocks()
        words = []
        for target in self.family.targets():
            names = [n.module if isinstance(n, Slice) else n for n in self.family.names(target)]
            if all(any(self.matching(f"{path}.{name}") for name in names) for path, _ in blocks):
                words.append(target)
        return words
