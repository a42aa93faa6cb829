"""Prefixes for the memory door: what Prefix, PTuningV2 and UniPELT have in common.

    Rows             P rows of trained numbers, free or out of an MLP: (P, 2 L H D)
    PrefixPatch      one attention layer's share of them: keys and values (1, H, P, D)
    install_memory   rows for each kind of attention, a patch for each layer
    begin_with       start at what real words make the base's layers say
    folded           what is stored, the MLP folded away

Shapes: P length, L layers, H key-value heads, D head width, C width, k hidden features of the MLP.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.memory import overhear

KINDS = ("encoder", "decoder", "cross")  # of attention


class Rows(nn.Module):
    """P rows of trained numbers: free ones, or what an MLP makes of P'.

    std: of free rows at the start; P' is drawn from N(0, 1).
    """

    def __init__(self, length: int, numbers: int, width: int, hidden: int | None, std: float):
        super().__init__()
        self.table = self.words = None
        if hidden is None:
            self.table = nn.Parameter(std * torch.randn(length, numbers))
        else:
            self.words = nn.Parameter(torch.randn(length, width))  # P'
            self.down = nn.Linear(width, hidden)
            self.up = nn.Linear(hidden, numbers)

    def forward(self, columns: slice = slice(None)) -> Tensor:
        """Some columns of the rows: (P, n)."""
        if self.table is not None:
            return self.table[:, columns]
        middle = torch.tanh(self.down(self.words))  # (P, k)
        return F.linear(middle, self.up.weight[columns], self.up.bias[columns])

    @torch.no_grad()
    def set(self, rows: Tensor) -> None:
        """Make the rows these (P, numbers), or as near as k hidden features can come."""
        if self.table is not None:
            self.table.copy_(rows)
            return
        middle = torch.tanh(self.down(self.words)).double()  # (P, k)
        solution = torch.linalg.pinv(F.pad(middle, (0, 1), value=1.0)) @ rows.double()  # (k + 1, n)
        self.up.weight.copy_(solution[:-1].T)
        self.up.bias.copy_(solution[-1])


class PrefixPatch(nn.Module):
    """The memory of one attention layer: its columns of the rows that all layers share.

    index: which columns.  owner: the one patch whose parameters the rows are, all others refer.
    """

    def __init__(self, rows: Rows, index: int, shape: tuple[int, int], dropout=0.0, owner=True):
        super().__init__()
        if owner:
            self.rows = rows
        else:
            self.__dict__["rows"] = rows
        self.index, self.shape = index, shape
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (1, H, P, D); x (B, T, C) does not matter."""
        H, D = self.shape
        n = 2 * H * D
        own = self.rows(slice(self.index * n, (self.index + 1) * n))  # (P, 2 H D)
        keys, values = self.dropout(own).view(-1, 2, H, D).permute(1, 2, 0, 3)  # (H, P, D) each
        return keys[None], values[None]


def check_start(method) -> None:
    """`start` must be a word or a text's ids."""
    start = method.start
    if start in ("random", "words"):
        return
    ids = tuple(start) if isinstance(start, list | tuple) else ()
    if not ids or len(ids) > method.length or not all(type(i) is int and i >= 0 for i in ids):
        raise ValueError(
            f'{type(method).__name__}\'s start must be "random", "words" or from 1 to '
            f"{method.length} ids of words, not {start!r}."
        )
    object.__setattr__(method, "start", ids)


def layout_notes(method) -> list[str]:
    if method.layout != "peft":
        return []
    return [
        'layout="peft": positions move behind the prefix, layers share, and sliding windows leave '
        "it behind, as in 🤗 PEFT."
    ]


def kinds_of(anatomy, layers=None) -> dict[str, list]:
    """The attention layers of a model by kind: encoder, decoder, cross."""
    seats = anatomy.attentions(layers)
    reading = {seat.stack for seat in seats if seat.target == "cross memory"}
    found: dict[str, list] = {}
    for seat in seats:
        causal = seat.stack in reading or anatomy.is_decoder()
        kind = "cross" if seat.target == "cross memory" else "decoder" if causal else "encoder"
        found.setdefault(kind, []).append(seat)
    return found


