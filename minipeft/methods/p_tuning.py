"""P-tuning: soft words inside a template, from a prompt encoder (Liu et al. 2021).

"GPT Understands, Too", arXiv 2103.10385, section 3, in the words door. The input x is put into a
template of pseudo tokens [P] and real words ("anchors"), with a place for the answer:

    [P] [P] [P] {x} [P] [P] {mask} .        PTuning.from_template("[P][P][P] {x} ...", tokenizer)

    h = MLP(BiLSTM(e))       e (n, C) one vector for each of the n pseudo tokens, in their order

    BiLSTM  2 layers, S per direction, (n, C) -> (n, 2 S); S = C / 2 as in the official LAMA code
    MLP     W2 relu(W1 y + b1) + b2,   W1 (2 S, 2 S)   W2 (C, 2 S),   (n, 2 S) -> (n, C)

The model reads h_i where the i-th pseudo token stands. After training only h is needed: the encoder
is folded away on save, and the n C numbers of h are all that is stored. `keep_encoder=True` stores
the encoder, so that training goes on where it ended.

In the LAMA setting the language model is frozen; in the SuperGLUE setting (`tune_model=True`) it is
tuned with the prompt, and stored with it.

Parameters, S = C / 2:  "lstm" 14 C^2 + 18 C + n C,   "mlp" 2 C^2 + 2 C + n C,   None n C.

The answer stands at {mask}: an encoder fills it in; in an encoder-decoder it is the mask in the
input, and the decoder writes the answer; a decoder writes it there, so nothing may follow.
`minipeft.cloze` compares the label words at that place.

Departures.
(1) e starts as N(0, 1), as in the code; without an encoder as words of the vocabulary.
(2) For a decoder the paper's LAMA code puts pseudo tokens behind the answer as well.
(3) Without a template the pseudo tokens stand first (in encoders behind [CLS]), as in 🤗 PEFT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from minipeft.doors.words import insert_as_peft
from minipeft.methods.method import Method
from minipeft.methods.parts.soft_words import Prompt, check_peft, folded_words, peft_notes, speak
from minipeft.methods.parts.templates import Template
from minipeft.methods.parts.validation import check_choice, check_flag, check_number


class PromptEncoder(nn.Module):
    """e (n, C) -> h (n, C). kind: "lstm" or "mlp"; hidden: S, the width of one direction."""

    def __init__(self, n: int, width: int, kind: str = "lstm", hidden: int | None = None) -> None:
        super().__init__()
        S = hidden or max(1, width // 2)
        self.vectors = nn.Parameter(torch.randn(n, width))
        self.lstm = None
        if kind == "lstm":
            self.lstm = nn.LSTM(width, S, num_layers=2, bidirectional=True)
        inner = 2 * S
        into = inner if kind == "lstm" else width
        self.mlp = nn.Sequential(nn.Linear(into, inner), nn.ReLU(), nn.Linear(inner, width))
        self.register_buffer("alias", None, persistent=False)  # as in Prompt

    def forward(self) -> Tensor:
        y = self.vectors if self.lstm is None else self.lstm(self.vectors)[0]  # (n, 2 S)
        h = self.mlp(y)  # (n, C)
        return h if self.alias is None else torch.cat([h, self.alias])


@dataclass(frozen=True)
class PTuning(Method):
    """Pseudo tokens in a template.

    Args:
        length: n, when there is no template.
        template, mask, frame: as for `minipeft.Template`: ("P", "{x}", 17, "{mask}").
        encoder: "lstm", "mlp" or None.
        hidden: S; None is C / 2.
        keep_encoder, tune_model: see above.
        layout: "peft" for a prompt that behaves as in 🤗 PEFT; set when its file is loaded.

    Raises:
        ValueError: when a value is impossible, or the template does not fit the model.
    """

    length: int | None = None
    template: tuple[str | int, ...] | None = None
    encoder: str | None = "lstm"
    hidden: int | None = None
    mask: int | None = None
    frame: tuple[int | None, int | None] | None = None
    keep_encoder: bool = False
    tune_model: bool = False
    layout: str | None = None

    identity_at_start = False

    def __post_init__(self) -> None:
        for name in ("length", "hidden"):
            if getattr(self, name) is not None:
                check_number(self, name, "from 1", lambda n: n >= 1, whole=True)
        if self.encoder is not None:
            check_choice(self, "encoder", ("lstm", "mlp"))
        check_flag(self, "keep_encoder", "tune_model")
        check_peft(self)
        if (self.length is None) == (self.template is None):
            raise ValueError("PTuning needs either a length or a template, such as length=10.")
        if self.template is not None:
            form = self.form()
            if "P" not in form.pieces:
                raise ValueError('A template for PTuning has at least one pseudo token, "P".')
            if self.layout:
                raise ValueError('layout="peft" knows no template: give a length instead.')
            object.__setattr__(self, "template", form.pieces)
            object.__setattr__(self, "frame", form.frame)

    @classmethod
    def from_template(cls, text: str, tokenizer, mask: int | None = None, **settings) -> PTuning:
        """A template in writing, with a tokenizer for its words; see `Template.read`."""
        form = Template.read(text, tokenizer, mask)
        return cls(template=form.pieces, mask=form.mask, frame=form.frame, **settings)

    def form(self) -> Template:
        """The template, also where only a length was given."""
        pieces = ("P",) * (self.length or 0) + ("{x}",)
        return Template(pieces if self.template is None else self.template, self.mask, self.frame)

    def install(self, tuner) -> None:
        form, seat = self.form(), tuner.anatomy.words()
        form.fits(tuner.anatomy)
        n = form.pieces.count("P")
        if self.encoder:
            speak(tuner, self, PromptEncoder(n, seat.width, self.encoder, self.hidden))
        else:
            drawn = torch.randint(
                seat.module.num_embeddings, (n,), device=seat.module.weight.device
            )
            speak(tuner, self, Prompt(seat.module(drawn).detach().float()))
        if self.tune_model:
            tuner.unfreeze(tuner.anatomy.parameters())

    def wrap(self, tuner, batch: dict) -> dict:
        if self.layout:
            return insert_as_peft(tuner, batch, torch.tensor([*tuner.words][: self.length]))
        return self.form().fill(batch, tuner.anatomy, tuner.words)

    def stored(self, tuner) -> dict[str, Tensor]:
        return folded_words(tuner, self.encoder is None or self.keep_encoder)

    def restored(self, tensors: dict[str, Tensor]) -> tuple[PTuning, dict[str, Tensor]]:
        """Of a file without an encoder comes a tuner without one, which can be trained on."""
        kept = self.encoder is not None and any(".mlp." in key for key in tensors)
        return self if kept else replace(self, encoder=None, hidden=None), tensors

    def notes(self, tuner) -> list[str]:
        lines = peft_notes(self, tuner, False)
        if self.encoder and not self.keep_encoder:
            lines.append("The prompt encoder is folded away on save; keep_encoder=True stores it.")
        return lines
