"""Prompt tuning: P trained vectors in front of the input, nothing else (Lester et al. 2021).

arXiv 2104.08691, section 2. The frozen model reads [P_e ; X_e] instead of X_e, in the words door:

    P_e (P, C) trained        X_e (T, C) the embedded input        [P_e ; X_e] (P + T, C)

Section 2.1, how P_e starts (`start`):

    "random"       uniform in [-scale, scale]; the paper's 0.5 is for T5, whose word vectors are
                   wide. Where they are narrow (GPT-2: standard deviation 0.14, the tiny models:
                   0.02 before training) 0.5 is far from any word: try scale=0.02, or "vocabulary"
    "vocabulary"   vectors of words drawn from the `common` first ids
    "text"         vectors of the token ids in `words`, repeated or cut to fit
    "labels"       vectors of the label words in `words` (a label of several tokens: their mean),
                   then "vocabulary" fills up

Section 3, ensembling: `ensemble=E` prompts for one frozen model, (E P, C). Row b of a batch gets
prompt b mod E, so each trains on its own rows; `minipeft.vote` shows every row to all of them in
one pass and lets them vote.

Parameters: E P C.

Departures.
(1) The paper's prompts stand before the input. `position` can also put them behind the first token
    ("after-bos") or at the end of the input, before the answer ("end"). None stands for "start",
    on encoders for "after-bos": their heads read the first token, which must stay [CLS].
(2) The paper draws "vocabulary" from T5's 5,000 most frequent words; we take the first ids, which
    are frequent words in a vocabulary that is sorted so.
(3) The paper trains the prompts of an ensemble one after the other, each on all rows.
(4) `layout="peft"` does as 🤗 PEFT does: the prompt stands before everything, [CLS] and padding on
    the left included, and heads that look for padding do not find any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.doors.words import answer_begins, insert, insert_as_peft
from minipeft.methods.method import Method
from minipeft.methods.parts.soft_words import Prompt, check_peft, peft_notes, speak
from minipeft.methods.parts.validation import check_choice, check_number

STARTS = ("random", "vocabulary", "text", "labels")
POSITIONS = ("start", "after-bos", "end")


@dataclass(frozen=True)
class PromptTuning(Method):
    """Soft words at the input.

    Args:
        length: P.
        start, scale, words, common: see above. words: ids, such as tokenizer("it was great")
            ["input_ids"]; for "labels" an entry may be the tuple of ids of one label.
        position: "start", "after-bos" or "end".
        ensemble: E.
        layout: "peft" for a prompt that behaves as in 🤗 PEFT; set when its file is loaded.

    Raises:
        ValueError: when a value is impossible.
    """

    length: int = 20
    start: str = "random"
    scale: float = 0.5
    words: tuple[int | tuple[int, ...], ...] = ()
    common: int = 5000
    position: str | None = None
    ensemble: int = 1
    layout: str | None = None

    identity_at_start = False

    def __post_init__(self) -> None:
        for name in ("length", "common", "ensemble"):
            check_number(self, name, "from 1", lambda n: n >= 1, whole=True)
        check_choice(self, "start", STARTS)
        check_number(self, "scale", "above 0", lambda s: 0 < s < math.inf)
        if self.position is not None:
            check_choice(self, "position", POSITIONS)
        check_peft(self)
        if self.layout and (self.position not in (None, "start") or self.ensemble > 1):
            raise ValueError(
                'layout="peft" knows one prompt, at the start: drop the other setting.'
            )
        given = self.words if isinstance(self.words, list | tuple) else (None,)
        words = tuple(tuple(w) if isinstance(w, list | tuple) else (w,) for w in given)
        if not all(word and all(type(i) is int and i >= 0 for i in word) for word in words):
            raise ValueError(f"PromptTuning's words must be ids of tokens, not {self.words!r}.")
        if bool(words) != (self.start in ("text", "labels")):
            raise ValueError('PromptTuning needs words=(ids) for start="text" or "labels" only.')
        if self.start == "labels" and len(words) > self.length:
            raise ValueError(
                f"{len(words)} labels do not fit into a prompt of {self.length}: make it longer."
            )
        object.__setattr__(self, "words", tuple(w[0] if len(w) == 1 else w for w in words))

    def install(self, tuner) -> None:
        table = tuner.anatomy.words().module
        prompts = [self.first(table) for _ in range(self.ensemble)]
        speak(tuner, self, Prompt(torch.cat(prompts)))  # (E P, C)

    @torch.no_grad()
    def first(self, table: nn.Module) -> Tensor:
        """One prompt as it is before training: (P, C)."""
        P, V, C = self.length, table.num_embeddings, table.embedding_dim
        like = table.weight
        if self.start == "random":
            return torch.empty(P, C, device=like.device).uniform_(-self.scale, self.scale)
        words = [(w,) if type(w) is int else w for w in self.words]
        stray = [i for word in words for i in word if i >= V]
        if stray:
            raise ValueError(f"There is no word with the id {stray[0]}: the model knows {V}.")
        if self.start == "text":
            words = [(i,) for word in words for i in word]
            words = (words * math.ceil(P / len(words)))[:P]
        if len(words) < P:  # of the common words, none twice while there are enough
            pool, more = min(self.common, V), P - len(words)
            drawn = torch.cat([torch.randperm(pool) for _ in range(math.ceil(more / pool))])
            words = words + [(i,) for i in drawn[:more].tolist()]
        known = [table(torch.tensor(word, device=like.device)).float().mean(0) for word in words]
        return torch.stack(known)

    def wrap(self, tuner, batch: dict) -> dict:
        ids = torch.tensor([*tuner.words])
        if self.layout:
            return insert_as_peft(tuner, batch, ids[: self.length])
        B = len(batch["input_ids"])
        members = torch.arange(B) % self.ensemble  # (B,)
        ids = ids.view(self.ensemble, self.length)[members]  # (B, P)
        anatomy = tuner.anatomy
        position = self.position or ("after-bos" if anatomy.is_encoder() else "start")
        at: int | str | Tensor = {"start": 0, "after-bos": 1, "end": "end"}[position]
        if position == "end" and anatomy.writes():
            at = answer_begins(batch)
        return insert(batch, ids, at, not anatomy.is_encoder_decoder())

    def notes(self, tuner) -> list[str]:
        return peft_notes(self, tuner, self.position == "start")
