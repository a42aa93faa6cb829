"""Checkpoints as Hugging Face folders: transformers opens ours, we open theirs, equal logits.

A folder holds config.json, model.safetensors and, for the word-level tokenizer, tokenizer.json and
tokenizer_config.json. What is called what stands in hugging_face.py.

Two things are not a matter of names. GPT-2 keeps query, key and value in one matrix, and it stores
the matrices of its blocks (in, out) where everything else is (out, in).
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .config import TransformerConfig
from .files import check_fetched, saving_tensors, saving_text, write_all
from .heads import ClassificationHead, TaggingHead
from .hugging_face import (
    HEADS,
    NAMES,
    TIED,
    TRUNK,
    config_from_hugging_face,
    config_to_hugging_face,
)
from .models import Decoder, Encoder, EncoderDecoder
from .tokenizer import WordTokenizer

MODELS = {"decoder": Decoder, "encoder": Encoder, "encoder-decoder": EncoderDecoder}


def data_folder() -> Path:
    """Where the project's data stands: $MINIPEFT_DATA if it is set, else the folder inside the
    packages (the wheel) or beside them (the repository).

    Raises:
        FileNotFoundError: it is in none of these places.
    """
    chosen = os.environ.get("MINIPEFT_DATA")
    package = Path(__file__).resolve().parent
    places = [Path(chosen).expanduser()] if chosen else [package / "data", package.parent / "data"]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"There is no data folder at {' or '.join(map(str, places))}: set MINIPEFT_DATA to the "
        "data/ folder of the repository."
    )


def find(name: str | Path) -> Path:
    """The folder of that name: a path, or one of the project's checkpoints.

    Raises:
        FileNotFoundError: neither; the sentence lists the names there are.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise FileNotFoundError(f"{folder} holds no config.json; give a Hugging Face folder.")
    shelf = data_folder() / "checkpoints"
    if (shelf / str(name) / "config.json").is_file():
        return shelf / str(name)
    names = sorted(path.parent.name for path in shelf.glob("*/config.json"))
    raise FileNotFoundError(f"{name} is neither a folder nor one of: {', '.join(names)}.")


