"""Where the soft prompts come into a pass: the part of `Reach` that changes what a model is given.

A pass gets them once (`placed`): in the ids of the module that it begins with, or, where that is a
module of one's own that takes no mask, in those of the model inside. Not in a later step, whose
prompt is in the cache, and not beside the outputs of an encoder, which has read them.

Shapes: B rows, T tokens, N tokens with the soft words, S tokens of an encoder, C width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minipeft.model.devices import on_host
from minipeft.passes.answers import COLUMNS, Answers, numbered, stays_whole, warn_of_labels
from minipeft.passes.call_arguments import CACHES, encoded, past_tokens, takes
from tiny_transformer.models import EncoderDecoder


class WordPlacing:
    """The part of a `Reach` that puts soft prompts into what a module is called with."""

    model: nn.Module
    wrap: Callable
    without_words: Callable
    tuners: Callable[[], list]
    bodies: dict[str, nn.Module]
    answers: list[Answers | None]
    masks: tuple[Tensor, Tensor] | None
    placed: bool
    goes_on: bool
    begins: bool

    def place_words(self, path: str, module: nn.Module, given: dict) -> dict | None:
        """What changes in the arguments of a module, None where nothing does.

        A module of one's own that takes no mask leaves it to the model inside.
        """
        past, states = past_tokens(given), encoded(given)  # now, since a pass fills the cache
        self.goes_on |= past > 0
        if states is not None:
            self.found_text(past)
            return self.with_encoded_words(states, given.get("attention_mask"))
        if "input_ids" not in given and "inputs_embeds" not in given:
            return None
        decodes = is_encoder_decoder(module)  # the cache is of its decoder, not of these ids
        if (past and not decodes) or "input_ids" not in given:
            self.found_text(past)
            batch = self.without_words(self.model, given, past)
            return None if batch is given else batch
        if not path and len(self.bodies) > 1 and not takes(module, "attention_mask"):
            return None
        self.found_text(past)
        return self.with_words(path, module, given)

    def found_text(self, past: int) -> None:
        """This is the input of the pass, behind so many tokens of a cache."""
        self.placed = True
        self.begins |= past == 0

    def with_words(self, path: str, module: nn.Module, given: dict) -> dict | None:
        """What changes where ids (B, T) become ids with the soft words (B, N), None if nothing."""
        acting = [tuner for tuner in self.tuners() if tuner.words]
        numbers = numbered(given) if acting else given
        wrapped = self.wrap(self.model, numbers)
        if wrapped is numbers:
            return None
        check_embeddings(acting)
        if wrapped["input_ids"].shape != given["input_ids"].shape:
            check_no_cache(module, given)
            if path:
                mask = given.get("attention_mask")
                mask = torch.ones_like(given["input_ids"]) if mask is None else mask
                self.masks = mask, wrapped["attention_mask"]
        columns = wrapped.pop(COLUMNS, None)
        changed = {key: value for key, value in wrapped.items() if takes(module, key)}
        if columns is None or torch.equal(on_host(columns), on_host(numbers[COLUMNS])):
            return changed  # every token stands where it stood
        outer = [body for p, body in self.bodies.items() if p != path and lies_in(path, p)]
        if stays_whole(module, given, outer, acting):
            warn_of_labels(module, given, acting)
            return changed
        self.answers[-1] = answers = Answers(columns, given)
        return changed | answers.asked()

    def with_encoded_words(self, states: Tensor, mask: Tensor | None) -> dict | None:
        """The mask (B, S) of what an encoder gave (B, S, C), where the one given is of the text."""
        tuners = [tuner for tuner in self.tuners() if tuner.words]
        if not tuners:
            return None
        S = states.shape[1]
        for tuner in tuners:
            if S not in tuner.word_mark.lengths:
                raise ValueError(
                    f"{tuner.name!r} was not reached: the encoder's outputs that were given are "
                    "made without its words; leave encoder_outputs out, or make them with this "
                    "model's encoder from the batch of tuner.wrap(batch)."
                )
        text, longer = self.masks or (None, None)
        if mask is None and text is not None and bool(on_host(text).all()) and longer.shape[1] == S:
            mask = text.repeat_interleave(max(1, len(states) // len(text)), 0)  # rows that differ
        if mask is None or not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[1] == S:
            return None
        beams = max(1, len(mask) // len(text)) if text is not None else 1
        known = text is not None and longer.shape[1] == S
        given = on_host(mask)
        if not known or not torch.equal(on_host(text).repeat_interleave(beams, 0).to(given), given):
            raise ValueError(
                f"The attention_mask is for {mask.shape[1]} tokens and the encoder's outputs are "
                f"{S} long, soft words included: give the mask of tuner.wrap(batch)."
            )
        return {"attention_mask": longer.repeat_interleave(beams, 0).to(mask)}


def check_embeddings(acting: list) -> None:
    """The embedding that these tuners put their words into must be the one that the model has now.

    Raises:
        ValueError: it was exchanged.
    """
    for tuner in acting:
        if not tuner.is_at(tuner.word_paths[0]):
            raise ValueError(
                f"{tuner.name!r} was not reached: {tuner.word_paths[0]} is another layer now "
                "than when it was attached, and knows no words of it; attach again after "
                "changing layers."
            )


def check_no_cache(module: nn.Module, given: dict) -> None:
    """Ids that a decoder goes on with, and that get soft words only now, must come without a cache.

    Raises:
        ValueError: there is one, which `generate` of transformers has made for shorter rows.
    """
    if not is_encoder_decoder(module) and any(name in given for name in CACHES):
        raise ValueError(
            "The prompt is not in the ids that are to be continued: call minipeft.generate, or "
            "give generate a batch from tuner.wrap(batch)."
        )


def lies_in(path: str, other: str) -> bool:
    """Is the module at this path the other one, or inside it?"""
    return not other or f"{path}.".startswith(f"{other}.")


def is_encoder_decoder(module: nn.Module) -> bool:
    """Has it a decoder that reads what its encoder has made of the input?"""
    config = getattr(module, "config", None)
    return isinstance(module, EncoderDecoder) or getattr(config, "is_encoder_decoder", False)
