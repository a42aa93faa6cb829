"""Prefix-tuning (Li & Liang 2021, arXiv 2101.00190), in the memory door.

Path: attach(model, Prefix(...)) -> Prefix.install -> tuner.add_memory(site, PrefixPatch) ->
MemoryDoor.forward. A door stands where a frozen layer stood, this one where an attention layer (a
`site`) stood; in every pass it calls PrefixPatch.forward(x) and lays what it gives before the keys
and values of its layer:

    softmax(Q [P_k ; K]^T / sqrt D) [P_v ; V]      Q (N, H, T, D)   K, V (N, H, S, D) frozen, S keys

Section 4.3. The P_k and P_v of all L layers come out of one matrix P' through one MLP (row by row;
the numbers of the equations are ours):

    R = tanh(P' W_down^T + b_down) W_up^T + b_up                                        (eq. 1)
    P_k, P_v = the 2 H D columns of R that belong to layer l, cut into H heads          (eq. 2)

    P' (P, C)   W_down (k, C)   b_down (k,)   W_up (2 L H D, k)   b_up (2 L H D,)   all trained
    R (P, 2 L H D)   P_k, P_v (H, P, D), the same for every row of the batch

    With P = 10, C = 64, k = 512, L = 4, H = 4, D = 16: P' (10, 64) -> (10, 512) -> R (10, 512) ->
    for each of 4 layers (10, 128) -> P_k, P_v (4, 10, 16), read before K, V (N, 4, T, 16).

The MLP is thrown away after training: what is stored is R. `hidden=None` trains R itself ("flat").
H counts key-value heads, C is the model's width; an encoder, a decoder and its cross-attention have
an R, a P' and an MLP each, and L is the number of their layers.

Start: P' is N(0, 1), the linear maps are torch's; flat, R is N(0, std^2). The answer is not the
base's, since the prefix takes its share of attention (He et al. 2022, arXiv 2110.04366, eq. 5): it
is (1 - lambda) softmax(Q K^T / sqrt D) V + lambda softmax(Q P_k^T / sqrt D) P_v, where lambda is,
per token, what the softmax gives to the prefix. No gradient is zero.

Merge: impossible, there is no weight that the rows could be added to.

Parameters: trained P C + k C + k + 2 (k + 1) L H D, flat 2 P L H D; stored 2 P L H D.

Departures.
(1) Positions. Paper: the prefix takes the positions before the text. PEFT: likewise, and it falls
    out of sliding windows. Here: the prefix has no position, words keep theirs and every token sees
    all of it, in windowed layers too; `compatibility="peft"` does as PEFT.
    Shown by test_sliding_windows.py
(2) Start at words. Paper: rows start at the activations of real words (section 7.4), with an MLP by
    training towards them. PEFT: random rows. Here: `start=`; with an MLP, W_up and b_up are the
    least squares solution, exact if k >= P. Shown by
    test_prefix.py::test_starting_from_a_text_is_having_read_it
(3) Infix (section 7.3). Paper: x and y are P positions apart. PEFT: none. Here: `position="infix"`
    with no positions in between; tokens before `after` do not see the rows.
    Shown by test_prefix.py::test_an_infix_is_read_from_its_place_on
(4) Encoder-decoders. Paper: a prefix for the encoder and one for the decoder. PEFT: for the decoder
    only, layers sharing rows. Here: one for each kind of attention, cross-attention too; `where=`
    chooses. Shown by
    test_prefix.py::test_encoder_decoder_and_cross_attention_have_prefixes_of_their_own
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.patch import MemoryPatch
from minipeft.methods.method import Method
from minipeft.methods.parts import prefix_options
from minipeft.methods.parts.renamed import renamed


class PrefixEncoder(nn.Module):
    """R (P, numbers): out of P' (P, width) through an MLP of `hidden` features, or free numbers.

    std: of free numbers at the start.
    """

    def __init__(self, length: int, numbers: int, width: int, hidden: int | None, std: float):
        super().__init__()
        self.table = self.embedding = None
        if hidden is None:
            self.table = nn.Parameter(std * torch.randn(length, numbers))  # R itself
        else:
            self.embedding = nn.Parameter(torch.randn(length, width))  # P'
            self.down = nn.Linear(width, hidden)
            self.up = nn.Linear(hidden, numbers)

    def forward(self, columns: slice = slice(None)) -> Tensor:
        """Some columns of R, all by default: (P, n)."""
        if self.table is not None:
            return self.table[:, columns]
        hidden = torch.tanh(self.down(self.embedding))  # eq. 1: tanh(P' W_down^T + b_down), (P, k)
        return F.linear(hidden, self.up.weight[columns], self.up.bias[columns])  # eq. 1: R, (P, n)


class PrefixPatch(MemoryPatch):
    """The prefix of one attention layer.

    encoder: gives R, the same object in every layer.  index: which columns of R are this layer's,
    counted in layers.  shape: (H, D).  dropout: of the numbers in P_k and P_v.
    """

    # Every token reads all of it, and T5's scores of its keys get no bias: see MemoryPatch.
    since = bias = window = None

    def __init__(self, encoder: PrefixEncoder, index: int, shape: tuple[int, int], dropout=0.0):
        super().__init__()
        self.encoder = encoder
        self.index, self.shape = index, shape
        self.dropout = nn.Dropout(dropout)

    @property
    def columns(self) -> slice:
        """Where this layer's 2 H D numbers stand in a row of R."""
        n = 2 * self.shape[0] * self.shape[1]
        return slice(self.index * n, (self.index + 1) * n)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """P_k and P_v (1, H, P, D); x (N, T, C), what enters the layer, does not matter."""
        H, D = self.shape
        rows = self.dropout(self.encoder(self.columns))  # eq. 2: of layer l, (P, 2 H D)
        keys, values = rows.view(-1, 2, H, D).permute(1, 2, 0, 3)  # eq. 2: P_k, P_v, (H, P, D)
        return keys[None], values[None]


