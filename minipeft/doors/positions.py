"""Where tokens stand once a tuner has come: `position_ids` that are given, and those that are not.

    keep_positions     given ones go on behind new words: spelling out the model's own positions
                       changes nothing
    count_positions    none given, padding on the left: a row counts its own tokens, from 0

The base counts padding too unless it is told not to. Its rotary angles are relative, so that a row
behind padding answers as it does alone; but trained keys and new words have no share in its shift.
So a row that reads a memory or has new words counts its own tokens, as `generate` does for every
row. A row of plain base, or of a tuner in the weights door, counts as the base does.

Shapes: B batch, T tokens, N tokens with the new words.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minipeft.doors.words import is_left_padded, positions


def whole_rows(batch: dict) -> dict:
    """The batch with a row of its own for everybody: (T,) and (1, T) become (B, T).

    Raises:
        ValueError: position_ids have another shape, such as Qwen2-VL's (3, B, T).
    """
    B, T = batch["input_ids"].shape
    wider = {}
    for key in ("position_ids", "token_type_ids"):
        value = batch.get(key)
        if isinstance(value, Tensor) and value.shape in ((T,), (1, T)):
            wider[key] = value.expand(B, T)
    given = wider.get("position_ids", batch.get("position_ids"))
    if given is not None and given.shape != (B, T):
        raise ValueError(
            f"position_ids have the shape {tuple(given.shape)}, and new words are put into "
            f"rows of shape {(B, T)} only: give one position per token, or none."
        )
    return {**batch, **wider}


def keep_positions(batch: dict, wrap: Callable[[dict], dict], limit: int | None = None) -> dict:
    """`wrap(batch)`, which puts new words into rows, where position_ids (B, T) may be given.

    A token's position grows by the number of new words before it; new words count towards the
    token that follows them, at the end of a row on from the last.  limit: a table's positions.

    Raises:
        ValueError: the positions of a row do not grow (several texts in one row), or end beyond
            the limit.
    """
    if batch.get("position_ids") is None:
        return wrap(batch)
    rows = whole_rows(batch)
    given = rows["position_ids"]  # (B, T)
    columns = torch.arange(1, given.shape[1] + 1, device=given.device).expand_as(given)
    wrapped = wrap({**rows, "position_ids": columns})
    if wrapped["input_ids"] is rows["input_ids"]:
        return batch
    mask = rows.get("attention_mask")
    real = torch.ones_like(given) if mask is None else (mask != 0).to(given.dtype)  # (B, T)
    if not grows(given, real):
        raise ValueError(
            "position_ids must grow along the tokens of a row where a tuner adds words to it: give "
            "every text a row of its own."
        )
    source = wrapped["position_ids"]  # (B, N) the old column, from 1; 0 for a new word
    old = (source > 0) & (wrapped["attention_mask"] != 0)
    gap = (given - real.cumsum(dim=1)).gather(1, (source - 1).clamp(min=0))  # (B, N)
    index = wrapped["attention_mask"].to(given.dtype).cumsum(dim=1)  # (B, N), this one included
    going_on = (index + carried(gap, old)).clamp(min=0)
    if limit is not None and int(going_on.max()) >= limit:
        raise ValueError(
            f"With the words that a tuner adds the position_ids end at {int(going_on.max())}, but "
            f"the model knows {limit} positions: give smaller ones, or none."
        )
    return {**wrapped, "position_ids": going_on}


def columns_as_positions(batch: dict, wrap: Callable[[dict], dict], spell: bool) -> dict:
    """`wrap(batch)` for words as in 🤗 PEFT, which ignores position_ids: given are the base's own.

    spell: say them where padding is on the left, since `generate` would count a row's own tokens.

    Raises:
        ValueError: others are given.
    """
    if batch.get("position_ids") is None and not (spell and is_left_padded(batch)):
        return wrap(batch)
    if batch.get("position_ids") is None:
        ids = batch["input_ids"]
        batch = {**batch, "position_ids": torch.arange(ids.shape[1], device=ids.device)}
    given = whole_rows(batch)["position_ids"]
    if not torch.equal(given, torch.arange(given.shape[1], device=given.device).expand_as(given)):
        raise ValueError(
            "A prompt in PEFT's layout counts positions as 🤗 PEFT does, which ignores "
            "position_ids: leave them out."
        )
    wrapped = wrap({key: value for key, value in batch.items() if key != "position_ids"})
    B, N = wrapped["input_ids"].shape
    return {**wrapped, "position_ids": torch.arange(N, device=given.device).expand(B, N)}


def grows(positions: Tensor, mask: Tensor) -> bool:
    """Do the positions (B, T) grow along every row's own tokens?"""
    highest = torch.where(mask != 0, positions, torch.iinfo(positions.dtype).min)
    before = highest.cummax(dim=1).values[:, :-1]  # (B, T - 1)
    return bool((before < highest[:, 1:])[mask[:, 1:] != 0].all())


def carried(values: Tensor, known: Tensor) -> Tensor:
    """Values (B, N) where `known` (B, N); elsewhere the next known one's, or the last's."""
    N = values.shape[1]
    columns = torch.arange(N, device=values.device).expand_as(values)
    following = torch.where(known, columns, N).flip(1).cummin(dim=1).values.flip(1)  # (B, N)
    last = torch.where(known, columns, 0).amax(dim=1, keepdim=True)  # (B, 1)
    return values.gather(1, torch.where(following == N, last, following))


def count_positions(mask: Tensor, counting: Tensor, otherwise: Tensor) -> Tensor:
    """Positions (B, T): counted over a row's own tokens where `counting` (B,) is true.

    mask: (B, T), 0 at padding.  otherwise: (B or 1, T), the positions of the other rows.
    """
    return torch.where(counting[:, None], positions(mask)[:, -otherwise.shape[1] :], otherwise)
