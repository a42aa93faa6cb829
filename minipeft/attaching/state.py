"""What a model with tuners says in `state_dict()`, and takes in `load_state_dict()`.

    transformer.h.0.attn.c_attn.weight                          the base, by its names as ever
    minipeft.sentiment.transformer.h.0.attn.c_attn.qkv.A        what the tuner "sentiment" trains

So `save_pretrained` and the checkpoints of transformers' Trainer hold a base that opens as it was,
and `load_state_dict` on a model with the same tuners, as the Trainer goes on from a checkpoint,
brings back both. A door says nothing of itself (`Door.state_dict`). A merged tuner is part of the
base's weights and has no tensors of its own. What a patch has made of the base's weights, such as
QLoRA's four bits, it makes anew when others are loaded (`Patch.base_loaded`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minipeft.doors.door import bottom
from minipeft.doors.patch import as_patch

BEGIN = "minipeft."
DOOR_NAMES = re.compile(r"(^|\.)patches\.")  # as states of versions up to 0.1 were written


def register(model: nn.Module) -> Iterator:
    """Handles of the hooks, to be removed with the last tuner."""
    yield model.register_state_dict_post_hook(add_tuners)
    yield model.register_load_state_dict_pre_hook(take_tuners)
    yield model.register_load_state_dict_post_hook(notify_patches)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """<tuner>.<its name of the tensor> -> tensor, for all tuners that are not merged."""
    tensors = {}
    for tuner in model.minipeft.tuners.values():
        # base parameters in training stand in the state by the base's names
        in_base = set(tuner.base_value_names.values()) if tuner.enabled else set()
        if not tuner.merged:
            named = tuner.named_tensors().items()
            tensors |= {f"{tuner.name}.{key}": t for key, t in named if key not in in_base}
    return tensors


def add_tuners(model: nn.Module, state: dict, prefix: str, _) -> None:
    """A hook of `state_dict`: the tensors of the tuners behind those of the base."""
    if "minipeft" in vars(model):
        state |= {f"{prefix}{BEGIN}{key}": tensor for key, tensor in tensors_of(model).items()}


@torch.no_grad()
def take_tuners(
    model, state: dict, prefix: str, metadata: dict, strict, missing, unexpected, errors
) -> None:
    """A hook of `load_state_dict`: the tensors of the tuners out of the state, into the tuners."""
    if "minipeft" not in vars(model):
        return
    merged = [tuner.name for tuner in model.minipeft.tuners.values() if tuner.merged]
    if merged:
        raise ValueError(
            f"{merged[0]!r} is merged into the base's weights, which load_state_dict() would "
            "overwrite: call unmerge() or detach() first."
        )
    if metadata.get("assign_to_params_buffers"):
        raise ValueError(
            "load_state_dict(assign=True) would put other parameters in the place of those that "
            "the tuners know: leave assign out, or load the state before attach()."
        )
    begin = f"{prefix}{BEGIN}"
    given = {
        key.removeprefix(begin): state.pop(key) for key in list(state) if key.startswith(begin)
    }
    tensors = tensors_of(model)
    if not any(map(DOOR_NAMES.search, state)):
        missing += [f"{begin}{key}" for key in tensors if key not in given]
    unexpected += [f"{begin}{key}" for key in given if key not in tensors]
    for key in given.keys() & tensors.keys():
        if given[key].shape == tensors[key].shape:
            tensors[key].copy_(given[key])
        else:
            errors.append(
                f"{begin}{key} has shape {tuple(given[key].shape)} in the state, but "
                f"{tuple(tensors[key].shape)} in this tuner."
            )


def notify_patches(model: nn.Module, _) -> None:
    """A hook after `load_state_dict`: patches made something of weights that may be others now."""
    for door in vars(model)["minipeft"].doors if "minipeft" in vars(model) else ():
        for patch in door.patches.values():
            as_patch(patch).base_loaded(bottom(door))
