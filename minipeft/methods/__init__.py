"""Every method, one file each. A new method needs its file and one line here."""

from minipeft.methods.adalora import AdaLoRA, AdaLoRAPatch
from minipeft.methods.adapter import Adapter, AdapterPatch
from minipeft.methods.bitfit import BiasPatch, BitFit
from minipeft.methods.combined import Combined, Together
from minipeft.methods.dora import DoRA, DoRAPatch
from minipeft.methods.finetuning import FullFineTuning, HeadOnly, TopLayers
from minipeft.methods.ia3 import IA3, InputScale, OutputScale
from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.lora_bias import LoRABias, LoRABiasPatch
from minipeft.methods.lora_embedding import LoRAEmbedding, LoRAEmbeddingPatch
from minipeft.methods.method import Method
from minipeft.methods.p_tuning import PromptEncoder, PTuning
from minipeft.methods.p_tuning_v2 import PTuningV2
from minipeft.methods.parts import grouped_lora, joined_lora  # noqa: F401  many LoRAs in one go
from minipeft.methods.pissa import PiSSA, PiSSAPatch
from minipeft.methods.prefix import Prefix
from minipeft.methods.prompt_tuning import Prompt, PromptTuning
from minipeft.methods.qlora import QLoRA, QLoRAPatch
from minipeft.methods.token_rows import TiedRowsPatch, TokenRows, TokenRowsPatch
from minipeft.methods.unipelt import UniPELT
from minipeft.methods.vera import SharedMatrices, VeRA, VeRAPatch

__all__ = [name for name, thing in globals().items() if isinstance(thing, type)]
