"""What prompt tuning and P-tuning share: trained words, and the ways of 🤗 PEFT with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipeft.methods.parts.validation import check_choice


class Prompt(nn.Module):
    """The vectors of new words: (n, C). `alias` (1, C) is one word more that is not trained."""

    def __init__(self, vectors: Tensor, alias: Tensor | None = None) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)
        self.register_buffer("alias", alias, persistent=False)

    def forward(self) -> Tensor:
        return self.vectors if self.alias is None else torch.cat([self.vectors, self.alias])


def speak(tuner, method, patch: nn.Module) -> None:
    """New words for a tuner; in PEFT's layout one more, which has the vector of padding."""
    seat = tuner.anatomy.words()
    count = len(patch.vectors)
    if method.layout:
        padding = torch.tensor([tuner.anatomy.padding()], device=seat.module.weight.device)
        patch.alias = seat.module(padding).detach().float()
    tuner.speak(patch, count + bool(method.layout))


def folded_words(tuner, keep: bool) -> dict[str, Tensor]:
    """What `save` writes: h (n, C) in place of e and its encoder, unless that is to be kept."""
    (seat, patch), values = tuner.places[0], tuner.named_tensors()
    if keep:
        return values
    own = f"{seat.path}.{seat.target}."
    with torch.no_grad():
        folded = {f"{own}vectors": patch()[: len(patch.vectors)]}
    return folded | {key: t for key, t in values.items() if not key.startswith(own)}


def check_peft(method) -> None:
    """`layout` is None or "peft"."""
    if method.layout is not None:
        check_choice(method, "layout", ("peft",))


def peft_notes(method, tuner, first: bool) -> list[str]:
    """Where the prompt stands, where that is not as one would expect."""
    before = "the prompt stands before [CLS], so heads that read the first token read the prompt"
    if method.layout and tuner.anatomy.is_encoder():
        return [f'layout="peft": {before}, as in PEFT.']
    if method.layout:
        return ['layout="peft": the prompt stands first in every row, before padding, as in PEFT.']
    return [f"Here {before}."] if first and tuner.anatomy.is_encoder() else []
