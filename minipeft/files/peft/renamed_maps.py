"""Linear maps that 🤗 PEFT takes for something else when it opens a LoRA, or refuses.

Experts were linear maps in transformers 4 and are three-dimensional parameters in 5. PEFT reads the
names that they had as meaning these parameters, in models that transformers' own table of such
changes has, and whatever else is called so (a dense layer, shared experts) goes without its LoRA.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator

from torch import nn

from minipeft.model.libraries import is_library_model, is_tiny

EXPERTS = {  # kind of experts -> what their linear maps were called
    "mixtral": ("gate", "w1", "w2", "w3"),
    "qwen2_moe": ("gate", "gate_proj", "up_proj", "down_proj"),
}
MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")  # refused: out_proj


def peft_reads_otherwise(tuner, paths: Iterable[str], peft_type: str = "LORA") -> bool:
    """Would PEFT not put a LoRA at one of these paths? The user is told.

    peft_type: "ADALORA" keeps the names of experts, and all others.
    """
    kind, table = tuner.anatomy.model_type, sys.modules.get("transformers.conversion_mapping")
    experts = getattr(table, "_MODEL_TO_CONVERSION_PATTERN", {}).get(kind)
    names = ("out_proj",) if kind in MAMBA else EXPERTS.get(experts, ())
    names = names if peft_type == "LORA" or kind in MAMBA else ()
    path = next((path for path in paths if path.rpartition(".")[2] in names), None)
    why = "refuses it" if kind in MAMBA else "takes that name for the experts"
    if path is None and peft_type == "LORA":
        path = next(renamed(tuner.model, paths), None)
        why = "gives that name a new spelling, which no map has"
    if path is None:
        return False
    warnings.warn(
        f"PEFT puts no LoRA at {path} of a {type(tuner.model).__name__}, where it {why}, so "
        f"{tuner.name!r} is saved in minipeft's own layout, which minipeft.load opens and PEFT "
        "does not.",
        UserWarning,
        stacklevel=5,
    )
    return True


def renamed(model: nn.Module, paths: Iterable[str]) -> Iterator[str]:
    """The maps whose names PEFT takes for old ones when it opens a LoRA, as transformers does in
    checkpoints of the model, and spells anew: laguna's shared_experts becomes shared_experts. (a
    dot more).
    """
    if is_tiny(model) or not is_library_model(model):
        return
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    every = get_model_conversion_mapping(model)
    renamings = [each for each in every if isinstance(each, WeightRenaming)]
    for path in paths:
        name = f"{path}.weight"
        spelled, _ = rename_source_key(name, renamings, [])
        if not name.endswith(spelled):  # PEFT undoes what has become shorter in front
            yield path
