"""Tuners on disk: adapter_config.json and adapter_model.safetensors, as 🤗 PEFT lays them out.

What PEFT has a layout for is written in it (`peft/`), so that either library opens the other's
files. What PEFT has not (adapters, BitFit, UniPELT, full and partial fine-tuning) has a layout of
its own, with peft_type "MINIPEFT".

Files written here carry, in the safetensors metadata, a hash of everything that counts and the
identity of the base. A stranger's file has neither: its form, shapes and numbers are checked.
Nothing is ever unpickled, and nothing is attached before everything has been checked.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import minipeft.methods as methods
from minipeft.attaching.beginning import attach_tuner
from minipeft.attaching.refusals import check_attach
from minipeft.files import peft as layouts
from minipeft.files.older import names_of_today
from minipeft.files.other_shapes import (
    ADAPTED,
    check_heads,
    check_whole,
    warn_of_differences,
    with_names_of,
    without_base,
    without_doubles,
)
from minipeft.methods.method import Method
from minipeft.model.anatomy import Anatomy
from minipeft.model.family import Family
from minipeft.model.fingerprint import identity, raw_bytes, same_base
from minipeft.model.libraries import is_loose, unwrapped
from minipeft.tuner import Tuner
from tiny_transformer.files import check_fetched, saving_tensors, saving_text, write_all

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
OURS = "minipeft"  # the key of our metadata
FORMAT_VERSION = 1  # "form" in our metadata; goes up when older versions would misread a file
BASE_NAME = ("base_model_name_or_path", "revision")
# settings that say where a file comes from, not what it does: they may be edited by hand
PROVENANCE = (
    *BASE_NAME,
    "auto_mapping",
    "inference_mode",
    "peft_version",
    "task_type",
)


def save(tuner: Tuner, folder: str | Path) -> None:
    """Write a tuner into a folder (made if need be); each file appears whole or not at all.

    Raises:
        OSError: it cannot be written; the sentence says why, and old files are as they were.
    """
    changed = tuner.record.changed_buffers()
    if changed:
        warnings.warn(
            f"Passes in train mode have changed {changed[0]} of the base, which no file of a tuner "
            "holds, so that this one opens with other answers: keep such layers in eval mode while "
            "training, or put them into a head that attach trains a copy of.",
            stacklevel=3,
        )
    writer = layouts.WRITERS.get(type(tuner.method))
    written = writer and layouts.has_copies_as_in_peft(tuner) and writer(tuner)
    settings, tensors = written or _own_layout(tuner)
    first = {t.data_ptr(): key for key, t in reversed(tensors.items())}  # of tied ones
    tensors = {k: t if first[t.data_ptr()] == k else t.clone() for k, t in tensors.items()}
    heads = tuple(tuner.anatomy.heads())
    ours = {
        "form": FORMAT_VERSION,
        "method": type(tuner.method).__name__,
        "settings": tuner.method.settings(),
        "copies": sorted(tuner.copies),
        "base": identity(tuner.model, without=heads),
        "model_type": tuner.anatomy.model_type,
    }
    ours["hash"] = content_hash(settings, tensors, ours)
    folder = Path(folder).expanduser()
    metadata = {"format": "pt", OURS: json.dumps(ours, sort_keys=True)}
    text = json.dumps(settings, indent=2, sort_keys=True)
    write_all(
        {folder / TENSORS: saving_tensors(tensors, metadata), folder / CONFIG: saving_text(text)}
    )


def load(
    model: nn.Module,
    folder: str | Path,
    name: str = "default",
    any_base: bool = False,
    family: Family | None = None,
) -> Tuner:
    """Attach a tuner that was saved here or by 🤗 PEFT. It is enabled, and can be trained on.

    Args:
        model: the base it was trained on, freshly loaded.
        folder: what `save` or PEFT's `save_pretrained` wrote.
        name: the tuner's name on this model.
        any_base: open it on a base other than the one it was trained on, if the shapes allow.
        family: names of the parts of a model that anatomy does not know.

    Raises:
        FileNotFoundError: the folder or a file in it is missing.
        ValueError: the files are damaged, unsafe, of an unknown method or for another base; the
            sentence says which. The model is then as it was.
    """
    folder, model = Path(folder).expanduser(), unwrapped(model)
    settings, tensors, ours = read(folder)
    tensors = names_of_today(tensors) if ours else tensors
    anatomy = Anatomy(model, family)
    anatomy.copied = tuple(ours.get("copies", ())) if ours else ()
    if ours and not any_base and not same_base(model, ours["base"], tuple(anatomy.heads())):
        raise ValueError(
            f"{folder} was trained on another base, a {ours.get('model_type')} whose weights "
            "or shapes differ from this model's: load that base, or pass any_base=True "
            "(--any-base)."
        )
    reader = layouts.READERS.get(settings["peft_type"])
    if not ours:
        warn_of_differences(settings, tensors)
        settings, tensors = with_names_of(anatomy, settings, without_doubles(tensors))
        check_whole(anatomy, settings, tensors)
    check_heads(anatomy, settings, tensors)
    if not ours:
        tensors = without_base(anatomy, settings, tensors)
    if reader:
        method, values = reader(settings, tensors, anatomy, _method(ours) if ours else None)
    else:
        method, values = _method(ours).import_state(tensors)
    check_attach(model, method, name, head=False)
    tuner = Tuner(model, method, name, family)
    tuner.foreign, tuner.anatomy.copied = not ours, anatomy.copied
    if not any_base:
        tuner.base_name = tuple(settings.get(key) for key in BASE_NAME)
    attach_tuner(tuner, head=False)
    try:
        fill(tuner, values)
    except BaseException:
        tuner.detach()
        raise
    return tuner


def fill(tuner: Tuner, values: dict[str, Tensor]) -> None:
    """Copy tensors into a tuner by name. What belongs to no patch must be a layer to copy."""
    places = tuner.named_tensors()
    for key in sorted(values, key=lambda key: key.count(".")):  # a layer before those inside it
        if key not in places:
            path, _, parameter = key.rpartition(".")
            layer = tuner.anatomy.modules.get(path)
            if layer is None or parameter not in layer._parameters:
                near = difflib.get_close_matches(path, tuner.anatomy.modules, n=1)
                hint = f" (the nearest is {near[0]})" if near else ""
                raise ValueError(
                    f"The file has a tensor for {path}, which is not there{hint}: it was made for "
                    "a model of another class."
                )
            path = whole_layer(path, tuner.anatomy)
            if any(place.path == path for place, _ in tuner.patches):
                raise ValueError(
                    f"The file trains {path} as a whole (modules_to_save) and adapts it as well, "
                    "which is not done here to one layer at once: open it with PEFT."
                )
            tuner.copy(path)
            places = tuner.named_tensors()
    missing = [key for key in places if key not in values]
    if missing:
        raise ValueError(f"The file lacks the tensor {missing[0]}: it is incomplete.")
    for key, value in values.items():
        if places[key].shape != value.shape:
            raise ValueError(
                f"{key} has shape {tuple(value.shape)} in the file but {tuple(places[key].shape)} "
                "on this model: it belongs to another base."
            )
        if places[key].is_floating_point() != value.is_floating_point():
            raise ValueError(
                f"{key} holds {value.dtype} in the file and {places[key].dtype} on this model: it "
                "was changed, or belongs to another method."
            )
    with torch.no_grad():
        for key, value in values.items():
            places[key].copy_(value)


def whole_layer(path: str, anatomy: Anatomy) -> str:
    """The module at a path, or, where that is a container of numbers, the one that reads them."""
    above = path
    while above and is_loose(anatomy.modules[above]):
        above = above.rpartition(".")[0]
    return above or path


def read(folder: Path) -> tuple[dict, dict[str, Tensor], dict | None]:
    """(settings, tensors, our metadata or None) of a folder, after every check of form."""
    check_files(folder)
    settings = read_settings(folder / CONFIG)
    metadata, tensors = read_tensors(folder / TENSORS)
    ours = _our_metadata(folder, metadata)
    if ours and ours.get("form", 0) > FORMAT_VERSION:
        raise ValueError(f"{folder} was written by a newer minipeft: update minipeft to open it.")
    if ours and ours.get("hash") != content_hash(settings, tensors, ours):
        raise ValueError(f"{folder} does not match its content hash: it is damaged or was changed.")
    if settings["peft_type"] not in (*layouts.READERS, "MINIPEFT"):
        kind, known = one_line(settings["peft_type"]), ", ".join(layouts.READERS)
        raise ValueError(
            f"{folder} holds a {kind} tuner, a method that this version does not know (it knows "
            f"{known}): open it with the library that wrote it."
        )
    if settings["peft_type"] == "MINIPEFT" and not ours:
        raise ValueError(
            f"{folder} holds no method that minipeft knows: it is in minipeft's own layout, but "
            "its tensors have lost what was written beside them; take the files as they were saved."
        )
    for key, tensor in tensors.items():
        counts = ours or not ADAPTED.search(key)  # the buffers of a trained head, maybe
        if not tensor.is_floating_point() and not counts:
            raise ValueError(f"{key} in {folder} holds {tensor.dtype}, not floating-point numbers.")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{key} in {folder} has values that are not finite: do not use it.")
    return settings, tensors, ours


def check_files(folder: Path) -> None:
    """The two files of a tuner must be in the folder.

    Raises:
        FileNotFoundError: one is not.
        ValueError: in the place of the tensors is a pickle.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not (folder / CONFIG).is_file():
        inner = sorted(str(file.parent) for file in folder.glob(f"*/{CONFIG}"))
        where = f"; a folder in it is: {', '.join(inner)[:300]}" if inner else ""
        raise FileNotFoundError(f"{folder} has no {CONFIG}: it is not a saved tuner{where}.")
    if not (folder / TENSORS).is_file():
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
        if pickles:
            raise ValueError(
                f"{folder / pickles[0]} is a pickle, which can run any program when it is opened: "
                "ask its author for a safetensors file."
            )
        raise FileNotFoundError(f"{folder} has no {TENSORS}.")


