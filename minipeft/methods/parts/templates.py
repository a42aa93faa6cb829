"""Templates: an input, put between words, pseudo tokens and the place for an answer.

    Template.read("[P][P] {x} is [P] {mask} .", tokenizer)
    Template(("P", "P", "{x}", 31, "P", "{mask}", 17), mask=4, frame=(1, 2))     the same in ids

| piece  | what stands there                                                      |
|--------|------------------------------------------------------------------------|
| P      | a pseudo token: the next word of a tuner                               |
| {x}    | the input                                                              |
| {mask} | encoder, encoder-decoder: a mask token; decoder: the answer, if known  |
| 17     | the token with this id: an anchor word                                 |

In the row of a decoder that writes, the input ends where the labels begin, or, without labels, with
the row; what has labels is the answer. A mask token that a row has already moves to {mask}, and its
label with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from minipeft.doors.words import answer_begins, arrange, own_columns
from minipeft.model.devices import on_host

SLOTS = {"[P]": "P", "{x}": "{x}", "{mask}": "{mask}"}  # in writing -> as a piece


@dataclass(frozen=True)
class Template:
    """Pieces, as above.

    mask: the id of the mask token.  frame: ids (or None) of the tokens that every text begins and
    ends with, which stay around the template. Without a frame an encoder's first token stays first.

    Raises:
        ValueError: no template; the sentence says why.
    """

    pieces: tuple[str | int, ...]
    mask: int | None = None
    frame: tuple[int | None, int | None] | None = None

    def __post_init__(self) -> None:
        pieces = tuple(self.pieces) if isinstance(self.pieces, list | tuple) else ()
        wrong = [p for p in pieces if p not in SLOTS.values() and (type(p) is not int or p < 0)]
        if wrong or not pieces:
            raise ValueError(
                'A template is made of "P", "{x}", "{mask}" and ids of words, such as '
                f'("P", "{{x}}", 17, "{{mask}}"), not {wrong[0] if wrong else self.pieces!r}.'
            )
        if pieces.count("{x}") != 1 or pieces.count("{mask}") > 1:
            raise ValueError("A template has one {x} and at most one {mask}.")
        object.__setattr__(self, "pieces", pieces)
        if self.frame is not None:
            frame = tuple(self.frame) if isinstance(self.frame, list | tuple) else ()
            if len(frame) != 2 or not all(i is None or type(i) is int for i in frame):
                raise ValueError(f"A frame is two ids, such as (101, 102), not {self.frame!r}.")
            object.__setattr__(self, "frame", frame)
        if self.mask is not None and (type(self.mask) is not int or self.mask < 0):
            raise ValueError(f"The mask is the id of a token, not {self.mask!r}.")

    @classmethod
    def read(cls, text: str, tokenizer, mask: int | None = None) -> Template:
        """A template in writing. mask: for a tokenizer that has none (T5's first sentinel, say)."""
        pieces: list[str | int] = []
        for part in re.split(r"(\[P\]|\{x\}|\{mask\})", text):
            if part in SLOTS:
                pieces.append(SLOTS[part])
            elif part.strip():
                call = tokenizer(part.rstrip(), add_special_tokens=False, return_tensors=None)
                pieces += call["input_ids"]
        around = list(tokenizer("", return_tensors=None)["input_ids"])  # of an empty text
        ends = [getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "sep")]
        close = around.pop() if around and around[-1] in ends else None
        known_mask = getattr(tokenizer, "mask_token_id", None) if "{mask}" in pieces else None
        frame = (around[0] if around else None, close)
        return cls(tuple(pieces), known_mask if mask is None else mask, frame)

    def fits(self, anatomy) -> None:
        """Raise ValueError when the template is not for this model."""
        V = anatomy.words().module.num_embeddings
        stray = [i for i in (*self.pieces, self.mask) if type(i) is int and i >= V]
        if stray:
            raise ValueError(f"The template has the id {stray[0]}, but the model knows {V} words.")
        if "{mask}" in self.pieces and anatomy.is_decoder() and self.pieces[-1] != "{mask}":
            raise ValueError("A decoder writes its answer at {mask}: the template must end there.")
        if "{mask}" in self.pieces and not anatomy.is_decoder() and self.mask is None:
            raise ValueError("This model needs a mask token at {mask}: pass its id, mask=.")

    def fill(self, batch: dict, anatomy, words: Iterable[int] = ()) -> dict:
        """The batch with every row put into the template; words: ids of the pseudo tokens."""
        decoder, words = anatomy.is_decoder(), list(words)
        begins = answer_begins(batch).tolist() if anatomy.writes() else None
        ids, rows = on_host(batch["input_ids"]).tolist(), []
        for b, columns in enumerate(own_columns(batch)):
            x, answer = (columns[: begins[b]], columns[begins[b] :]) if begins else (columns, [])
            n_open, n_close = self._around([ids[b][t] for t in x], anatomy)
            opening, x, closing = x[:n_open], x[n_open : len(x) - n_close], x[len(x) - n_close :]
            if not decoder and "{mask}" in self.pieces:
                answer = [t for t in x if ids[b][t] == self.mask] or [-1 - self.mask]
                x = [t for t in x if ids[b][t] != self.mask]
            rows.append([*opening, *self._row(x, answer, words), *closing])
            if decoder and "{mask}" not in self.pieces:
                rows[-1] += answer
        return arrange(batch, rows, anatomy.padding(), not anatomy.is_encoder_decoder())

    def _around(self, x: list[int], anatomy) -> tuple[int, int]:
        """How many tokens at both ends of an input belong to the frame."""
        if self.frame is None:
            return int(anatomy.has_first_token() and len(x) > 0), 0
        n_open = int(bool(x) and x[0] == self.frame[0])
        return n_open, int(len(x) > n_open and x[-1] == self.frame[1])

    def _row(self, x: list[int], answer: list[int], words: list[int]) -> list[int]:
        """Columns of old tokens, and -1 - id for new ones: what `arrange` reads."""
        row, new = [], iter(words)
        for piece in self.pieces:
            if piece == "{x}":
                row += x
            elif piece == "{mask}":
                row += answer
            else:
                row.append(-1 - (next(new) if piece == "P" else piece))
        return row
