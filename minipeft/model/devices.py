"""A batch where its model is, and what the processor knows of it.

An accelerator works behind the processor. A question whose answer the program needs (is there
padding? are a prompt's words in?) waits until it has done all that it was given. So questions are
asked of the numbers as they were on the processor, before they went over:

    moved(ids, device)      ids on the device; what they were is remembered as long as they live
    on_host(ids)            the same numbers on the processor; what did not come from there is
                            fetched, once
    on_host(ids[:, :k])     of a part of them likewise

On a processor alone all of these give back what they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

HOST = WeakTensorKeyDictionary()  # tensor elsewhere -> (the same on the processor, its version)


def on_device_of(model: nn.Module, batch: Mapping) -> dict:
    """The batch with its tensors on the device of the model's first parameter.

    Batches are made on the processor; whatever takes a batch for a model moves it by this.
    """
    device = next(model.parameters()).device
    return {k: moved(v, device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def moved(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; whole numbers that come from the processor are remembered."""
    result = value.to(device, non_blocking=torch.device(device).type == "cuda")
    if result is not value and value.device.type == "cpu":
        keep_on_host(result, value)
    return result


def keep_on_host(value: Tensor, same: Tensor) -> None:
    """Of a tensor elsewhere: what its numbers are, on the processor."""
    whole = not value.is_floating_point() and value.is_contiguous() and value._base is None
    if whole and not value.is_inference():
        HOST[value] = same.clone(memory_format=torch.contiguous_format), value._version


def on_host(value: Tensor) -> Tensor:
    """The same numbers on the processor."""
    if value.device.type == "cpu" or torch.compiler.is_compiling():
        return value
    if value.is_inference():  # nobody would know that it was changed
        return value.cpu()
    whole = value if value._base is None else value._base
    same, version = HOST.get(whole, (None, None))
    if version == whole._version:
        return same.as_strided(value.shape, value.stride(), value.storage_offset())
    same = value.cpu()
    keep_on_host(value, same)
    return same


def batch_on_host(batch: Mapping) -> dict:
    """The batch, what it says of its tokens (B, T) in whole numbers on the processor."""
    shape = batch["input_ids"].shape
    return {key: on_host(v) if is_of_tokens(v, shape) else v for key, v in batch.items()}


def is_of_tokens(value, shape: torch.Size) -> bool:
    """Is this a tensor with a whole number for every token?"""
    return isinstance(value, Tensor) and value.shape == shape and not value.is_floating_point()


def on_processor(function: Callable[..., dict]) -> Callable[..., dict]:
    """A function batch -> batch that arranges tokens: it does so on the processor."""

    @wraps(function)
    def arranged(batch: dict, *args, **kwargs) -> dict:
        device = batch["input_ids"].device
        if device.type == "cpu":
            return function(batch, *args, **kwargs)
        given = batch_on_host(batch)
        result = function(given, *args, **kwargs)
        back = {k: moved(v, device) if isinstance(v, Tensor) else v for k, v in result.items()}
        return {k: batch[k] if v is given.get(k) else back[k] for k, v in result.items()}

    return arranged
