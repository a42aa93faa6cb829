"""A file and a model of one family in two shapes: bare or with a head, or with another head.

A BertForMaskedLM calls `bert.encoder.layer.0...` what a BertModel calls `encoder.layer.0...`. An
adapter of the one means the same on the other, so its names are changed. A head that was trained
and that the model does not have cannot be made up: the sentence says which class has it.
"""

from __future__ import annotations

import re
import warnings

import torch
from torch import Tensor

from minipeft.files.peft.common import BASE, PREFIX, base_value, stands_twice
from minipeft.files.peft.task_types import HEADS, TASK_TYPES
from minipeft.model.anatomy import Anatomy
from minipeft.model.families import TASK_HEADS

# what follows a path
ADAPTED = re.compile(
    r"\.(lora_|ia3_l$|vera_lambda_|token_adapter\.|trainable_tokens_delta$|base_layer\.)"
)
WRAPPED = re.compile(r"\.(?:original_module|modules_to_save)\.")  # inside PEFT's module of a head
# names of a running model, with the adapter's inside: PEFT's save_pretrained takes it out
RUNNING = re.compile(
    r"\.(lora_[AB]|lora_magnitude_vector)\.[^.]+\.(weight|bias)$"
    r"|\.(lora_(embedding_)?[ABE]|ia3_l|vera_lambda_[bd]|trainable_tokens_delta)\."
    r"(?!(weight|bias)$)[^.]+$"
)
TARGETED = re.compile(r"\.(lora_|ia3_l$|vera_lambda_)")  # what follows the path of a target module
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
BY_PATH = ("rank_pattern", "alpha_pattern", "trainable_token_indices")
TASKS = {task: f"AutoModel{end}" for end, task in HEADS.items()}


def with_names_of(
    anatomy: Anatomy, settings: dict, tensors: dict[str, Tensor]
) -> tuple[dict, dict[str, Tensor]]:
    """(settings, tensors) by the names that this model has for the modules the file adapts.

    They are as they were where the names fit, or no one change makes all of them fit.
    """
    paths = {ADAPTED.split(k.removeprefix(PREFIX))[0] for k in tensors if ADAPTED.search(k)}
    if not paths or paths <= anatomy.modules.keys():
        return settings, tensors
    longest = max(paths, key=len)
    ends = [path for path in anatomy.modules if path and f".{longest}".endswith(f".{path}")]
    begins = [path for path in anatomy.modules if f".{path}".endswith(f".{longest}")]
    changes = [(longest.removesuffix(end), "") for end in ends]
    changes += [("", begin.removesuffix(longest)) for begin in begins]
    for old, new in changes:
        changed = {new + p.removeprefix(old) for p in paths if p.startswith(old)}
        if len(changed) == len(paths) and changed <= anatomy.modules.keys():
            break
    else:
        return settings, tensors

    def name(key: str) -> str:
        return new + key.removeprefix(old) if key.startswith(old) else key

    def full(key: str) -> str:
        """A setting's key: a module's name (AdaLoRA: and more), or a pattern for its end."""
        named = key.partition(".lora_")[0] in paths
        return name(key) if named or not new else key

    settings = {
        k: {full(key): v for key, v in value.items()}
        if k in BY_PATH and isinstance(value, dict)
        else value
        for k, value in settings.items()
    }
    # layers of a head keep their names where the model's trunk has a longer one
    moved = [key for key in tensors if ADAPTED.search(key) or not new]
    return settings, {_named(k, name) if k in moved else k: t for k, t in tensors.items()}