def read_settings(path: Path) -> dict:
    """What an adapter_config.json says, a peft_type at least; a damaged one is a ValueError."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # nested a hundred thousand deep
        check_fetched(path)
        raise ValueError(f"{path} is not JSON: it is damaged.") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("peft_type"), str):
        raise ValueError(f"{path} does not name a peft_type: it is damaged.")
    return settings


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """(metadata, tensors) of a safetensors file; a damaged one is a ValueError."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        check_fetched(path)
        raise ValueError(
            f"{path} is not a whole safetensors file ({one_line(error)}): it is damaged, or "
            "something else."
        ) from None


def one_line(text: object) -> str:
    """What a file or a library says, short enough for a sentence."""
    line = " ".join(str(text).split())
    return line if len(line) <= 200 else f"{line[:197]}..."


def content_hash(settings: dict, tensors: dict[str, Tensor], ours: dict) -> str:
    """SHA-256 of all that decides what a file does: settings, tensors, our metadata."""
    deciding = {key: value for key, value in settings.items() if key not in PROVENANCE}
    about = {key: value for key, value in ours.items() if key != "hash"}
    digest = hashlib.sha256(json.dumps([deciding, about], sort_keys=True).encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def _our_metadata(folder: Path, metadata: dict[str, str]) -> dict | None:
    damaged = ValueError(f"The metadata of {folder / TENSORS} is damaged.")
    if OURS not in metadata:
        # one flipped bit in the key must not turn our file into a stranger's, which is not hashed
        if any(difflib.SequenceMatcher(None, key, OURS).ratio() > 0.7 for key in metadata):
            raise damaged
        return None
    try:
        ours = json.loads(metadata[OURS])
    except (ValueError, RecursionError):
        raise damaged from None
    if not isinstance(ours, dict) or metadata != {"format": "pt", OURS: metadata[OURS]}:
        raise damaged
    kinds = {"form": int, "method": str, "settings": dict, "base": dict, "hash": str}
    if any(not isinstance(ours.get(key), kind) for key, kind in kinds.items()):
        raise damaged
    return ours


def _own_layout(tuner: Tuner) -> tuple[dict, dict[str, Tensor]]:
    """Settings and tensors of a method that PEFT does not have."""
    settings = tuner.method.settings()
    method = type(tuner.method).__name__
    return {
        "peft_type": "MINIPEFT",
        "method": method,
        "settings": settings,
    }, tuner.method.export_state(tuner)


def _method(ours: dict) -> Method:
    return method_class(ours.get("method")).from_settings(ours["settings"], method_class)


def method_class(name: object) -> type[Method]:
    """The method of that name."""
    kind = getattr(methods, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise ValueError(
            f"The file holds the method {name}, which this version of minipeft does not know: "
            "open it with the version that wrote it."
        )
    return kind
