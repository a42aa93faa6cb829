"""A batch as the model can take it; one sentence about a batch that it cannot take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy
import torch
from torch import Tensor, nn

from minipeft.attached import anatomy_of

WHOLE = ("input_ids", "labels", "attention_mask", "decoder_input_ids", "token_type_ids")


def tidy(batch: Mapping, device: torch.device) -> dict:
    """The batch with its tensors on the device; lists of numbers and numpy's arrays become tensors.

    Ids, labels and masks of another whole-number type become int64. What is neither stays.

    Raises:
        TypeError: the batch is no dict.
        ValueError: rows of a list have different lengths, or input_ids has no axis of rows.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"A batch must be a dict of tensors, not {type(batch).__name__}.")
    tidied = {key: as_tensor(key, value) for key, value in batch.items()}
    ids = tidied.get("input_ids")
    if isinstance(ids, Tensor) and ids.dim() < 2:
        raise ValueError(
            f"The batch's input_ids must be (B, T), a row for each example, but are "
            f"{tuple(ids.shape)}: put "
            "one row into a batch with ids[None], its labels and mask likewise."
        )
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in tidied.items()}


def as_tensor(key: str, value):
    """One entry of a batch."""
    if isinstance(value, numpy.ndarray) or (key in WHOLE and isinstance(value, list | tuple)):
        try:
            value = torch.as_tensor(value)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"The rows of {key} cannot be made into one tensor: pad them to one length "
                "(minipeft.tasks does it with Task.batches)."
            ) from error
    if key in WHOLE and isinstance(value, Tensor):
        narrow = value.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8)
        return value.long() if narrow else value
    return value


@contextmanager
def explained(model: nn.Module, batch: Mapping) -> Iterator[None]:
    """Inside, a look-up of an id that the model does not have ends in a sentence."""
    try:
        yield
    except IndexError as error:
        size = vocabulary_size(model)
        for key in ("input_ids", "decoder_input_ids", "labels"):
            ids = batch.get(key)
            if size and isinstance(ids, Tensor) and ids.numel() and int(ids.max()) >= size:
                raise ValueError(
                    f"The batch has the id {int(ids.max())} in {key}, but the model knows "
                    f"the ids 0 to {size - 1} only: encode the batch with this model's tokenizer."
                ) from error
        raise


def vocabulary_size(model: nn.Module) -> int | None:
    """How many ids a model knows, those of tuners left out; None where it has no words."""
    try:
        return anatomy_of(model).vocabulary()
    except ValueError:
        return None