def without_doubles(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what PEFT stores of a trained head once more, with `bias="all"`: its
    biases beside the head as it was, and under the names that PEFT's own module gives them.
    """

    def is_double(key: str) -> bool:
        parts = WRAPPED.split(key, maxsplit=1)
        inside = parts[-1].partition(".")[2]  # behind the adapter's name, where there is one
        return len(parts) > 1 and any(
            f"{parts[0]}.{rest}" in tensors for rest in (parts[-1], inside) if rest
        )

    return {key: tensor for key, tensor in tensors.items() if not is_double(key)}


def check_whole(anatomy: Anatomy, settings: dict, tensors: dict[str, Tensor]) -> None:
    """A file of PEFT's must have its names, and what `modules_to_save` names if this model has it.

    Raises:
        ValueError: it is not what PEFT's save_pretrained writes.
    """
    paths = set()
    for key in tensors:
        if RUNNING.search(key) or WRAPPED.search(key):
            raise ValueError(
                f"The file has a tensor {key}, a name inside a running model of PEFT's: write the "
                "file with the save_pretrained of that model."
            )
        parts = key.removeprefix(PREFIX).removeprefix(BASE).split(".")
        paths |= {".".join(parts[:count]) for count in range(1, len(parts))}
    for name in saved_whole(settings):
        named = [m for path, m in anatomy.modules.items() if path.endswith(name)]
        trained = any(True for module in named for _ in module.parameters())
        if trained and not any(path.endswith(name) for path in paths):
            raise ValueError(
                f"adapter_config.json has {name!r} among its modules_to_save, of which the file "
                "has no tensor: it is incomplete, save it anew with PEFT."
            )


def warn_of_differences(settings: dict, tensors: dict[str, Tensor]) -> None:
    """Say of a file of PEFT's what it does here and does not do in PEFT, as after its
    adapter_config.json was edited by hand."""
    if settings["peft_type"] in PROMPTS and settings.get("task_type") not in TASK_TYPES:
        warnings.warn(
            "adapter_config.json has no task_type, without which PEFT opens this file and leaves "
            "its prompt out: here the prompt acts; write the task_type that it was trained with, "
            'such as "CAUSAL_LM", into that file to have it act in both.',
            UserWarning,
            stacklevel=3,
        )
    keys = (key.removeprefix(PREFIX) for key in tensors if TARGETED.search(key))
    paths = dict.fromkeys(TARGETED.split(key)[0] for key in keys)
    try:
        unnamed = [path for path in paths if not is_target(path, settings)]
    except (re.error, TypeError):  # no names and no patterns, which PEFT would stumble over
        return
    if unnamed:
        others = f" and {len(unnamed) - 1} more modules" if len(unnamed) > 1 else ""
        warnings.warn(
            f"adapter_config.json does not name {unnamed[0]}{others} (target_modules), and the "
            "file has tensors for it: here they act, and PEFT leaves them out; take these tensors "
            "out of the file, or name their modules.",
            UserWarning,
            stacklevel=3,
        )


def is_target(path: str, settings: dict) -> bool:
    """Do target_modules and its kin name the module at this path? By PEFT's rule."""
    names, layers = settings.get("target_modules"), settings.get("layers_to_transform")
    if settings.get("exclude_modules") and is_named(path, settings["exclude_modules"]):
        return False
    if not isinstance(names, list):
        is_pattern = isinstance(names, str) and names != "all-linear"
        return not is_pattern or is_named(path, names)
    if not is_named(path, names) or path in names or layers in (None, []):
        return is_named(path, names)
    patterns = settings.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    before = [rf"(?:.*?\.)?(?:{pattern})" for pattern in patterns] or [r".*?\.[^.]*"]
    matches = (re.match(rf"{stack}\.(\d+)\.", path) for stack in before)
    number = next((int(match[1]) for match in matches if match), None)
    return number in (layers if isinstance(layers, list) else [layers])


def is_named(path: str, names: str | list) -> bool:
    """Is a pattern that of the whole path, or one of several names its end?"""
    if isinstance(names, str):
        return bool(re.fullmatch(names, path))
    return any(f".{path}".endswith(f".{name}") for name in names)


def _named(key: str, name) -> str:
    return PREFIX + name(key.removeprefix(PREFIX)) if key.startswith(PREFIX) else key


def saved_whole(settings: dict) -> tuple[str, ...]:
    """PEFT's modules_to_save, ends of the paths of layers that are trained as they are."""
    names = settings.get("modules_to_save")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def without_base(anatomy: Anatomy, settings: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without layers of the base that PEFT stores beside what was trained: embeddings
    and head where the vocabulary was enlarged, or with save_embedding_layers.

    Where this base has other numbers, as new tokens have after every resize_token_embeddings, the
    tuner gets a copy of them.
    """
    # PEFT before 0.8 trained a task's head without naming it
    names = (*saved_whole(settings), *anatomy.heads())
    kept, copied = dict(tensors), []
    for key, tensor in tensors.items():
        path, _, parameter = key.removeprefix(PREFIX).removeprefix(BASE).rpartition(".")
        layer = anatomy.modules.get(path)
        if parameter != "weight" or layer is None or ADAPTED.search(key):
            continue
        steps = path.split(".")
        above = [".".join(steps[:count]) for count in range(1, len(steps) + 1)]
        if any(step.endswith(names) for step in above):
            if stands_twice(anatomy, layer):
                raise ValueError(
                    f"The file trains {path} as a whole (modules_to_save), which stands in several "
                    "places of this model, of which PEFT trains one: open it with PEFT."
                )
            continue
        weight = layer._parameters.get("weight")
        if weight is not None and torch.equal(base_value(anatomy, weight).to(tensor), tensor):
            del kept[key]
        else:
            copied.append(path)
    if copied:
        warnings.warn(
            f"The file holds {' and '.join(copied)} of another base, or of one whose new tokens "
            "were drawn anew, which PEFT leaves frozen: here they are copies, which train if the "
            "tuner is trained on; load the base that the file was made for to leave them out.",
            UserWarning,
            stacklevel=3,
        )
    return kept


def check_heads(anatomy: Anatomy, settings: dict, tensors: dict[str, Tensor]) -> None:
    """A trained head in the file must be one that the model has, with as many labels.

    Raises:
        ValueError: it is not; the sentence says which model to load.
    """
    task = settings.get("task_type")
    auto = TASKS.get(task) if isinstance(task, str) else None
    for key, tensor in tensors.items():
        path = key.removeprefix(PREFIX).removeprefix(BASE)
        head = path.split(".")[0]
        if head not in (*TASK_HEADS, "head") or not key.startswith(BASE):
            continue
        if ADAPTED.search(key) and ADAPTED.split(path)[0] in anatomy.modules:
            continue  # an adapter on a map of the head, and no head
        module, _, parameter = path.rpartition(".")
        layer = anatomy.modules.get(module)
        numbers = {} if layer is None else layer._parameters | layer._buffers
        parameter = numbers.get(parameter)
        if parameter is not None and parameter.shape == tensor.shape:
            continue
        outputs = [len(t) for k, t in tensors.items() if head in k.split(".") and t.dim() == 2]
        labels = min(outputs, default=2)
        what = f"a trained classification head {head!r}{f' (task_type {task})' if auto else ''}"
        if parameter is not None and head in TASK_HEADS:
            raise ValueError(
                f"The file holds {what} with {labels} labels, in which {path} has shape "
                f"{tuple(tensor.shape)}, and {tuple(parameter.shape)} in this model: load the "
                f"base that it was made for with num_labels={labels}."
            )
        if head == "head":  # a tiny_transformer's
            call = f'tt.load(..., head="classification" or "tagging", labels={labels})'
        else:
            call = (
                f"{auto or 'the Auto class of its task'}.from_pretrained(..., num_labels={labels})"
            )
        raise ValueError(
            f"The file holds {what} with {labels} labels, which this "
            f"{type(anatomy.model).__name__} does not have: load the base with that head, {call}."
        )
