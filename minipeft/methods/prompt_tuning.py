"""Prompt tuning: P trained vectors in front of the input, nothing else (Lester et al. 2021).

arXiv 2104.08691, in the words door.

Path: attach(model, PromptTuning(...)) -> PromptTuning.install -> prompt_options.add_words ->
tuner.add_virtual_tokens(Prompt), which gives the prompt ids beyond the vocabulary, P for each
member of an ensemble (E = 1 is the default). Each call: model -> tuner.wrap -> PromptTuning.wrap,
which puts these ids into the batch (when texts are generated, into the first call only). Then,
inside the model, WordDoor looks them up by Prompt.forward(): a door stands where a frozen layer
stood, here the token embedding, and calls the patches of every tuner.

Section 2. The frozen model reads the prompt, then the embedded input:

    [P_e ; X_e]       P_e (P, C) trained     X_e (T, C) from the frozen embedding       (eq. 1)

    With P = 20, C = 64 and N rows of T tokens: ids (N, T) -> ids (N, 20 + T) -> vectors
    (N, 20 + T, 64); the attention mask gets 20 ones, labels of tokens (N, T) 20 times -100, labels
    of whole rows (N,) nothing. A causal model answers at all 20 + T places; none is cut off. Of an
    encoder-decoder the encoder reads the prompt: its decoder, and so the labels, stay as they are.

Start (section 2.1, `start`):

    "random"       uniform in [-scale, scale]; the paper's 0.5 is for T5, whose word vectors are
                   large. Where they are small (GPT-2: standard deviation 0.14, the tiny models:
                   0.02 before training) 0.5 is far from any word: try scale=0.02, or "vocabulary"
    "vocabulary"   vectors of words drawn from the `common` first ids
    "text"         vectors of the token ids in `words`, repeated or cut to fit (PEFT's)
    "labels"       vectors of the label words in `words` (a label of several tokens: their mean),
                   then "vocabulary" fills up

The first answer is not the base's, whatever the start, and no gradient is zero (of an ensemble: of
the members that a row of the batch gets).

Section 3, ensembling: `ensemble=E` prompts for one frozen model, (E P, C). Row b of a batch gets
prompt b mod E, so each trains on its own rows; `minipeft.vote` repeats each row E times, so that
all of them see it in one pass, and lets them vote.

Merge: impossible. The prompt is a longer input, no change of a weight.

Parameters: E P C, trained and stored.

Departures.
(1) Place. Paper: before the input. PEFT: before everything, [CLS] and padding on the left included.
    Here: before a row's own tokens, on encoders behind [CLS], which heads read; `position=` chooses
    "start", "after-bos" or "end" (before the answer), `compatibility="peft"` does as PEFT.
    Shown by test_prompt_tuning.py::test_behind_cls_by_default_in_encoders
(2) Common words. Paper: T5's 5,000 most frequent ones. PEFT: any word of the vocabulary. Here: the
    `common` first ids, which are frequent words in a vocabulary that is sorted so.
    Shown by test_prompt_tuning.py::test_vocabulary_draws_from_the_common_words_none_twice
(3) Defaults. Paper: starts at the class labels, P = 100, rate 0.3 (Adafactor). PEFT: random, and P
    must be given. Here: random, P = 20, rate 0.02 (AdamW).
    Shown by test_prompt_tuning.py::test_the_defaults
(4) Ensembles. Paper: trained one after the other, each on all rows. PEFT: none. Here: trained side
    by side, each on its share of the rows.
    Shown by test_prompt_tuning.py::test_each_member_sees_its_own_rows
(5) Answers of encoders and taggers. Paper: none. PEFT: at the prompt too, P longer than the labels.
    Here: for the tokens that were given; with tuner.wrap(batch), at every place.
    Shown by test_answers.py::test_an_answer_for_each_token
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.doors.patch import Patch
from minipeft.doors.words import insert, insert_as_peft
from minipeft.methods.method import Method
from minipeft.methods.parts import prompt_options
from minipeft.methods.parts.renamed import renamed


class Prompt(Patch):
    """P_e: the vectors of new words, (E P, C)."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)

    def forward(self) -> Tensor:
        return self.vectors  # eq. 1: P_e, (E P, C); the door puts P of them before each X_e


@renamed({"layout": "compatibility"})
@dataclass(frozen=True)
class PromptTuning(Method):
    """Soft words at the input.

    Args:
        length: P.
        start, scale, words, common: see above. words: ids, such as tokenizer("it was great")
            ["input_ids"]; for "labels" an entry may be the tuple of ids of one label.
        position: "start", "after-bos" or "end"; None is "start", on encoders "after-bos".
        ensemble: E.
        compatibility: "peft" for a prompt that behaves as in 🤗 PEFT; set when its file is loaded.

    Raises:
        ValueError: when a value is impossible.
    """

    # words of VADER with MiniLM: 0.79 Matthews (0.41 at 5e-2); lesson 07: 0.01 to 3 are good
    default_rate = 2e-2

    length: int = 20
    start: str = "random"
    scale: float = 0.5
    words: tuple[int | tuple[int, ...], ...] = ()
    common: int = 5000
    position: str | None = None
    ensemble: int = 1
    compatibility: str | None = None

    identity_at_start = False

    def __post_init__(self) -> None:
        prompt_options.check_prompt_tuning(self)

    def install(self, tuner) -> None:
        table = tuner.anatomy.words().module  # (V, C)
        prompts = [prompt_options.first_vectors(self, table) for _ in range(self.ensemble)]
        prompt_options.add_words(tuner, self, Prompt(torch.cat(prompts)))  # (E P, C)

    def wrap(self, tuner, batch: dict) -> dict:
        """The batch with every row's prompt in it: ids (B, T) -> (B, P + T)."""
        ids = torch.tensor([*tuner.words])  # (E P,), as add_virtual_tokens gave them
        if self.compatibility:
            return insert_as_peft(tuner, batch, ids[: self.length])
        members = torch.arange(len(batch["input_ids"])) % self.ensemble  # (B,)
        ids = ids.view(self.ensemble, self.length)[members]  # (B, P)
        at = prompt_options.place(self, tuner, batch)  # behind how many of a row's own tokens
        return insert(batch, ids, at, aligned=not tuner.anatomy.is_encoder_decoder())

    def notes(self, tuner) -> list[str]:
        return prompt_options.notes(self, tuner, self.position == "start")
