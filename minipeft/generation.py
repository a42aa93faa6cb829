"""Write with any model: the same call for tiny_transformer and transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import tiny_transformer as tt
from minipeft.attached import anatomy_of, forward_lock, tuners
from minipeft.contexts import evaluating, seeded
from minipeft.methods.parts.validation import shorten
from minipeft.model.devices import on_device_of
from minipeft.model.libraries import is_tiny, unwrapped
from minipeft.routing import acting, positions_to_write_on, wrap
from minipeft.training.batches import explained


def generate(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int = 20,
    beams: int = 1,
    sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    use_cache: bool = True,
    eos_token_id: int | Sequence[int] | None = None,
    seed: int = 0,
    stream: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """New tokens after a prompt (decoder) or for a source (encoder-decoder).

    Args:
        input_ids, attention_mask: (B, T); a decoder's prompts are padded on the left.
        beams: greedy with 1, beam search with more.
        sample: draw tokens instead, with temperature, among the top_k, and among the likeliest
            that have the probability top_p together; `seed` fixes what is drawn.
        eos_token_id: the token that ends a text, or several; the model's own when None.
        stream: called with the newest word of every row (B,) as it comes; not with beams.

    Returns:
        ids, where the model is: a decoder's begin with the prompt, an encoder-decoder's with the
        start token.

    Raises:
        ValueError, TypeError: no such ids, or no room for a word.
    """
    check_prompt(input_ids)
    if stream and beams > 1:
        raise ValueError("Beams are not known before their end: stream with beams=1.")
    model = unwrapped(model)
    batch = {"input_ids": input_ids}
    if attention_mask is not None:
        batch["attention_mask"] = attention_mask
    batch = on_device_of(model, batch)
    prompt = batch["input_ids"]
    anatomy = anatomy_of(model)
    decoder = bool(tuners(model)) and anatomy.is_decoder()
    batch = wrap(model, batch, left=decoder or None)
    batch.pop("position_ids", None)
    if tuners(model) and (positions := positions_to_write_on(model, batch)) is not None:
        batch["position_ids"] = positions
    given = batch["input_ids"].shape[1]  # tokens of the prompt, soft ones included
    if anatomy.limit is not None:
        shift = max(sum(t.shift for t in row) for row in acting(model)) if tuners(model) else 0
        room = anatomy.limit - (1 if anatomy.is_encoder_decoder() else given) - shift
        if room < 1:
            raise ValueError(f"The prompt fills all {anatomy.limit} positions; shorten the prompt.")
        max_new_tokens = min(max_new_tokens, room)
    shared = dict(max_new_tokens=max_new_tokens, use_cache=use_cache)
    with explained(model, batch), evaluating(model), forward_lock(model), seeded(seed):
        if not is_tiny(model):  # transformers
            shared |= dict(num_beams=beams, do_sample=sample)
            if sample:
                shared |= dict(temperature=temperature, top_k=top_k or 0)
                shared["top_p"] = 1.0 if top_p is None else top_p
            if eos_token_id is not None and eos_token_id != []:
                shared["eos_token_id"] = eos_token_id
            written = model.generate(**batch, **shared, streamer=stream and Streamer(stream))
        else:
            shared |= dict(beams=beams, sample=sample, temperature=temperature, top_k=top_k)
            shared |= dict(top_p=top_p, eos_token_id=only(eos_token_id), stream=stream)
            written = tt.generate(model, **batch, **shared)
    if decoder and batch["input_ids"] is not prompt:  # soft prompts are not given back
        written = torch.cat([prompt, written[:, given:]], dim=1)
    return written


def check_prompt(input_ids: Tensor) -> None:
    """Refuse what are no ids of tokens (B, T).

    Raises:
        TypeError, ValueError: such a prompt.
    """
    if not isinstance(input_ids, Tensor):
        raise TypeError(
            f"A prompt is a tensor (B, T) of ids, not {shorten(input_ids)}: for a text take "
            'tokenizer(text, return_tensors="pt")["input_ids"].'
        )
    if input_ids.dim() != 2 or not input_ids.numel() or input_ids.is_floating_point():
        raise ValueError(
            f"A prompt is a tensor (B, T) of ids, whole numbers, at least one in each row, not "
            f"{tuple(input_ids.shape)} of {str(input_ids.dtype).removeprefix('torch.')}."
        )


def only(ends: int | Sequence[int] | None) -> int | None:
    """The end token of a tiny model, which knows one.

    Raises:
        ValueError: there are several.
    """
    if ends is None or isinstance(ends, int):
        return ends
    if len(ends) > 1:
        raise ValueError(f"A tiny model ends a text with one token: give one of {list(ends)}.")
    return ends[0] if ends else None


def ends_of(model: nn.Module, tokenizer) -> list[int]:
    """The tokens that end a text: the tokenizer's, and those of the model's generation_config."""
    settings = getattr(unwrapped(model), "generation_config", None)
    listed = getattr(settings, "eos_token_id", None)
    listed = listed if isinstance(listed, list | tuple) else [listed]
    ends = [tokenizer.eos_token_id, *listed]
    return list(dict.fromkeys(end for end in ends if end is not None))


class Streamer:
    """What transformers calls with the prompt first, then with one word per row."""

    def __init__(self, stream: Callable[[Tensor], None]) -> None:
        self.stream, self.begun = stream, False

    def put(self, ids: Tensor) -> None:
        if self.begun:
            self.stream(ids)
        self.begun = True

    def end(self) -> None:
        pass
