"""Section `real_step`: the table of `training_step` on SmolLM2-135M, which the lessons tune.

The model is the one that `python -m minipeft fetch smollm2` fetches; where it is not at hand, one
sentence says so and the table is left out, or, on an accelerator, made with random weights of the
same shapes, on which the time of a step does not depend. LoRA on query and value, a prefix and soft
prompts, ours and PEFT's with the same settings. Four copies of the model take about 5 GB of memory.
"""

from __future__ import annotations

import copy

from torch import nn

import minipeft as mp
from minipeft.course import real

from .bases import Size, batch_of
from .measuring import Sheet
from .training_step import PROMPT, measure, table

ROWS, TOKENS = 8, 64
SHAPE = dict(  # SmolLM2-135M's config.json
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
TINY = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


def methods(C: int) -> dict[str, tuple]:
    """As `training_step.methods`."""
    import peft

    task = dict(task_type="CAUSAL_LM")
    prompt = dict(num_virtual_tokens=PROMPT, **task)
    half = dict(encoder_reparameterization_type="LSTM", encoder_hidden_size=C // 2, **prompt)
    lora = dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], **task)
    return {
        "LoRA": (mp.LoRA(rank=8), peft.LoraConfig(**lora), 1.0),
        "Prefix": (mp.Prefix(PROMPT, hidden=None), peft.PrefixTuningConfig(**prompt), 1.0),
        "PromptTuning": (mp.PromptTuning(PROMPT), peft.PromptTuningConfig(**prompt), 0.87),
        "PTuning, LSTM": (mp.PTuning(PROMPT), peft.PromptEncoderConfig(**half), 0.87),
    }


def model_for(options) -> tuple[nn.Module | None, str]:
    """The model and what it is: SmolLM2, on an accelerator maybe its shape, a tiny one if --quick.

    None, with one printed sentence, on a processor that has no SmolLM2.
    """
    if options.quick:
        return llama(TINY), "a tiny model of its kind"
    loaded = real.load("smollm2")
    if loaded is not None:
        return loaded[0], "SmolLM2-135M"
    if options.device == "cpu":
        return None, "nothing"
    return llama(SHAPE), "SmolLM2-135M's shape, random weights"


def llama(shape: dict) -> nn.Module:
    """transformers' Llama of this shape, random weights."""
    import transformers

    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))


def run(options) -> list[Sheet]:
    """The sheet, or none without the model."""
    model, what = model_for(options)
    if model is None:
        return []
    config = model.config
    config.use_cache = False
    size = Size(
        config.num_hidden_layers,
        config.hidden_size,
        words=config.vocab_size,
        rows=ROWS,
        tokens=TOKENS,
        device=options.device,
    )
    rounds = options.rounds or (2 if options.quick else 5)
    cases = methods(config.hidden_size)
    model.to(size.device)
    results = measure(cases, lambda: copy.deepcopy(model), batch_of(size), rounds)
    title = f"A training step on {what}, batch {ROWS} x {TOKENS}, fp32"
    return [table("real_step", title, results, options, size.device)]
