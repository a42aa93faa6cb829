"""Prefix-tuning (Li & Liang 2021, arXiv 2101.00190), in the memory door.

Section 4. Every attention layer reads P keys and values that are trained, before its own:

    softmax(Q [P_k ; K]^T / sqrt D) [P_v ; V]            P_k, P_v (H, P, D), for each of L layers

Section 4.3. They are not trained as they are, but come out of one matrix P' through one MLP,

    rows = W_up tanh(W_down P' + b_down) + b_up        P' (P, C)  W_down (k, C)  W_up (2 L H D, k)

which is thrown away after training: what is stored is `rows` (P, 2 L H D), the layers side by side,
keys of a layer before its values. `hidden=None` trains the rows themselves ("flat").

Parameters: 2 P L H D flat, P C + k C + k + 2 (k + 1) L H D with the MLP. H counts key-value heads.
Encoder, decoder and cross-attention have rows of their own, each with a P' and an MLP.

The answer is not the base's at the start. It is a sum with a gate (He et al. 2022, arXiv
2110.04366, equation 5): with lambda, per token, what the softmax gives to the prefix,

    (1 - lambda) softmax(Q K^T / sqrt D) V + lambda softmax(Q P_k^T / sqrt D) P_v

Departures.
(1) Words keep their positions, since the prefix has none, and every token sees all of it, in layers
    with a sliding window or chunks too, where it sees the text as before. `layout="peft"` does as
    PEFT: the prefix stands before the text, moves its positions and falls out of a window.
(2) `start=` the activations of real words (section 7.4): with an MLP, W_up and b_up are the least
    squares solution for them, exact if k >= P, where the authors' code trains towards them.
(3) "infix" (section 7.3), [x; infix; y]: tokens before `after` do not see it, `after` and those
    behind do. In the paper x and y are also P positions apart.
(4) Section 7.2's embedding-only ablation is a soft prompt before the input, in the words door.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minipeft.doors.words import insert
from minipeft.methods.method import Method
from minipeft.methods.parts.prefixes import (
    KINDS,
    Rows,
    begin_behind,
    begin_with,
    check_start,
    folded,
    install_memory,
    layout_notes,
)
from minipeft.methods.parts.validation import (
    check_choice,
    check_flag,
    check_layers,
    check_names,
    check_number,
)


@dataclass(frozen=True)
class Prefix(Method):
    """Prefix-tuning on every attention layer, or on chosen ones.

    Args:
        length: P.  hidden: k of the MLP, None for none.  dropout: of the keys and values.
        start: "random"; "words", drawn from the vocabulary; or ids of a text, repeated up to P.
        std: of the rows at a random start without MLP. Small, so that the prefix says nothing yet
            but takes its share of attention; PEFT has 1.
        layers: numbers of the layers, None for all.
        where: any of "encoder", "decoder", "cross"; None for what the model has.
        position: "prefix", or "infix" behind the first token `after` (an id, <sep> say) of a row.
        keep_mlp: store the MLP too, so that it is trained on after loading.
        embedding_only: no memory, soft prompts before the input.
        layout: "peft" does what PEFT does: positions move by P; of an encoder-decoder only the
            decoder has a prefix, whose layer i reads the rows of layer 2i mod L.

    Raises:
        ValueError: when a value is impossible, alone or beside the others.
    """

    length: int = 10
    hidden: int | None = 512
    dropout: float = 0.0
    start: str | tuple[int, ...] = "random"
    std: float = 0.02
    layers: tuple[int, ...] | None = None
    where: tuple[str, ...] | None = None
    position: str = "prefix"
    after: int | None = None
    keep_mlp: bool = False
    embedding_only: bool = False
    layout: str = "minipeft"

    identity_at_start = False

    def __post_init__(self) -> None:
        check_number(self, "length", "from 1", lambda n: n >= 1, whole=True)
        if self.hidden is not None:
            check_number(self, "hidden", "from 1, or None", lambda k: k >= 1, whole=True)
        if self.after is not None:
            check_number(self, "after", "from 0, or None", lambda i: i >= 0, whole=True)
        check_number(self, "dropout", "from 0 and below 1", lambda p: 0 <= p < 1)
        check_number(self, "std", "from 0", lambda s: 0 <= s < math.inf)
        check_flag(self, "keep_mlp", "embedding_only")
        check_choice(self, "position", ("prefix", "infix"))
        check_choice(self, "layout", ("minipeft", "peft"))
        check_layers(self)
        check_start(self)
        if self.where is not None:
            check_names(self, "where")
            for kind in self.where:
                if kind not in KINDS:
                    raise ValueError(f"Prefix's where is any of {', '.join(KINDS)}, not {kind!r}.")
        if (self.position == "infix") != (self.after is not None):
            raise ValueError('Give `after`, a token\'s id, with position="infix", and only then.')
        whole = self.layers is None and self.where is None and self.position == "prefix"
        if not whole and (self.embedding_only or self.layout == "peft"):
            raise ValueError(
                'embedding_only and layout="peft" know no layers, where and infix: leave them out.'
            )
        if self.embedding_only and (self.layout == "peft" or self.dropout):
            raise ValueError('embedding_only has neither dropout nor layout="peft".')

    def install(self, tuner) -> None:
        already = len(tuner.places)
        if self.embedding_only:
            C = tuner.anatomy.words().width
            rows = Rows(self.length, C, C, self.hidden, self.std)
            tuner.speak(rows, self.length)
        else:
            install_memory(self, tuner)
        if self.start != "random":
            begin_with(tuner, tuner.places[already:], self.start, self.length)

    def wrap(self, tuner, batch: dict) -> dict:
        if not self.embedding_only:
            return batch
        aligned = not tuner.anatomy.is_encoder_decoder()
        return insert(batch, torch.tensor([*tuner.words]), 0, aligned)

    def look(self, tuner, batch: dict) -> None:
        """Tell the patches of an infix from which token on they are seen."""
        if self.position == "infix":
            begin_behind(tuner, batch["input_ids"], self.after)

    def stored(self, tuner) -> dict[str, Tensor]:
        return folded(tuner, self.keep_mlp)

    def restored(self, tensors: dict[str, Tensor]) -> tuple[Method, dict[str, Tensor]]:
        if self.hidden is None or not self.keep_mlp:
            return replace(self, hidden=None, start="random"), tensors
        values = {key: value for key, value in tensors.items() if not key.endswith(".table")}
        return replace(self, start="random"), values

    def notes(self, tuner) -> list[str]:
        return layout_notes(self)