@renamed({"layout": "compatibility"})
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
        embedding_only: no memory, soft prompts before the input (section 7.2).
        compatibility: "peft" does what PEFT does: positions move by P; of an encoder-decoder only
            the decoder has a prefix, whose layer i reads the rows of layer 2i mod L.

    Raises:
        ValueError: when a value is impossible, alone or beside the others.
    """

    default_rate = 3e-4  # SST-2 with MiniLM: 73 % (at chance from 9e-4 on)
    flat_rate = 3e-2  # lesson 06: 0.01 to 0.03 is good; banking77: 0.80 macro-F1 (0.69 at 1e-2)

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
    compatibility: str = "minipeft"

    identity_at_start = False

    def __post_init__(self) -> None:
        prefix_options.check(self)

    def rate(self) -> float:
        """Smaller through the MLP, where a step of each of `hidden` features moves a row."""
        return self.flat_rate if self.hidden is None else self.default_rate

    def install(self, tuner) -> None:
        """One encoder for each kind of attention, one patch for each of its layers."""
        before = len(tuner.patches)
        if self.embedding_only:  # P' and its MLP give P soft words at the input
            C = tuner.anatomy.words().width
            tuner.add_virtual_tokens(
                PrefixEncoder(self.length, C, C, self.hidden, self.std), self.length
            )
        for sites, shares, L in () if self.embedding_only else prefix_options.groups(self, tuner):
            H, D, C = sites[0].heads, sites[0].head_width, sites[0].width
            encoder = PrefixEncoder(self.length, 2 * L * H * D, C, self.hidden, self.std)
            for site, index in zip(sites, shares, strict=True):
                tuner.add_memory(site, PrefixPatch(encoder, index, (H, D), self.dropout))
        if self.compatibility == "peft":
            prefix_options.behave_as_peft(self, tuner)
        if self.start != "random":
            prefix_options.start_at_words(self, tuner, len(tuner.patches) - before)

    def wrap(self, tuner, batch: dict) -> dict:
        return prefix_options.add_virtual_tokens(tuner, batch) if self.embedding_only else batch

    def before_forward(self, tuner, batch: dict) -> None:
        if self.position == "infix":
            prefix_options.place_infix(tuner, batch.get("input_ids"), self.after)

    def export_state(self, tuner) -> dict[str, Tensor]:
        """R in the place of the MLP that makes it, or beside it."""
        return prefix_options.without_reparameterization(tuner, PrefixEncoder, self.keep_mlp)

    def import_state(self, tensors: dict[str, Tensor]) -> tuple[Method, dict[str, Tensor]]:
        if self.hidden is None or not self.keep_mlp:
            return replace(self, hidden=None, start="random"), tensors
        return replace(self, start="random"), prefix_options.of_the_mlp(tensors)

    def notes(self, tuner) -> list[str]:
        return prefix_options.notes(self)
