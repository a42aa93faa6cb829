"""A batch as the model can take it; one sentence about a batch that it cannot take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy
import torch
from torch import Tensor, nn

from minipeft.attached import anatomy_of, kind_of, tuners
from minipeft.model.devices import moved, on_host
from minipeft.model.kind import config_of, head_of

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
    if isinstance(ids, Tensor) and not ids.numel():
        raise ValueError(f"The batch has no tokens: its input_ids are {tuple(ids.shape)}.")
    return {k: moved(v, device) if isinstance(v, Tensor) else v for k, v in tidied.items()}


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
        other = not (value.is_floating_point() or value.is_complex() or value.dtype is torch.bool)
        return value.long() if other else value
    return value


def without_labels(batch: Mapping) -> dict:
    """What a model reads of a batch."""
    return {key: value for key, value in batch.items() if key != "labels"}


@contextmanager
def explained(model: nn.Module, batch: Mapping) -> Iterator[None]:
    """Inside, what a model cannot do with a batch ends in a sentence about the batch.

    An accelerator says of an id that is not there neither which nor where, and cannot be used by
    this process again: ids and classes are compared there before the pass.
    """
    if next(model.parameters()).device.type != "cpu" and (why := beyond(model, batch)):
        raise ValueError(f"The batch {why}.")
    try:
        yield
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        why = wrong_name(batch, error) or wrong_type(batch, error) or wrong_shape(model, batch)
        why = why or (wrong_number(model, batch, error) if isinstance(error, IndexError) else None)
        if why is None:
            raise
        raise ValueError(f"The batch {why}.") from error


def wrong_name(batch: Mapping, error: Exception) -> str | None:
    """The batch lacks the ids, or has an entry that the model does not take."""
    said = str(error)
    strange = re.search(r"unexpected keyword argument '(\w+)'", said)
    if strange and strange[1] in batch:
        return f"has {strange[1]!r}, which the model does not take: leave it out"
    if "input_ids" in said and not {"input_ids", "inputs_embeds"} & set(batch):
        return f"has no input_ids, only {', '.join(map(str, batch))}: add the ids of the tokens"
    return None


def wrong_type(batch: Mapping, error: Exception) -> str | None:
    """Ids, masks or labels that are no whole numbers, as labels of a regression need not be."""
    for key in WHOLE:
        value = batch.get(key)
        if key == "labels" and not re.search("target|label|dtype|scalar type", str(error), re.I):
            continue
        if isinstance(value, Tensor) and value.is_floating_point():
            one = " (a number to predict needs a head of one label)" if key == "labels" else ""
            return (
                f"holds {str(value.dtype).removeprefix('torch.')} in {key}, where whole numbers "
                f"are needed: make them so with .long(){one}"
            )
    return None


def wrong_shape(model: nn.Module, batch: Mapping) -> str | None:
    """Labels or a mask that are not as many as the ids."""
    ids = batch.get("input_ids")
    if not isinstance(ids, Tensor):
        return None
    if ids.dim() != 2:
        return f"has input_ids of the shape {tuple(ids.shape)}, but they must be (B, T)"
    for key in ("labels", "attention_mask", "token_type_ids"):
        value = batch.get(key)
        if key == "labels" and isinstance(value, Tensor) and value.dim() == 1 and is_writer(model):
            return (
                f"has input_ids of the shape {tuple(ids.shape)}, but labels of "
                f"{tuple(value.shape)}: a language head needs one for each token"
            )
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        wide = value.dim() == 2 and not (key == "labels" and two_lengths(model, value))
        if len(value) != len(ids) or (wide and value.shape[1] != ids.shape[1]):
            return (
                f"has input_ids of the shape {tuple(ids.shape)}, but {key} of "
                f"{tuple(value.shape)}: give one for each token, or one label for each row"
            )
    return None


def is_writer(model: nn.Module) -> bool:
    """Has the model a language head, as far as anybody can say?"""
    try:
        return head_of(model) == "language"
    except ValueError:
        return False


def two_lengths(model: nn.Module, labels: Tensor) -> bool:
    """May labels be of another length than the ids: for a decoder beside an encoder, or classes?"""
    try:
        return kind_of(model) == "encoder-decoder" or head_of(model) == "classification"
    except ValueError:
        return True


def beyond(model: nn.Module, batch: Mapping) -> str | None:
    """An id or a class that the model does not have, before anything is looked up."""
    ids, labels = (
        on_host(v) if isinstance(v, Tensor) and not v.is_floating_point() else None
        for v in (batch.get("input_ids"), batch.get("labels"))
    )
    words = [tuner.words.stop for tuner in tuners(model).values() if tuner.words]
    if ids is not None and ids.numel():
        low, high = torch.aminmax(ids)
        if (size := vocabulary_size(model)) and (low < 0 or high >= max([size, *words])):
            return strange_id("input_ids", int(low), int(high), size)
    classes = classes_of(model)
    if classes > 1 and labels is not None:
        strange = labels[(labels != -100) & ((labels < 0) | (labels >= classes))]
        return strange_class(int(strange[0])) if len(strange) else None
    return None


def classes_of(model: nn.Module) -> int:
    """Among how many classes a head chooses; 0 for a language head, and where nobody says it."""
    if head_of(model) == "language":
        return 0
    head = getattr(model, "head", None)  # of a tiny_transformer; a door may stand around it
    head = getattr(head, "base", head)
    linear = getattr(head, "classes", None) or getattr(head, "tags", None)
    return len(linear.weight) if linear is not None else getattr(config_of(model), "num_labels", 0)


def wrong_number(model: nn.Module, batch: Mapping, error: IndexError) -> str | None:
    """An id or a label that the model does not have."""
    size = vocabulary_size(model)
    for key in ("input_ids", "decoder_input_ids", "labels"):
        ids = batch.get(key)
        if not size or not isinstance(ids, Tensor) or not ids.numel():
            continue
        low, high = int(ids.min()), int(ids.max())
        if high >= size or (low < 0 and key != "labels"):
            return strange_id(key, low, high, size)
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or not labels.numel() or "Target" not in str(error):
        return None
    low = int(labels.min())
    return strange_class(low if low < 0 and low != -100 else int(labels.max()))


def strange_id(key: str, low: int, high: int, size: int) -> str:
    """What to say of ids between `low` and `high`, of which a model knows `size`."""
    return (
        f"has the id {high if high >= size else low} in {key}, but the model knows the "
        f"ids 0 to {size - 1} only: encode the batch with this model's tokenizer"
    )


def strange_class(label: int) -> str:
    """What to say of a label that is no class of the head."""
    return (
        f"has the label {label}, which the model's head does not have: labels count from 0, and "
        "-100 says that nothing is asked"
    )


def vocabulary_size(model: nn.Module) -> int | None:
    """How many ids a model knows, those of tuners left out; None where it has no words."""
    try:
        return anatomy_of(model).vocabulary()
    except ValueError:
        return None