def install_memory(method, tuner) -> None:
    """Rows for each kind of attention, and a patch that reads them for each layer."""
    found = kinds_of(tuner.anatomy, method.layers)
    missing = [kind for kind in method.where or () if kind not in found]
    if missing:
        raise ValueError(f"This model has no {missing[0]} attention, only {', '.join(found)}.")
    if method.position == "infix" and [*found] != ["decoder"]:
        raise ValueError('position="infix" needs a decoder that reads x and y in one row.')
    peft, pair = method.layout == "peft", tuner.anatomy.is_encoder_decoder()
    where = ("decoder",) if peft and pair else method.where or tuple(found)
    if peft:  # a cache holds what self-attention reads
        where = [kind for kind in where if kind != "cross"]
    for kind in where:
        seats = found[kind]
        L = len(found["encoder"]) if peft and pair else len(seats)  # layers there are rows for
        H, D, C = seats[0].heads, seats[0].head_width, seats[0].width
        rows = Rows(method.length, 2 * L * H * D, C, method.hidden, method.std)
        for i, seat in enumerate(seats[:L]):
            index = 2 * i % L if peft and pair else i
            patch = PrefixPatch(rows, index, (H, D), method.dropout, owner=i == 0)
            patch.bias = tuner.anatomy.relative_bias(seat) if peft else None
            patch.window = tuner.anatomy.window(seat) if peft else None
            tuner.remember(seat, patch)
    if peft:
        within = seats[0].stack.rpartition(".")[0] if pair else ""
        tuner.shift_positions(method.length, within)


def begin_behind(tuner, ids: Tensor, after: int) -> None:
    """Tell the patches of an infix from which token on they are seen: the first `after` of a row.

    Raises:
        ValueError: a row (B, T) of `ids` for this tuner has no such token.
    """
    found = ids == after  # (B, T)
    routed = tuner.model.minipeft.rows or [(tuner.name,)]
    each = max(1, len(found) // len(routed))  # rows of the batch for one name: beams
    for row, there in enumerate(found.any(dim=1).tolist()):
        if not there and tuner.name in routed[min(row // each, len(routed) - 1)]:
            raise ValueError(f"Row {row} has no token {after}: the infix has no place.")
    for _, patch in tuner.places:
        patch.since = found.int().argmax(dim=1)  # (B,)


def begin_with(tuner, places: list, start: str | tuple[int, ...], length: int) -> None:
    """Give these places the keys and values, or the vectors, that words have in the base.

    start: "words" draws them from the vocabulary; or ids of a text, repeated up to length.
    """
    words = tuner.anatomy.words().module
    if start == "words":
        start = torch.randint(words.num_embeddings, (length,)).tolist()
    ids = (tuple(start) * length)[:length]
    if max(ids) >= words.num_embeddings:
        raise ValueError(f"start has the id {max(ids)}, but there are {words.num_embeddings}.")
    ids = torch.tensor([ids], device=words.weight.device)  # (1, P)
    if isinstance(places[0][1], Rows):
        places[0][1].set(words(ids)[0].detach())  # (P, C)
        return
    batch = {"input_ids": ids}
    if tuner.anatomy.is_encoder_decoder():
        batch["decoder_input_ids"] = ids
    heard = overhear(tuner.model, [seat.module for seat, _ in places], batch)
    whole: dict[Rows, Tensor] = {}
    for (_, patch), own in zip(places, heard, strict=True):
        H, D = patch.shape
        n = 2 * H * D
        rows = whole.setdefault(patch.rows, patch.rows().detach().clone())  # (P, 2 L H D)
        own = own[:, 0].permute(2, 0, 1, 3)  # (2, H, P, D) -> (P, 2, H, D)
        rows[:, patch.index * n : (patch.index + 1) * n] = own.flatten(1)
    for rows, values in whole.items():
        rows.set(values)


def folded(tuner, keep_mlp: bool) -> dict[str, Tensor]:
    """A tuner's tensors, the rows in place of the MLP that makes them, or beside it."""
    tensors = tuner.named_tensors()
    for place, patch in tuner.places:
        own = patch if isinstance(patch, Rows) else patch._modules.get("rows")
        if own is None or own.table is not None:
            continue
        name = f"{place.path}.{place.target}." + ("" if own is patch else "rows.")
        if not keep_mlp:
            tensors = {key: t for key, t in tensors.items() if not key.startswith(name)}
        tensors[f"{name}table"] = own().detach()
    return tensors