def save(model, tokenizer: WordTokenizer | None, folder: str | Path) -> None:
    """Write config.json, model.safetensors and the tokenizer as a Hugging Face folder.

    Raises:
        ValueError: the model's config is none that GPT-2, BERT or BART can have.
    """
    folder = Path(folder).expanduser()
    heads = {ClassificationHead: "classification", TaggingHead: "tagging"}
    head = heads.get(type(model.head), "language")
    dtype = next(model.parameters()).dtype
    values = config_to_hugging_face(model.config, head, dtype)
    if head != "language":
        layer = model.head.classes if head == "classification" else model.head.tags
        names = {str(number): f"LABEL_{number}" for number in range(layer.out_features)}
        values |= {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
    text = json.dumps(values, indent=1, sort_keys=True)
    weights = saving_tensors(to_hugging_face(model))
    write_all({folder / "model.safetensors": weights, folder / "config.json": saving_text(text)})
    if tokenizer is not None:
        tokenizer.save(folder, model.config.positions)


def load(name: str | Path, head: str = "language", labels: int | None = None, seed: int = 0):
    """Open one of the project's models by name, or any GPT-2, BERT or BART folder.

    Args:
        name: "tiny-decoder", "tiny-encoder", "tiny-encoder-decoder", ... or a folder.
        head: "language", "classification" or "tagging".
        labels: number of classes or tags; not needed when the folder's own head has that kind.
        seed: of a head that the folder does not hold, which starts fresh. A language head that
            starts fresh is worth a warning, the other two are usually wanted that way.

    Returns:
        (model in eval mode, float32, tokenizer or None when the folder has none that we can read).

    Raises:
        FileNotFoundError: no such name or folder; the sentence lists the names there are.
        ValueError: a folder of another architecture, or a damaged file.
    """
    folder = find(name)
    values, config = read_config(folder)
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, not {head!r}.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        top = None
        if head != "language":
            labels = labels or len(values.get("id2label") or ()) or values.get("num_labels")
            top = (ClassificationHead if head == "classification" else TaggingHead)(config, labels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[config.kind](config, top)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; only safetensors are read, never a pickle: convert the folder "
            "with transformers (from_pretrained, then save_pretrained)."
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as problem:
        check_fetched(path)
        raise ValueError(f"{path} is damaged ({problem}); fetch or write it again.") from None
    fresh = from_hugging_face(model, tensors)
    if fresh and head == "language":
        warnings.warn(
            f"{folder} holds no language head ({fresh[0]}, ...): it starts fresh, train it.",
            stacklevel=2,
        )
    try:
        tokenizer = WordTokenizer.load(folder)
    except (FileNotFoundError, TypeError):  # none, or another kind
        tokenizer = None
    return model.eval(), tokenizer


def read_config(folder: Path) -> tuple[dict, TransformerConfig]:
    """config.json as it stands and as our numbers."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no table of fields")
    except ValueError as problem:
        raise ValueError(f"{path} is damaged ({problem}); fetch or write it again.") from None
    return values, config_from_hugging_face(values)


def translate(name: str, kind: str) -> str:
    """Our tensor name -> the Hugging Face name of the same tensor (GPT-2's q, k, v excepted)."""
    table = NAMES[kind]
    if name in table:
        return table[name]
    module, _, leaf = name.rpartition(".")
    parts = module.split(".")
    number = next((part for part in parts if part.isdigit()), None)
    key = ".".join("{i}" if part == number else part for part in parts)
    return f"{table[key].replace('{i}', str(number))}.{leaf}"


def to_hugging_face(model) -> dict[str, Tensor]:
    """The model's tensors under their Hugging Face names, in Hugging Face shapes."""
    kind, tensors = model.config.kind, {}
    ours = {
        name: value
        for name, value in model.state_dict().items()
        if name not in TIED and name.partition(".")[0] in model._modules  # the model's own
    }
    for name, value in ours.items():
        part, leaf = name.split(".")[-2:]
        if kind == "decoder" and part in ("query", "key", "value"):
            if part == "query":  # c_attn = [W_Q ; W_K ; W_V]
                stem = name.removesuffix(f"query.{leaf}")
                three = [ours[f"{stem}{part}.{leaf}"] for part in ("query", "key", "value")]
                value = torch.cat(three)  # (3 C, C) or (3 C)
                layer = name.split(".")[1]
                tensors[f"transformer.h.{layer}.attn.c_attn.{leaf}"] = (
                    value.T if leaf == "weight" else value
                )
            continue
        if kind == "decoder" and value.ndim == 2 and name.startswith("blocks."):
            value = value.T  # (in, out)
        if kind == "encoder-decoder" and name == "head.words.bias":
            value = value[None]  # (1, V)
        tensors[translate(name, kind)] = value
    return tensors


def from_hugging_face(model, tensors: dict[str, Tensor]) -> list[str]:
    """Copy Hugging Face tensors into the model; returns the names that the file did not hold.

    Raises:
        ValueError: when a tensor has another shape, or one that is not part of the head is missing.
    """
    kind = model.config.kind
    trunk = TRUNK[kind]
    bare = not any(name.startswith(trunk) for name in tensors)  # a GPT2Model, not GPT2LMHeadModel
    wanted, missing = to_hugging_face(model), []
    for name in list(wanted):
        short = name.removeprefix(trunk) if bare else name
        if short not in tensors:
            missing.append(name)
        elif tensors[short].shape != wanted[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensors[short].shape)} in the file but the config asks "
                f"for {tuple(wanted[name].shape)}; give the config.json of these weights."
            )
        else:
            wanted[name] = tensors[short]
    lost = [name for name in missing if name.startswith(trunk) and ".pooler." not in name]
    if lost:
        raise ValueError(
            f"The file holds no {lost[0]} ({len(lost)} tensors missing); it is not a whole {kind}."
        )
    state = {}
    for name, value in model.state_dict().items():
        if name in TIED or name.partition(".")[0] not in model._modules:
            continue
        part, leaf = name.split(".")[-2:]
        if kind == "decoder" and part in ("query", "key", "value"):
            fused = wanted[f"transformer.h.{name.split('.')[1]}.attn.c_attn.{leaf}"]
            fused = fused.T if leaf == "weight" else fused  # (3 C, C) or (3 C)
            state[name] = fused.chunk(3)[("query", "key", "value").index(part)]
        else:
            theirs = wanted[translate(name, kind)]
            transposed = kind == "decoder" and theirs.ndim == 2 and name.startswith("blocks.")
            state[name] = theirs.T if transposed else theirs.reshape(value.shape)
    model.load_state_dict(state, strict=False)
    return missing
