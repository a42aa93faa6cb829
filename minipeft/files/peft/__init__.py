"""🤗 PEFT's names for our tensors and settings: one file per method, one line here for each.

    WRITERS   class of the method -> write(tuner) -> (adapter_config.json, tensors), or None where
              PEFT has no layout for what this tuner does
    READERS   peft_type -> read(settings, tensors, anatomy, method or None) -> (method, values)

`method` is the one that our metadata tell, None for a file of PEFT's own; `values` go by the names
of `Tuner.named_tensors`. A method without a line here is written in a layout of its own.
"""

from minipeft.files.peft.adalora import read_adalora, write_adalora
from minipeft.files.peft.common import has_copies_as_in_peft as has_copies_as_in_peft
from minipeft.files.peft.ia3 import read_ia3, write_ia3
from minipeft.files.peft.lora_parts import read_lora, write_lora
from minipeft.files.peft.prefix import read_prefix, write_prefix
from minipeft.files.peft.prompt_tuning import read_prompt, write_prompt
from minipeft.files.peft.token_rows import read_rows, write_rows
from minipeft.files.peft.vera import read_vera, write_vera
from minipeft.methods.adalora import AdaLoRA
from minipeft.methods.combined import Combined
from minipeft.methods.dora import DoRA
from minipeft.methods.ia3 import IA3
from minipeft.methods.lora import LoRA
from minipeft.methods.lora_bias import LoRABias
from minipeft.methods.lora_embedding import LoRAEmbedding
from minipeft.methods.p_tuning import PTuning
from minipeft.methods.p_tuning_v2 import PTuningV2
from minipeft.methods.pissa import PiSSA
from minipeft.methods.prefix import Prefix
from minipeft.methods.prompt_tuning import PromptTuning
from minipeft.methods.qlora import QLoRA
from minipeft.methods.token_rows import TokenRows
from minipeft.methods.vera import VeRA

WRITERS = {AdaLoRA: write_adalora, IA3: write_ia3, QLoRA: write_lora, Prefix: write_prefix}
WRITERS |= {PTuningV2: write_prefix, TokenRows: write_rows}
WRITERS |= {LoRA: write_lora, DoRA: write_lora, PiSSA: write_lora, LoRABias: write_lora}
WRITERS |= {LoRAEmbedding: write_lora, Combined: write_lora}
WRITERS |= {PromptTuning: write_prompt, PTuning: write_prompt, VeRA: write_vera}
PROMPTS = {"PROMPT_TUNING": read_prompt, "P_TUNING": read_prompt}
READERS = PROMPTS | {
    "ADALORA": read_adalora,
    "IA3": read_ia3,
    "LORA": read_lora,
    "PREFIX_TUNING": read_prefix,
    "TRAINABLE_TOKENS": read_rows,
    "VERA": read_vera,
}
