"""A setting that a method does not have is refused by a sentence that says which one was meant."""

from __future__ import annotations

import inspect
from difflib import get_close_matches

# What 🤗 PEFT, its readers and the papers call the settings of this package.
SYNONYMS = {
    "r": "rank",
    "lora_r": "rank",
    "init_r": "initial_rank",
    "target_r": "target_rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "prompt_length": "length",
    "num_virtual_tokens": "length",
    "prefix_length": "length",
    "target_modules": "targets",
    "feedforward_modules": "feedforward",
    "layers_to_transform": "layers",
    "use_rslora": "rank_stabilized",
    "encoder_hidden_size": "hidden",
    "prompt_encoder_hidden_size": "hidden",
    "bottleneck_size": "bottleneck",
    "adapter_size": "bottleneck",
    "prompt_tuning_init": "start",
    "rank_pattern": "rank",
    "alpha_pattern": "alpha",
}


def meant(name: str, known: list[str]) -> str | None:
    """The known name that a wrong one was probably meant to be."""
    if SYNONYMS.get(name) in known:
        return SYNONYMS[name]
    return next(iter(get_close_matches(name, known, n=1)), None)


class KnownSettings(type):
    """Class of the classes of methods: looks at the names of settings when a method is made."""

    def __call__(cls, *values, **settings):
        """Make a method.

        Raises:
            TypeError: a setting that it does not have.
        """
        parameters = inspect.signature(cls.__init__).parameters
        known = [*list(parameters)[1:], *cls.renamed]
        free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for name in () if free else settings:
            if name not in known:
                right = meant(name, known)
                listed = f"did you mean {right}=?" if right else f"it has {', '.join(known)}."
                raise TypeError(f"{cls.__name__} has no setting {name!r}: {listed}")
        return super().__call__(*values, **settings)
