"""Cloze answers: which label word does a language model want at {mask}?

    scores = cloze(model, batch, words=[31, 57], mask=4)      # (B, 2), the best is argmax

| model           | where the answer is read                                         |
|-----------------|------------------------------------------------------------------|
| encoder         | at the row's mask token                                          |
| decoder         | behind the row's last token                                      |
| encoder-decoder | behind the decoder's start token, or behind what it is `given`   |

A verbalizer is the list of label words: an id for each label, or several ids, whose
log-probabilities are averaged (Schick & Schütze 2021, arXiv 2001.07676, take one).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minipeft.attached import anatomy_of, tuners
from minipeft.doors.words import mask_of
from minipeft.methods.p_tuning import PTuning
from minipeft.routing import wrap
from tiny_transformer.models import EncoderDecoder


def cloze(
    model: nn.Module,
    batch: dict,
    words: Sequence[int | Sequence[int]],
    mask: int | None = None,
    given: Sequence[int] = (),
) -> Tensor:
    """log p of every label's word at {mask}, given the rest: (B, labels).

    Args:
        batch: input_ids (B, T) and attention_mask, without answers; prompts are put in here.
        words: the verbalizer, see above.
        mask, given: as for `at_mask`.
    """
    spoken = at_mask(model, batch, mask, given).log_softmax(dim=-1)  # (B, V)
    V = spoken.shape[-1]
    groups = [[word] if isinstance(word, int) else list(word) for word in words]
    if not groups or not all(group and all(0 <= i < V for i in group) for group in groups):
        raise ValueError(f"words must be ids below {V}, at least one for each label, not {words}.")
    return torch.stack([spoken[:, group].mean(dim=1) for group in groups], dim=1)


def at_mask(
    model: nn.Module, batch: dict, mask: int | None = None, given: Sequence[int] = ()
) -> Tensor:
    """Logits over all words where the answer belongs: (B, V).

    Args:
        mask: id of the mask token, for encoders; None takes it from the tuner's template.
        given: ids that the decoder of an encoder-decoder has written already (T5's <extra_id_0>).
    """
    anatomy = anatomy_of(model)
    batch = {key: value for key, value in batch.items() if key != "labels"}
    batch = wrap(model, batch)
    ids = batch["input_ids"]  # (B, T) with the prompt
    rows = torch.arange(len(ids), device=ids.device)
    if anatomy.is_encoder_decoder():
        tiny = isinstance(model, EncoderDecoder)  # of tiny_transformer
        start = model.start_token_id if tiny else model.config.decoder_start_token_id
        begin = torch.tensor([start, *given], device=ids.device).expand(len(ids), -1)
        return model(**batch, decoder_input_ids=begin).logits[:, -1]
    logits = model(**batch).logits  # (B, T, V)
    if anatomy.is_decoder():
        padding = mask_of(batch).flip(1).int().argmax(dim=1)  # (B,) tokens behind the last own one
        return logits[rows, ids.shape[1] - 1 - padding]
    methods = [part for tuner in tuners(model).values() for part in tuner.method.parts()]
    known = [mask, *(method.mask for method in methods if isinstance(method, PTuning))]
    mask = next((i for i in known if i is not None), None)
    is_mask = ids == (-1 if mask is None else mask)
    if not bool((is_mask.sum(dim=1) == 1).all()):
        raise ValueError(
            f"Every row needs one mask token (id {mask}): pass mask=, and put one into the text or "
            "into the template."
        )
    return logits[rows, is_mask.int().argmax(dim=1)]
