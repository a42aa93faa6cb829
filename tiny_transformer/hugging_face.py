"""What GPT-2, BERT and BART are called in Hugging Face folders, and what they are called here.

Two kinds of tables: NAMES for tensors (our module on the left, theirs on the right, `{i}` the
layer) and FIELDS for the fields of config.json. checkpoints.py moves tensors by the first;
the two functions below move numbers by the second.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .config import TransformerConfig

GPT2 = {
    "embeddings.words": "transformer.wte",
    "embeddings.positions": "transformer.wpe",
    "blocks.{i}.attention_norm": "transformer.h.{i}.ln_1",
    "blocks.{i}.attention.output": "transformer.h.{i}.attn.c_proj",
    "blocks.{i}.feed_forward_norm": "transformer.h.{i}.ln_2",
    "blocks.{i}.feed_forward.up": "transformer.h.{i}.mlp.c_fc",
    "blocks.{i}.feed_forward.down": "transformer.h.{i}.mlp.c_proj",
    "norm": "transformer.ln_f",
    "head.classes": "score",
    "head.tags": "classifier",
}
BERT = {
    "embeddings.words": "bert.embeddings.word_embeddings",
    "embeddings.positions": "bert.embeddings.position_embeddings",
    "embeddings.types": "bert.embeddings.token_type_embeddings",
    "embeddings.norm": "bert.embeddings.LayerNorm",
    "blocks.{i}.attention.query": "bert.encoder.layer.{i}.attention.self.query",
    "blocks.{i}.attention.key": "bert.encoder.layer.{i}.attention.self.key",
    "blocks.{i}.attention.value": "bert.encoder.layer.{i}.attention.self.value",
    "blocks.{i}.attention.output": "bert.encoder.layer.{i}.attention.output.dense",
    "blocks.{i}.attention_norm": "bert.encoder.layer.{i}.attention.output.LayerNorm",
    "blocks.{i}.feed_forward.up": "bert.encoder.layer.{i}.intermediate.dense",
    "blocks.{i}.feed_forward.down": "bert.encoder.layer.{i}.output.dense",
    "blocks.{i}.feed_forward_norm": "bert.encoder.layer.{i}.output.LayerNorm",
    "head.pooler": "bert.pooler.dense",
    "head.classes": "classifier",
    "head.tags": "classifier",
    "head.transform": "cls.predictions.transform.dense",
    "head.norm": "cls.predictions.transform.LayerNorm",
    "head.words.bias": "cls.predictions.bias",
}
BART = {
    "encoder.embeddings.words": "model.shared",
    "head.pooler": "classification_head.dense",
    "head.classes": "classification_head.out_proj",
    "head.words.bias": "final_logits_bias",
}
for _side in ("encoder", "decoder"):
    _ours, _theirs = f"{_side}.blocks.{{i}}", f"model.{_side}.layers.{{i}}"
    BART |= {
        f"{_side}.embeddings.positions": f"model.{_side}.embed_positions",
        f"{_side}.embeddings.norm": f"model.{_side}.layernorm_embedding",
        f"{_ours}.feed_forward.up": f"{_theirs}.fc1",
        f"{_ours}.feed_forward.down": f"{_theirs}.fc2",
        f"{_ours}.feed_forward_norm": f"{_theirs}.final_layer_norm",
    }
    for _a, _b in (("attention", "self_attn"), ("cross_attention", "encoder_attn")):
        BART[f"{_ours}.{_a}_norm"] = f"{_theirs}.{_b}_layer_norm"
        for _c, _d in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
            BART[f"{_ours}.{_a}.{_c}"] = f"{_theirs}.{_b}.{_d}_proj"

NAMES = {"decoder": GPT2, "encoder": BERT, "encoder-decoder": BART}
TRUNK = {"decoder": "transformer.", "encoder": "bert.", "encoder-decoder": "model."}
TIED = ("head.words.weight", "decoder.embeddings.words.weight")  # stored once, as the words

# Our field: their field, and what transformers takes when the file does not name it.
FIELDS = {
    "decoder": {
        "vocab_size": ("vocab_size", 50257),
        "width": ("n_embd", 768),
        "layers": ("n_layer", 12),
        "heads": ("n_head", 12),
        "inner": ("n_inner", None),
        "positions": ("n_positions", 1024),
        "activation": ("activation_function", "gelu_new"),
        "norm_epsilon": ("layer_norm_epsilon", 1e-5),
        "initializer_range": ("initializer_range", 0.02),
        "dropout": ("resid_pdrop", 0.1),
        "pad_token_id": ("pad_token_id", None),
        "bos_token_id": ("bos_token_id", 50256),
        "eos_token_id": ("eos_token_id", 50256),
    },
    "encoder": {
        "vocab_size": ("vocab_size", 30522),
        "width": ("hidden_size", 768),
        "layers": ("num_hidden_layers", 12),
        "heads": ("num_attention_heads", 12),
        "inner": ("intermediate_size", 3072),
        "positions": ("max_position_embeddings", 512),
        "token_types": ("type_vocab_size", 2),
        "activation": ("hidden_act", "gelu"),
        "norm_epsilon": ("layer_norm_eps", 1e-12),
        "initializer_range": ("initializer_range", 0.02),
        "dropout": ("hidden_dropout_prob", 0.1),
        "pad_token_id": ("pad_token_id", 0),
        "bos_token_id": ("bos_token_id", None),
        "eos_token_id": ("eos_token_id", None),
    },
    "encoder-decoder": {
        "vocab_size": ("vocab_size", 50265),
        "width": ("d_model", 1024),
        "layers": ("encoder_layers", 12),
        "decoder_layers": ("decoder_layers", 12),
        "heads": ("encoder_attention_heads", 16),
        "inner": ("encoder_ffn_dim", 4096),
        "positions": ("max_position_embeddings", 1024),
        "activation": ("activation_function", "gelu"),
        "scale_embedding": ("scale_embedding", False),
        "initializer_range": ("init_std", 0.02),
        "dropout": ("dropout", 0.1),
        "pad_token_id": ("pad_token_id", 1),
        "bos_token_id": ("bos_token_id", 0),
        "eos_token_id": ("eos_token_id", 2),
        "decoder_start_token_id": ("decoder_start_token_id", 2),
    },
}
# Fields of theirs that we write with the value of another one. A folder's dropouts may differ (we
# take one for all); a folder whose decoder is shaped unlike its encoder is refused.
COPIED_FIELDS = {
    "decoder": {"embd_pdrop": "resid_pdrop", "attn_pdrop": "resid_pdrop"},
    "encoder": {"attention_probs_dropout_prob": "hidden_dropout_prob"},
    "encoder-decoder": {
        "attention_dropout": "dropout",
        "decoder_attention_heads": "encoder_attention_heads",
        "decoder_ffn_dim": "encoder_ffn_dim",
    },
}
REQUIRED_VALUES = {  # what we do not build, and what the field must say for us to open the folder
    "tie_word_embeddings": True,
    "add_cross_attention": False,
    "is_decoder": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "position_embedding_type": "absolute",
}
TYPES = {"gpt2": "decoder", "bert": "encoder", "bart": "encoder-decoder"}
CLASSES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2ForTokenClassification"),
    "bert": ("BertForMaskedLM", "BertForSequenceClassification", "BertForTokenClassification"),
    "bart": ("BartForConditionalGeneration", "BartForSequenceClassification"),
}
HEADS = ("language", "classification", "tagging")  # in the order of CLASSES
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}  # ours: theirs
SAME_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh"}  # another name of theirs


def config_from_hugging_face(values: dict) -> TransformerConfig:
    """The config.json of a GPT-2, BERT or BART folder as our numbers.

    Raises:
        ValueError: another architecture, or a variant of these that this package does not build.
    """
    layout = values.get("model_type")
    if layout not in TYPES:
        raise ValueError(
            f"model_type {layout!r} is not one of {', '.join(TYPES)}; open it with transformers, "
            "minipeft works there too."
        )
    kind = TYPES[layout]
    for field, only in REQUIRED_VALUES.items():
        if values.get(field, only) not in (only, None):
            raise ValueError(
                f"This {layout} has {field}={values[field]!r}, which is not built here; open it "
                "with transformers, minipeft works there too."
            )
    numbers = {ours: values.get(*theirs) for ours, theirs in FIELDS[kind].items()}
    for field, other in COPIED_FIELDS[kind].items():
        same = values.get(field, values.get(other)) == values.get(other)
        if field.startswith("decoder_") and not same:
            raise ValueError(
                f"This {layout}'s {field} differs from its {other}, which is not built here; "
                "open it with transformers, minipeft works there too."
            )
    known = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | SAME_ACTIVATIONS
    if numbers["activation"] not in known:
        raise ValueError(
            f"The activation {numbers['activation']!r} is not one of {', '.join(known)}."
        )
    numbers["activation"] = known[numbers["activation"]]
    return getattr(TransformerConfig, layout)(**numbers)


def config_to_hugging_face(config: TransformerConfig, head: str, dtype: torch.dtype) -> dict:
    """Our numbers as the config.json of GPT-2, BERT or BART.

    Raises:
        ValueError: a config that none of the three can describe (a pre-norm encoder, say).
    """
    layout = next(layout for layout, kind in TYPES.items() if kind == config.kind)
    whole = replace(config, inner=config.inner_width) if layout != "gpt2" else config
    if layout == "bart":
        whole = replace(whole, decoder_layers=config.decoder_layers or config.layers)
    table = FIELDS[config.kind]
    values = {theirs: getattr(whole, ours) for ours, (theirs, _) in table.items()}
    values[table["activation"][0]] = ACTIVATIONS[config.activation]
    values |= {field: values[other] for field, other in COPIED_FIELDS[config.kind].items()}
    values |= {
        "model_type": layout,
        "architectures": [CLASSES[layout][HEADS.index(head)]],
        "tie_word_embeddings": True,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if layout == "bart":
        values |= {"is_encoder_decoder": True, "forced_eos_token_id": None}
        values["activation_dropout"] = 0.0
    again = config_from_hugging_face(values).to_dict()
    lost = [field for field, value in whole.to_dict().items() if again[field] != value]
    if lost:
        raise ValueError(
            f"A {layout} folder cannot say {lost[0]}={getattr(config, lost[0])!r}; build the model "
            f"from TransformerConfig.{layout}(...) if it is to be saved."
        )
    return values
