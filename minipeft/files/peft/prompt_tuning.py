"""Prompt tuning and P-tuning in 🤗 PEFT's layouts, PROMPT_TUNING and P_TUNING.

PEFT stores one tensor `prompt_embeddings (P, C)`, for P-tuning what comes out of the encoder. For a
sequence-to-sequence model it has room for a second prompt, (2 P, C), of which nothing but the first
half is ever read: zeros here. Layers of a trained head are `base_model.<layer>.weight`.

PEFT's prompts stand before everything. A tuner made here that stands elsewhere (templates, prompts
behind <bos> or [CLS], ensembles), or that trains the model too, cannot be written so: it gets a
layout of our own. A file of PEFT's own is opened with compatibility="peft", and behaves as it does
there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.files.peft.common import BASE, common_settings
from minipeft.files.peft.options import check_options, check_stacks
from minipeft.files.peft.task_types import not_in_peft, prompt_task
from minipeft.methods.p_tuning import PTuning
from minipeft.methods.parts.prompt_options import answers_to_vectors
from minipeft.methods.prompt_tuning import PromptTuning
from minipeft.model.anatomy import Anatomy
from minipeft.model.names import setting

VECTORS = "prompt_embeddings"
KNOWN = {
    *("num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens"),
    *("peft_type", "token_dim", "tokenizer_kwargs", "tokenizer_name_or_path"),
    *("prompt_tuning_init", "prompt_tuning_init_text"),  # where it started, and P-tuning's encoder,
    *("encoder_dropout", "encoder_hidden_size", "encoder_num_layers"),  # which is stored after it
    "encoder_reparameterization_type",
}


def write_prompt(tuner) -> tuple[dict, dict[str, Tensor]] | None:
    """adapter_config.json and the tensors of a soft prompt, None where PEFT would misread it."""
    method, anatomy, site = tuner.method, tuner.anatomy, tuner.patches[0][0]
    if not stands_as_in_peft(tuner):
        return None
    task = prompt_task(tuner)
    if task is None or not answers_to_vectors(tuner):
        return not_in_peft(tuner)
    prefix, values = f"{site.path}.{site.target}.", method.export_state(tuner)
    vectors = values[f"{prefix}vectors"]  # (P, C)
    tensors = {VECTORS: vectors}
    tensors |= {f"{BASE}{k}": v for k, v in values.items() if not k.startswith(prefix)}
    twice = task == "SEQ_2_SEQ_LM"
    if twice:
        tensors[VECTORS] = torch.cat([vectors, torch.zeros_like(vectors)])  # (2 P, C)
    settings = common_settings(tuner, task=task) | {
        "num_attention_heads": setting(anatomy.config, "num_attention_heads") or 1,
        "num_layers": len(anatomy.blocks()) // (2 if anatomy.is_encoder_decoder() else 1),
        "num_transformer_submodules": 2 if twice else 1,
        "num_virtual_tokens": len(vectors),
        "token_dim": vectors.shape[1],
    }
    if type(method) is PromptTuning:
        of_method = {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM"}
        of_method |= {"prompt_tuning_init_text": None, "tokenizer_name_or_path": None}
    else:
        of_method = {"peft_type": "P_TUNING", "encoder_reparameterization_type": "MLP"}
        of_method |= {"encoder_hidden_size": vectors.shape[1], "encoder_num_layers": 2}
        of_method |= {"encoder_dropout": 0.0}
    return settings | of_method, tensors


def stands_as_in_peft(tuner) -> bool:
    """Would PEFT compute the same from the vectors alone?"""
    method = tuner.method
    if tuner.base_values or (type(method) is PTuning and method.encoder and method.keep_encoder):
        return False
    if method.compatibility:
        return True
    tables = [module for _, module in tuner.anatomy.position_layers()]
    counts_padding = any(getattr(table, "padding_idx", None) is not None for table in tables)
    if tuner.anatomy.has_first_token() or counts_padding:  # RoBERTa finds padding by its id
        return False
    if type(method) is PTuning:
        return method.template is None
    return method.position in (None, "start") and method.ensemble == 1


def read_prompt(
    settings: dict,
    tensors: dict[str, Tensor],
    anatomy: Anatomy,
    method: PromptTuning | PTuning | None,
) -> tuple[PromptTuning | PTuning, dict[str, Tensor]]:
    """(method, values by our names); a file of PEFT's own gets compatibility="peft"."""
    if method is None:
        check_options(settings, KNOWN, "soft prompts", merges=False)
        check_stacks(settings, anatomy.is_encoder_decoder())
    P, site = settings.get("num_virtual_tokens"), anatomy.words()
    if type(P) is not int or P < 1:
        raise ValueError(f"adapter_config.json has num_virtual_tokens={P!r}, no number of words.")
    vectors = tensors.get(VECTORS)
    foreign = [key for key in tensors if key != VECTORS and not key.startswith(BASE)]
    if vectors is None or foreign:
        what = f"has a tensor {foreign[0]}" if foreign else f"lacks {VECTORS}"
        raise ValueError(f"The file {what}: it is not a soft prompt of PEFT's.")
    times = 2 if settings.get("num_transformer_submodules") == 2 else 1
    if tuple(vectors.shape) != (times * P, site.width):
        raise ValueError(
            f"{VECTORS} has shape {tuple(vectors.shape)} in the file, but {P} words of this model "
            f"are {(times * P, site.width)}: it belongs to another base."
        )
    if method is None and settings["peft_type"] == "PROMPT_TUNING":
        method = PromptTuning(length=P, compatibility="peft")
    elif method is None:
        method = PTuning(length=P, encoder=None, compatibility="peft")
    elif type(method) is PTuning:
        method, _ = method.import_state(tensors)
    heads = {k.removeprefix(BASE): v for k, v in tensors.items() if k != VECTORS}
    return method, {f"{site.path}.{site.target}.vectors": vectors[:P], **heads}
