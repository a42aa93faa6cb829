"""What a model answers for the tokens of a batch, where soft prompts were put in beside them.

    model(**batch)                answers for the tokens of `batch`, as many as without the tuner
    model(**tuner.wrap(batch))    answers at every place, for the soft words are in the ids

Who reads `logits[:, t]` of an encoder or a tagger, a pipeline of transformers say, means the t-th
token that was given. Whole stays what a decoder that writes answers, where the last place says what
comes next, and what a tuner with `compatibility="peft"` changes: 🤗 PEFT's models answer at every
place. So does what goes on to somebody else, an encoder's outputs to its decoder and the cache;
attention, with a row for each token that was given, shows all that was read.

Shapes: B rows, T tokens, N tokens with the soft words.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from weakref import WeakSet

import torch
from torch import Tensor, nn

from minipeft.model.devices import moved, on_host
from minipeft.model.kind import HEADS, head_of, kind_of
from minipeft.model.libraries import is_library_model
from minipeft.passes.call_arguments import arguments_of

if TYPE_CHECKING:
    from minipeft.tuner import Tuner

WARNED: WeakSet[Tuner] = WeakSet()  # tuners of which `warn_of_labels` has spoken
COLUMNS = "minipeft_columns"  # an entry of a batch, (B, T): the column of a token, from 1
POINTERS = ("start_positions", "end_positions", "mc_token_ids")  # entries that name a column
SPANS = ("start_logits", "end_logits")  # (B, N)
WHOLE = ("encoder_", "decoder_", "cross_", "past_key_values", "cache", "mems")
DECODED = ("decoder_input_ids", "decoder_inputs_embeds", "labels")  # what a decoder reads instead


def numbered(batch: dict, name: str = COLUMNS) -> dict:
    """The batch with the column of each of its tokens, from 1; what is put in will have 0."""
    ids = batch["input_ids"]
    columns = torch.arange(1, ids.shape[-1] + 1).expand(ids.shape)
    return {**batch, name: moved(columns, ids.device)}


def places_of(columns: Tensor, T: int) -> Tensor:
    """Where the tokens of a row are now: columns (B, N) -> places (B, T).

    A token that has no place any more, padding that was left out, is given N.
    """
    N = columns.shape[-1]
    places = columns.new_full((*columns.shape[:-1], T + 1), N)
    numbers = torch.arange(N, device=columns.device).expand_as(columns)
    return places.scatter(-1, columns, numbers)[..., 1:]  # the first is of the new words


def keep_pointers(batch: dict, wrap: Callable[[dict], dict]) -> dict:
    """`wrap(batch)`, and entries that name a column name the same token afterwards.

    One beyond the last token means that a row has no answer, and stays beyond the last.
    """
    pointers = [name for name in POINTERS if isinstance(batch.get(name), Tensor)]
    if not pointers:
        return wrap(batch)
    marked = numbered(batch, "pointed")
    wrapped = wrap(marked)
    if wrapped is marked:
        return batch
    T = batch["input_ids"].shape[-1]
    columns = wrapped.pop("pointed")
    places = places_of(columns, T)  # (B, T), or (B, choices, T)
    outside = places.new_full((*places.shape[:-1], 1), columns.shape[-1])
    places = torch.cat([places, outside], dim=-1)
    for name in pointers:
        given = batch[name]
        if given.numel() == places[..., 0].numel():
            index = given.reshape(*places.shape[:-1], 1).clamp(0, T)
            wrapped[name] = places.gather(-1, index).reshape(given.shape)
    return wrapped


class Answers:
    """What a call gives back for the tokens that it was given.

    Args:
        columns: (B, N) or (B, choices, N), of the tokens in the longer rows.
        given: the arguments of the call.
    """

    def __init__(self, columns: Tensor, given: Mapping) -> None:
        T, self.N = given["input_ids"].shape[-1], columns.shape[-1]
        self.of_tokens = places_of(on_host(columns).reshape(-1, self.N), T)
        self.as_tuple = given.get("return_dict") is False

    def asked(self) -> dict:
        """What has to change in the arguments of the call."""
        return {"return_dict": True} if self.as_tuple else {}

    def of(self, module: nn.Module, output):
        """The output of `module`, cut to the tokens that were given."""
        labels = getattr(getattr(module, "config", None), "num_labels", None)
        flat = is_library_model(module) and labels != self.N  # are scores (B, N) of tokens?

        def cut(value, name: str = ""):
            if isinstance(value, tuple | list):
                parts = [cut(part, name) for part in value]
                return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
            if not isinstance(value, Tensor) or value.dim() < 2 or name.startswith(WHOLE):
                return value
            dim = 2 if name == "attentions" and value.dim() == 4 else 1
            if len(value) != len(self.of_tokens) or value.shape[dim] != self.N:
                return value
            if value.dim() == 2 and name not in SPANS and not (flat and name == "logits"):
                return value
            return at(value, self.of_tokens, dim)

        if isinstance(output, Mapping):
            for name in output:
                output[name] = cut(output[name], name)
            return output.to_tuple() if self.as_tuple and hasattr(output, "to_tuple") else output
        if dataclasses.is_dataclass(output):
            names = [field.name for field in dataclasses.fields(output) if field.init]
            return dataclasses.replace(output, **{n: cut(getattr(output, n), n) for n in names})
        return cut(output)


def at(values: Tensor, places: Tensor, dim: int) -> Tensor:
    """The places (B, T), on the processor, of values (B, ..., N, ...), whose N stand in dimension
    `dim`; those of padding that was left out hold anything."""
    T = places.shape[1]
    first = int(places[0, 0]) if places.numel() else 0
    in_a_row = torch.arange(first, first + T)
    if first + T <= values.shape[dim] and bool((places == in_a_row).all()):
        return values.narrow(dim, first, T)
    index = moved(places.clamp(max=values.shape[dim] - 1), values.device)
    shape = [1] * values.dim()
    shape[0], shape[dim] = index.shape
    wide = list(values.shape)
    wide[dim] = T
    return values.gather(dim, index.view(shape).expand(wide))


def writes(module: nn.Module) -> bool:
    """Does it say what comes next, or make the states that say it?"""
    return kind_of(module) == "decoder" and head_of(module) == HEADS[0]


def stays_whole(module: nn.Module, given: Mapping, around: list[nn.Module], acting: list) -> bool:
    """Does what this call gives stay whole? What a decoder writes, what is as in PEFT, what an
    encoder gives its decoder, and what a decoder makes of other tokens than the input's."""
    if writes(module) or any(tuner.as_in_peft for tuner in acting):
        return True
    decodes = [has_decoder(outer) for outer in around]
    return any(decodes) or (has_decoder(module) and any(name in given for name in DECODED))


def warn_of_labels(module: nn.Module, given: Mapping, acting: list) -> None:
    """Say, once for a tuner, that a decoder in training was given soft prompts and no labels, as
    by a Trainer that smooths labels."""
    trains = torch.is_grad_enabled() and module.training and writes(module)
    unknown = [tuner for tuner in acting if tuner not in WARNED]
    if not trains or not unknown or "labels" in given or "labels" not in arguments_of(module):
        return
    WARNED.update(acting)
    warnings.warn(
        f"The model is in training, and no labels are in the batch that the words of "
        f"{unknown[0].name!r} were put into: it answers at these words too, more places than "
        "there are labels, and a prompt that belongs before the answer stands behind it; take the "
        "labels out of tuner.wrap(batch), which a Trainer's collator can give.",
        UserWarning,
        stacklevel=2,
    )


def has_decoder(module: nn.Module) -> bool:
    """Does a model read what its decoder is to read?"""
    return "decoder_input_ids" in arguments_of(module)
