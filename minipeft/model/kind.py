"""Which kind of transformer a model is, and which head it has. Whoever needs to know asks here."""

from __future__ import annotations

from torch import nn

from minipeft.model.families import TINY_TASK_HEADS
from minipeft.model.family import KINDS

HEADS = ("language", "classification", "tagging")

# What the end of a transformers class, or the class of a tiny model's head, says about the head.
HEAD_OF_CLASS = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "tagging",
    **dict(zip(TINY_TASK_HEADS, ("classification", "tagging"), strict=True)),
}


def config_of(model: nn.Module):
    """The model's config; that of the transformer inside a module of one's own; None without."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((config for config in configs if config is not None), None)


def kind_of(model: nn.Module) -> str:
    """ "decoder", "encoder" or "encoder-decoder", whatever head the model has.

    A model without a config counts as a decoder, and the encoder of an encoder-decoder by itself,
    whose config may still speak of both (UMT5's), as an encoder.
    """
    kind = kind_in(config_of(model))
    if kind == "encoder-decoder" and not any(
        path.rpartition(".")[2].endswith("decoder") for path, _ in model.named_modules()
    ):
        return "encoder"
    return kind


def kind_in(config) -> str:
    """`kind_of` for a model that is not loaded: its config is enough."""
    kind = getattr(config, "kind", None)  # of a tiny_transformer
    if kind in KINDS:
        return kind
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    model_type = getattr(config, "model_type", None)
    if model_type is None or getattr(config, "is_decoder", False):
        return "decoder"
    try:  # loaded already where there is a model of transformers
        from transformers.models.auto import modeling_auto
    except ImportError:
        return "decoder"
    if model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    text = getattr(config, "text_config", None)
    if text is not None:  # a language model that listens, such as Qwen2-Audio
        return kind_in(text)
    # the encoder of a T5 by itself, as in T5ForTokenClassification
    if model_type in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "encoder"
    if model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "decoder"
    tells = ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING")
    tables = (getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES") for name in tells)
    # what reads and never writes, such as LiLT
    return "encoder" if any(model_type in table for table in tables) else "decoder"


def head_of(model: nn.Module) -> str:
    """ "classification" (one label for a text), "tagging" (one for a word), else "language"."""
    head = getattr(model, "head", None)  # of a tiny_transformer; a door may stand around it
    head = getattr(head, "base", head)
    for kind in (*type(model).__mro__, *type(head).__mro__):
        for end, name in HEAD_OF_CLASS.items():
            if kind.__name__.endswith(end):
                return name
    return "language"
