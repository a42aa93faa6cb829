"""Attention layers, which can be given a memory, and what their families do with positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from minipeft.model.names import Names, setting
from minipeft.model.sites import AttentionSite


@dataclass(frozen=True, eq=False)
class RelativeBias:
    """What T5's table adds to the scores of P keys before S tokens: see `Anatomy.relative_bias`."""

    table: nn.Module

    def __call__(self, P: int, T: int, S: int) -> Tensor:
        return self.table.compute_bias(T, P, past_seen_tokens=P + S - T)


class AttentionLayers(Names):
    """The memory door's part of an `Anatomy`."""

    def attentions(self, layers: Iterable[int] | None = None) -> list[AttentionSite]:
        """The attention layers of all stacks in the model's order, cross-attention included.

        Raises ValueError where attention cannot be extended, or has no such layer.
        """
        family = self._known_family("attention")
        if not family.attention:
            raise ValueError(
                f"{self.model_type} has no memory door: its attention cannot be extended from "
                "outside. Methods of the words and weights doors do work on it: PromptTuning, "
                "PTuning, LoRA, Adapter, IA3, BitFit."
            )
        sites = []
        for path, _ in self.blocks():
            for target, names in (
                ("memory", family.attention),
                ("cross memory", family.cross_attention),
            ):
                for name in names:
                    sites += [
                        self._attention_site(target, p) for p in self.matching(f"{path}.{name}")
                    ]
        if layers is not None:
            have = sorted({site.layer for site in sites})
            missing = sorted(set(layers) - set(have))
            if missing:
                raise ValueError(f"There is no layer {missing} to give a memory; there are {have}.")
            sites = [site for site in sites if site.layer in set(layers)]
        return sites

    def _attention_site(self, target: str, path: str) -> AttentionSite:
        module = self.modules[path]
        config = getattr(module, "config", None) or self.config
        width = setting(config, "hidden_size") or setting(config, "width")
        counts = (
            setting(place, name)
            for name in ("num_heads", "n_heads", "num_attention_heads", "heads")
            for place in (module, config)
        )
        heads = next((count for count in counts if isinstance(count, int)), None)
        if width is None or heads is None:
            raise ValueError(
                f"{path} has no memory door: its config does not say hidden_size and "
                "num_attention_heads. Methods of the words and weights doors do work on it: "
                "PromptTuning, PTuning, LoRA, Adapter, IA3, BitFit."
            )
        named = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")
        D = next((getattr(module, n) for n in named if hasattr(module, n)), width // heads)
        groups = getattr(module, "num_key_value_groups", 1)
        return AttentionSite(target, path, module, *self._where(path), heads // groups, D, width)

    def relative_bias(self, site: AttentionSite) -> Callable | None:
        """T5: (P, T, S) -> (1, H, T, P), what it adds to the scores of P keys that stand right
        before S tokens, the last T of which ask. None where positions are no part of attention.
        """
        first = f"{site.stack}.0{site.path[len(f'{site.stack}.{site.layer}') :]}"
        for table in (site.module, self.modules.get(first)):  # UMT5 has one for each layer
            if hasattr(table, "compute_bias") and table.has_relative_attention_bias:
                return RelativeBias(table)
        return None

    def window(self, site: AttentionSite) -> int | None:
        """How many tokens a query of this layer can look at, itself included, counted back from
        it: W of a sliding window; None where it sees all that came before.

        Raises ValueError for attention in chunks, whose borders are places in the text.
        """
        config = getattr(site.module, "config", None) or self.config
        kinds = setting(config, "layer_types")
        kind = kinds[site.layer] if kinds else "sliding" if site.target == "memory" else "full"
        if "chunk" in kind or (not kinds and setting(config, "attention_chunk_size")):
            raise ValueError(
                f"{self.model_type} attends in chunks, whose borders a prefix in PEFT's layout "
                'would move: attach a Prefix of compatibility="minipeft".'
            )
        if "sliding" not in kind:
            return None
        windows = (setting(at, "sliding_window") for at in (site.module, config))
        return next((window for window in windows if window), None)
