"""Checkpoints as Hugging Face folders: transformers opens ours, we open theirs, equal logits.

A folder holds config.json, model.safetensors and, for the word-level tokenizer, tokenizer.json.
The tables below are the whole translation: our name on the left, theirs on the right, `{i}` the layer.
GPT-2 keeps query, key and value in one matrix and stores it (in, out); the other two store (out, in).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .config import TransformerConfig
from .files import write_tensors, write_text
from .heads import ClassificationHead, TaggingHead
from .models import Decoder, Encoder, EncoderDecoder
from .tokenizer import WordTokenizer

MODELS = {"decoder": Decoder, "encoder": Encoder, "encoder-decoder": EncoderDecoder}
GELU = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}

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
    BART |= {
        f"{_side}.embeddings.positions": f"model.{_side}.embed_positions",
        f"{_side}.embeddings.norm": f"model.{_side}.layernorm_embedding",
        f"{_side}.blocks.{{i}}.feed_forward.up": f"model.{_side}.layers.{{i}}.fc1",
        f"{_side}.blocks.{{i}}.feed_forward.down": f"model.{_side}.layers.{{i}}.fc2",
        f"{_side}.blocks.{{i}}.feed_forward_norm": f"model.{_side}.layers.{{i}}.final_layer_norm",
    }
    for _ours, _theirs in (("attention", "self_attn"), ("cross_attention", "encoder_attn")):
        BART[f"{_side}.blocks.{{i}}.{_ours}_norm"] = (
            f"model.{_side}.layers.{{i}}.{_theirs}_layer_norm"
        )
        for _a, _b in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
            BART[f"{_side}.blocks.{{i}}.{_ours}.{_a}"] = (
                f"model.{_side}.layers.{{i}}.{_theirs}.{_b}_proj"
            )
TABLES = {"decoder": GPT2, "encoder": BERT, "encoder-decoder": BART}
MODEL_TYPES = {"gpt2": "decoder", "bert": "encoder", "bart": "encoder-decoder"}
TIED = ("head.words.weight", "decoder.embeddings.words.weight")  # stored once, as the words


def translate(name: str, kind: str) -> str:
    """Our tensor name -> the Hugging Face name of the same tensor (GPT-2's q, k, v excepted)."""
    table = TABLES[kind]
    if name in table:
        return table[name]
    module, _, leaf = name.rpartition(".")
    parts = module.split(".")
    number = next((part for part in parts if part.isdigit()), None)
    key = ".".join("{i}" if part == number else part for part in parts)
    return f"{table[key].replace('{i}', str(number))}.{leaf}"


def to_hugging_face(model) -> dict[str, Tensor]:
    """The model's tensors under their Hugging Face names, in Hugging Face shapes."""
    kind, found = model.config.kind, {}
    ours = {name: value for name, value in model.state_dict().items() if name not in TIED}
    for name, value in ours.items():
        if kind == "decoder" and name.split(".")[-2] in ("query", "key", "value"):
            if ".query." in name:  # c_attn = [W_Q ; W_K ; W_V]
                qkv = [
                    ours[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")
                ]
                prefix, leaf = name.split(".attention.query.")
                value = torch.cat(qkv)  # (3 C, C) or (3 C)
                value = value.T if leaf == "weight" else value
                found[f"transformer.h.{prefix.split('.')[1]}.attn.c_attn.{leaf}"] = value
            continue
        if kind == "decoder" and value.ndim == 2 and name.startswith("blocks."):
            value = value.T  # Conv1D stores (in, out)
        if name == "head.words.bias" and kind == "encoder-decoder":
            value = value[None]  # (1, V)
        found[translate(name, kind)] = value
    return found


def from_hugging_face(model, tensors: dict[str, Tensor]) -> list[str]:
    """Copy Hugging Face tensors into the model; returns the names that the file did not hold.

    Raises:
        ValueError: when a tensor has another shape, or one that is not part of the head is missing.
    """
    kind = model.config.kind
    trunk = {"decoder": "transformer.", "encoder": "bert.", "encoder-decoder": "model."}[kind]
    bare = not any(name.startswith(trunk) for name in tensors)
    wanted, missing = to_hugging_face(model), []
    for name in list(wanted):
        short = name.removeprefix(trunk) if bare else name
        if short not in tensors:
            missing.append(name)
        elif tensors[short].shape != wanted[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensors[short].shape)} in the file but the config asks for "
                f"{tuple(wanted[name].shape)}; give the config.json that belongs to these weights."
            )
        else:
            wanted[name] = tensors[short].to(wanted[name].dtype)
    lost = [name for name in missing if name.startswith(trunk) and ".pooler." not in name]
    if lost:
        raise ValueError(
            f"The file holds no {lost[0]} ({len(lost)} tensors missing); it is not a whole {kind}."
        )
    state = {}
    for name, value in model.state_dict().items():
        if name in TIED:
            continue
        if kind == "decoder" and name.split(".")[-2] in ("query", "key", "value"):
            layer, part, leaf = name.split(".")[1], name.split(".")[-2], name.split(".")[-1]
            fused = wanted[f"transformer.h.{layer}.attn.c_attn.{leaf}"]
            state[name] = (
                fused.T.chunk(3)[("query", "key", "value").index(part)]
                if leaf == "weight"
                else fused.chunk(3)[("query", "key", "value").index(part)]
            )
        else:
            found = wanted[translate(name, kind)]
            if kind == "decoder" and found.ndim == 2 and name.startswith("blocks."):
                found = found.T
            state[name] = found.reshape(value.shape)
    model.load_state_dict(state, strict=False)
    return missing


