"""P-tuning: soft words inside a template, from a prompt encoder (Liu et al. 2021).

"GPT Understands, Too", arXiv 2103.10385, section 3, in the words door.

Path: attach(model, PTuning(...)) -> PTuning.install -> prompt_options.add_words ->
tuner.add_virtual_tokens(PromptEncoder), which gives the pseudo tokens n ids beyond the vocabulary.
In every pass tuner.wrap -> PTuning.wrap -> Template.fill puts them and the template's words into
the batch -> WordDoor, which stands where the token embedding stood, looks them up by
calling PromptEncoder.forward(). A door stands in the place of a frozen layer and calls the patches
of every tuner.

The input x is put into a template of pseudo tokens [P] and real words ("anchors"), with a place for
the answer:

    [P] [P] [P] {x} [P] [P] {mask} .        PTuning.from_template("[P][P][P] {x} ...", tokenizer)

The vectors of the n pseudo tokens come from one encoder (the numbers of the equations are ours):

    y = BiLSTM(e)                                                                       (eq. 1)
    h = W_2 relu(W_1 y + b_1) + b_2                                                     (eq. 2)

    e (n, C), one vector per pseudo token    BiLSTM of 2 layers, S per direction: y (n, 2 S)
    W_1 (2 S, 2 S)   b_1 (2 S,)   W_2 (C, 2 S)   b_2 (C,)   h (n, C)          all trained
    encoder="mlp" has no BiLSTM: y = e, and W_1 is (2 S, C). encoder=None trains h itself.
    S = C / 2, as in the authors' code for LAMA.

    With n = 5, C = 64, S = 32: e (5, 64) -> y (5, 64) -> (5, 64) -> h (5, 64); N rows of T tokens
    become ids (N, T + 5 + anchors, {mask} among them) -> vectors (.., 64), h_1 .. h_5 in 5 places.

Start: e is N(0, 1), the rest is torch's. The first answer is not the base's, and no gradient is
zero (but with n = 1 those of the LSTM's recurrent weights). In the LAMA setting the language model
is frozen; in the SuperGLUE setting (`tune_model=True`) it is tuned with the prompt, and stored with
it.

After training only h is needed: the encoder is folded away on save. `keep_encoder=True` stores it,
so that training goes on where it ended.

Merge: impossible, there is no weight that a word could be added to.

Parameters, S = C / 2: trained "lstm" 14 C^2 + 18 C + n C, "mlp" 2 C^2 + 2 C + n C, None n C; stored
n C; with keep_encoder or tune_model also the encoder, or the language model.

The answer stands at {mask}: an encoder fills it in; in an encoder-decoder it is the mask in the
input, and the decoder writes the answer; a decoder writes it there, so nothing may follow.
`minipeft.cloze` compares the label words at that place.

Departures.
(1) Start. Paper: not said; the code draws e from N(0, 1). PEFT: torch's embedding, N(0, 1). Here:
    the same; without an encoder h starts at words of the vocabulary, since N(0, 1) is far from any.
    Shown by test_p_tuning.py::test_the_encoder_is_the_official_one
(2) Pseudo tokens behind the answer. Paper: its code for LAMA puts some there in decoders too. PEFT:
    none. Here: none in a decoder, since its answer is written last.
    Shown by test_p_tuning.py::test_a_template_that_does_not_fit_is_refused
(3) Without a template. Paper: there is one. PEFT: the prompt stands before everything. Here: before
    the input, in encoders behind [CLS]; `compatibility="peft"` does as PEFT.
    Shown by test_peft_prompts.py::test_their_file_does_here_what_it_does_there
(4) Width of the encoder. Paper: S = C / 2 in its code. PEFT: 2 S -> 2 S -> C with S the setting
    encoder_hidden_size. Here: `hidden` is S, C / 2 by default; files hold h, so they are the same.
    Shown by test_p_tuning.py::test_the_equation_with_plain_tensors
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from minipeft.doors.patch import Patch
from minipeft.doors.words import insert_as_peft
from minipeft.methods.method import Method
from minipeft.methods.parts import prompt_options
from minipeft.methods.parts.renamed import renamed
from minipeft.methods.parts.templates import Template
from minipeft.methods.prompt_tuning import Prompt


class PromptEncoder(Patch):
    """e (n, C) -> h (n, C). kind: "lstm" or "mlp"; hidden: S, the width of one direction."""

    def __init__(self, n: int, width: int, kind: str = "lstm", hidden: int | None = None) -> None:
        super().__init__()
        S = hidden or max(1, width // 2)
        self.vectors = nn.Parameter(torch.randn(n, width))  # e
        self.lstm = None
        if kind == "lstm":
            self.lstm = nn.LSTM(width, S, num_layers=2, bidirectional=True)
        inputs = 2 * S if kind == "lstm" else width
        self.mlp = nn.Sequential(nn.Linear(inputs, 2 * S), nn.ReLU(), nn.Linear(2 * S, width))

    def forward(self) -> Tensor:
        """The vectors h of the pseudo tokens: (n, C)."""
        y = self.vectors if self.lstm is None else self.lstm(self.vectors)[0]  # eq. 1: (n, 2 S)
        return self.mlp(y)  # eq. 2: h, (n, C)


@renamed({"layout": "compatibility"})
@dataclass(frozen=True)
class PTuning(Method):
    """Pseudo tokens in a template.

    Args:
        length: n, when there is no template.
        template, mask, frame: as for `minipeft.Template`: ("P", "{x}", 17, "{mask}").
        encoder: "lstm", "mlp" or None.
        hidden: S; None is C / 2.
        keep_encoder, tune_model: see above.
        compatibility: "peft" for a prompt that behaves as in 🤗 PEFT; set when its file is loaded.

    Raises:
        ValueError: when a value is impossible, or the template does not fit the model.
    """

    default_rate = 2e-2  # lesson 08: 0.0004 to 0.1 is good; banking77: 0.68 macro-F1 (0.59 at 1e-2)

    length: int | None = None
    template: tuple[str | int, ...] | None = None
    encoder: str | None = "lstm"
    hidden: int | None = None
    mask: int | None = None
    frame: tuple[int | None, int | None] | None = None
    keep_encoder: bool = False
    tune_model: bool = False
    compatibility: str | None = None

    identity_at_start = False

    def __post_init__(self) -> None:
        prompt_options.check_p_tuning(self)

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
        form, words = self.form(), tuner.anatomy.words()
        form.fits(tuner.anatomy)
        n = form.pieces.count("P")
        if self.encoder:
            prompt = PromptEncoder(n, words.width, self.encoder, self.hidden)
        else:
            prompt = Prompt(prompt_options.drawn_words(words.module, n))
        prompt_options.add_words(tuner, self, prompt)
        if self.tune_model:
            tuner.unfreeze(tuner.anatomy.parameters())

    def wrap(self, tuner, batch: dict) -> dict:
        """The batch with every row in the template."""
        if self.compatibility:
            ids = torch.tensor([*tuner.words][: self.length])
            return insert_as_peft(tuner, batch, ids)
        return self.form().fill(batch, tuner.anatomy, tuner.words)

    def export_state(self, tuner) -> dict[str, Tensor]:
        keep = self.encoder is None or self.keep_encoder
        return prompt_options.without_reparameterization(tuner, keep)

    def import_state(self, tensors: dict[str, Tensor]) -> tuple[PTuning, dict[str, Tensor]]:
        """Of a file without an encoder comes a tuner without one, which can be trained on."""
        kept = self.encoder is not None and any(".words.mlp." in key for key in tensors)
        return self if kept else replace(self, encoder=None, hidden=None), tensors

    def notes(self, tuner) -> list[str]:
        lines = prompt_options.notes(self, tuner, False)
        if self.encoder and not self.keep_encoder:
            lines.append("The prompt encoder is folded away on save; keep_encoder=True stores it.")
        return lines
