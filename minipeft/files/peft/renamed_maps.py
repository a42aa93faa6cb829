"""Linear maps that 🤗 PEFT takes for something else when it opens a LoRA, or refuses.

Experts were linear maps in transformers 4 and are three-dimensional parameters in 5. PEFT reads the
names that they had as meaning these parameters, in models that transformers' own table of such
changes has, and whatever else is called so (a dense layer, shared experts) goes without its LoRA.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable

EXPERTS = {  # kind of experts -> what their linear maps were called
    "mixtral": ("gate", "w1", "w2", "w3"),
    "qwen2_moe": ("gate", "gate_proj", "up_proj", "down_proj"),
}
MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")  # refused: out_proj


def read_otherwise(tuner, paths: Iterable[str], peft_type: str = "LORA") -> bool:
    """Would PEFT not put a LoRA at one of these paths? The user is told.

    peft_type: "ADALORA" keeps the names of experts.
    """
    kind, table = tuner.anatomy.model_type, sys.modules.get("transformers.conversion_mapping")
    experts = getattr(table, "_MODEL_TO_CONVERSION_PATTERN", {}).get(kind)
    names = ("out_proj",) if kind in MAMBA else EXPERTS.get(experts, ())
    names = names if peft_type == "LORA" or kind in MAMBA else ()
    path = next((path for path in paths if path.rpartition(".")[2] in names), None)
    if path is None:
        return False
    why = "refuses it" if kind in MAMBA else "takes that name for the experts"
    warnings.warn(
        f"PEFT puts no LoRA at {path} of a {type(tuner.model).__name__}, where it {why}, so "
        f"{tuner.name!r} is saved in minipeft's own layout, which minipeft.load opens and PEFT "
        "does not.",
        UserWarning,
        stacklevel=5,
    )
    return True