def config_to_hugging_face(config: TransformerConfig, head: str) -> dict:
    """Our numbers as the config.json of GPT-2, BERT or BART."""
    hf_gelu = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}[config.activation]
    ids = {name: getattr(config, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    common = ids | {
        "vocab_size": config.vocab_size,
        "dtype": "float32",
        "tie_word_embeddings": True,
    }
    names = {
        "decoder": (
            "GPT2LMHeadModel",
            "GPT2ForSequenceClassification",
            "GPT2ForTokenClassification",
        ),
        "encoder": (
            "BertForMaskedLM",
            "BertForSequenceClassification",
            "BertForTokenClassification",
        ),
        "encoder-decoder": ("BartForConditionalGeneration", "BartForSequenceClassification", None),
    }[config.kind]
    common["architectures"] = [names[("language", "classification", "tagging").index(head)]]
    if config.kind == "decoder":
        return common | {
            "model_type": "gpt2",
            "n_embd": config.width,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_inner": config.inner,
            "n_positions": config.positions,
            "activation_function": hf_gelu,
            "layer_norm_epsilon": config.norm_epsilon,
            "initializer_range": config.initializer_range,
            **{name: config.dropout for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")},
        }
    if config.kind == "encoder":
        return common | {
            "model_type": "bert",
            "hidden_size": config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "intermediate_size": config.inner_width,
            "max_position_embeddings": config.positions,
            "type_vocab_size": config.token_types,
            "hidden_act": hf_gelu,
            "layer_norm_eps": config.norm_epsilon,
            "initializer_range": config.initializer_range,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.dropout,
        }
    return common | {
        "model_type": "bart",
        "is_encoder_decoder": True,
        "decoder_start_token_id": config.decoder_start_token_id,
        "forced_eos_token_id": None,
        "d_model": config.width,
        "encoder_layers": config.layers,
        "decoder_layers": config.decoder_layers or config.layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.inner_width,
        "decoder_ffn_dim": config.inner_width,
        "max_position_embeddings": config.positions,
        "activation_function": hf_gelu,
        "scale_embedding": config.scale_embedding,
        "init_std": config.initializer_range,
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
        "activation_dropout": 0.0,
    }


def config_from_hugging_face(values: dict) -> TransformerConfig:
    """The config.json of a GPT-2, BERT or BART folder as our numbers.

    Raises:
        ValueError: another architecture, or a variant of these that this package does not write.
    """
    kind = MODEL_TYPES.get(values.get("model_type"))
    if kind is None:
        raise ValueError(
            f"model_type {values.get('model_type')!r} is not one of gpt2, bert, bart; "
            "open it with transformers, minipeft works there too."
        )
    get = values.get
    ids = {n: get(n) for n in ("pad_token_id", "bos_token_id", "eos_token_id")}
    for name in ("activation_function", "hidden_act"):
        if name in values and values[name] not in GELU:
            raise ValueError(f"{name} {values[name]!r} is not one of {', '.join(GELU)}.")
    if kind == "decoder":
        if get("scale_attn_by_inverse_layer_idx") or not get("scale_attn_weights", True):
            raise ValueError("This GPT-2 scales its attention in another way; use transformers.")
        return TransformerConfig.gpt2(
            vocab_size=values["vocab_size"],
            width=values["n_embd"],
            layers=values["n_layer"],
            heads=values["n_head"],
            inner=get("n_inner"),
            positions=get("n_positions", 1024),
            dropout=get("resid_pdrop", 0.1),
            activation=GELU[get("activation_function", "gelu_new")],
            norm_epsilon=get("layer_norm_epsilon", 1e-5),
            initializer_range=get("initializer_range", 0.02),
            **ids,
        )
    if kind == "encoder":
        if get("position_embedding_type", "absolute") != "absolute":
            raise ValueError("This BERT counts positions relatively; use transformers.")
        return TransformerConfig.bert(
            vocab_size=values["vocab_size"],
            width=values["hidden_size"],
            layers=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            inner=values["intermediate_size"],
            positions=get("max_position_embeddings", 512),
            token_types=get("type_vocab_size", 2),
            dropout=get("hidden_dropout_prob", 0.1),
            activation=GELU[get("hidden_act", "gelu")],
            norm_epsilon=get("layer_norm_eps", 1e-12),
            initializer_range=get("initializer_range", 0.02),
            **ids,
        )
    pairs = [("encoder_attention_heads", "decoder_attention_heads")]
    pairs += [("encoder_ffn_dim", "decoder_ffn_dim")]
    if any(values[a] != values[b] for a, b in pairs):
        raise ValueError("This BART's encoder and decoder differ in shape; use transformers.")
    return TransformerConfig.bart(
        vocab_size=values["vocab_size"],
        width=values["d_model"],
        layers=values["encoder_layers"],
        decoder_layers=values["decoder_layers"],
        heads=values["encoder_attention_heads"],
        inner=values["encoder_ffn_dim"],
        positions=get("max_position_embeddings", 1024),
        dropout=get("dropout", 0.1),
        activation=GELU[get("activation_function", "gelu")],
        scale_embedding=get("scale_embedding", False),
        initializer_range=get("init_std", 0.02),
        decoder_start_token_id=get("decoder_start_token_id"),
        **ids,
    )


def data_folder() -> Path:
    """Where the project's data stands: $MINIPEFT_DATA, beside the packages, or inside them.

    Raises:
        FileNotFoundError: when none of the three holds checkpoints.
    """
    here = Path(__file__).resolve().parent
    places = [here.parent / "data", here / "data"]
    if os.environ.get("MINIPEFT_DATA"):
        places.insert(0, Path(os.environ["MINIPEFT_DATA"]))
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        "The data folder was not found; set MINIPEFT_DATA to the data/ folder of the repository."
    )


def save(model, tokenizer: WordTokenizer | None, folder: str | Path) -> None:
    """Write config.json, model.safetensors and the tokenizer as a Hugging Face folder."""
    folder = Path(folder)
    heads = {ClassificationHead: "classification", TaggingHead: "tagging"}
    head = heads.get(type(model.head), "language")
    values = config_to_hugging_face(model.config, head)
    if head != "language":
        layer = model.head.classes if head == "classification" else model.head.tags
        names = {str(number): f"LABEL_{number}" for number in range(layer.out_features)}
        values |= {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
    write_tensors(folder / "model.safetensors", to_hugging_face(model))
    write_text(folder / "config.json", json.dumps(values, indent=1, sort_keys=True))
    if tokenizer is not None:
        tokenizer.save(folder, model.config.positions)


def load(name: str | Path, head: str = "language", labels: int | None = None, seed: int = 0):
    """Open one of the project's models by name, or any GPT-2, BERT or BART folder.

    Args:
        name: "tiny-decoder", "tiny-encoder", "tiny-encoder-decoder", ... or a folder.
        head: "language", "classification" or "tagging".
        labels: number of classes or tags; not needed when the folder's own head has that kind.
        seed: of a head that the folder does not hold, which starts fresh.

    Returns:
        (model in eval mode, tokenizer or None when the folder has none that we can read).

    Raises:
        FileNotFoundError: no such name or folder; the sentence lists the names there are.
        ValueError: a folder of another architecture, or a damaged file.
    """
    folder = Path(name)
    if not (folder / "config.json").is_file():
        shelf = data_folder() / "checkpoints"
        folder = shelf / str(name)
        if not (folder / "config.json").is_file():
            names = sorted(path.parent.name for path in shelf.glob("*/config.json"))
            raise FileNotFoundError(
                f"{name} is neither a folder with a config.json nor one of: {', '.join(names)}."
            )
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config_from_hugging_face(values)
    if head == "language":
        top = None
    elif head in ("classification", "tagging"):
        labels = labels or len(values.get("id2label") or ()) or values.get("num_labels")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            top = (ClassificationHead if head == "classification" else TaggingHead)(config, labels)
    else:
        raise ValueError(f'head must be "language", "classification" or "tagging", not {head!r}.')
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[config.kind](config, top)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; only safetensors are read, never a pickle."
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as problem:
        raise ValueError(f"{path} is damaged ({problem}); fetch or write it again.") from None
    from_hugging_face(model, tensors)
    try:
        tokenizer = WordTokenizer.load(folder)
    except (FileNotFoundError, ValueError):
        tokenizer = None
    return model.eval(), tokenizer
