"""Which tuner acts on which row, and the batch as the model must see it with its tuners.

    with route(model, ["a", None, "b"]): model(**batch)      one pass, a tuner per row
    batch = wrap(model, batch)                               soft prompts in, positions counted

A model with tuners wraps a batch by itself when it is called (see minipeft.passes.reach).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from minipeft.attached import anatomy_of, forward_lock
from minipeft.attaching.in_training import active, record_of, tuners
from minipeft.doors.followed_rows import check_rows, is_known, one_set_at_a_time
from minipeft.doors.positions import count_positions, whole_rows
from minipeft.doors.rows import Routing
from minipeft.doors.words import (
    check_mask,
    choice_by_choice,
    is_left_padded,
    mask_of,
    together,
)
from minipeft.model.libraries import unwrapped
from minipeft.passes.call_arguments import takes


@contextmanager
def route(model: nn.Module, names: Sequence[str | Sequence[str] | None]) -> Iterator[None]:
    """One forward pass, a tuner per row: `with route(model, ["a", None, "b"]): model(**batch)`.

    names: for every row of the batch the tuner's name, None for the plain base, or several names.
    A model in which the rows cannot be followed stops with a ValueError (see followed_rows.py).
    With gradient checkpointing call backward inside the `with` as well, because the layers are
    then run again. One thread at a time is inside: another one's pass waits for its turn.
    """
    model = unwrapped(model)
    with forward_lock(model):
        yield from _route(model, names)


def _route(model: nn.Module, names: Sequence[str | Sequence[str] | None]) -> Iterator[None]:
    known = tuners(model)
    anatomy = anatomy_of(model)
    each = ((row,) if isinstance(row, str) else tuple(row or ()) for row in names)
    rows = Routing(each, known=is_known(model, anatomy))
    if not rows:
        raise ValueError("route() needs one name per row of the batch.")
    for name in dict.fromkeys(name for row in rows for name in row):
        if name not in known:
            raise ValueError(f"There is no tuner named {name!r} on this model, only {list(known)}.")
        if not known[name].enabled:
            raise ValueError(f"The tuner {name!r} is disabled: call enable() before routing to it.")
    for tuner in known.values():
        if tuner.merged or (tuner.base_values and tuner.enabled):
            what = "merged into" if tuner.merged else "training"
            raise ValueError(
                f"{tuner.name!r} is {what} the base's own weights, which act on every row: "
                f"{'unmerge' if tuner.merged else 'disable'} it before routing."
            )
    record = record_of(model)  # nothing to tell where there are no tuners
    before = record and record.routing

    def before_forward(names: Iterable[str], mask: Tensor | None) -> None:
        for name in names if mask is not None else ():
            model.minipeft.routing = None
            known[name].method.before_forward(known[name], {"attention_mask": mask})
            model.minipeft.routing = rows

    with ExitStack() as stack:
        try:
            if record:
                record.route(rows)
            for module in [] if rows.uniform else anatomy.rowless():
                stack.enter_context(one_set_at_a_time(module, rows, before_forward))
            yield
        finally:
            if record:
                record.route(before)


def wrap(model: nn.Module, batch: dict, left: bool | None = None) -> dict:
    """The batch as the model must see it: prompts in, those of each row's own tuners under `route`.

    A module of one's own that takes no attention_mask gets them inside, when it is called.
    left: on which side shorter rows are padded; None keeps the side that the batch has.

    Raises:
        ValueError: a row has become longer than the model's positions, or route() named another
            number of rows.
    """
    model = unwrapped(model)
    if tuners(model) and not takes(model, "attention_mask"):
        return batch
    wrapped = wrap_now(model, batch, left)
    if "position_ids" in batch or takes(model, "position_ids") or "position_ids" not in wrapped:
        return wrapped
    return {key: value for key, value in wrapped.items() if key != "position_ids"}


def wrap_now(model: nn.Module, batch: dict, left: bool | None = None, each: int = 1) -> dict:
    """`wrap`, for a batch that is about to go into the model or into one inside it.

    each: rows of the batch for one that `route` names, the choices of a question.
    """
    known = tuners(model)
    if not known or batch.get("input_ids") is None:
        return batch
    if batch["input_ids"].dim() == 3:
        choices = batch["input_ids"].shape[1]
        return choice_by_choice(batch, partial(wrap_now, model, left=left, each=choices))
    anatomy = next(iter(known.values())).anatomy
    given, positions = batch.get("position_ids") is not None, None
    if model.minipeft.routing is None or not any(t.words for t in known.values()):
        for tuner in known.values():
            batch = tuner.wrap(batch)
    elif not any(tuner.words_in(batch["input_ids"]) for tuner in known.values()):
        batch = wrap_by_rows(model, batch, left, each)
        positions = None if given else batch.pop("position_ids", None)
    if not given:
        batch = with_positions(model, batch, positions)
    limit, T = anatomy.limit, batch["input_ids"].shape[1]
    if limit is not None and T > limit:
        raise ValueError(
            f"The input has {T} tokens, prompts included, but the model knows {limit} positions: "
            "shorten the input or the prompt."
        )
    for tuner in known.values():
        if tuner.enabled:
            tuner.method.before_forward(tuner, batch)
    return batch


def wrap_by_rows(model: nn.Module, batch: dict, left: bool | None, each: int) -> dict:
    """The batch (B, T) under `route`, each row with the prompts of its own tuners, padded to the
    longest; with position_ids, where the model takes them, by which plain rows count as before.

    left, each: as in `wrap_now`.

    Raises:
        ValueError: route() named another number of rows.
    """
    known, rows = tuners(model), model.minipeft.routing
    anatomy = next(iter(known.values())).anatomy
    B, T = batch["input_ids"].shape
    if B != len(rows) * each:
        raise ValueError(f"route() names {len(rows)} rows, but the batch has {B // each}.")
    check_mask(batch)
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, names in enumerate(rows):
        groups.setdefault(names, []).extend(range(number * each, (number + 1) * each))
    given = batch.get("position_ids") is not None
    batch = whole_rows({**batch, "attention_mask": mask_of(batch)})
    if not given and anatomy.takes_positions():  # so that rows without new words keep theirs
        batch["position_ids"] = torch.arange(T, device=batch["input_ids"].device).expand(B, T)
    parts = []
    for names, numbers in groups.items():
        part = {k: v[numbers] if isinstance(v, Tensor) else v for k, v in batch.items()}
        for name in names:
            part = known[name].wrap(part)
        parts.append(part)
    left = is_left_padded(batch) if left is None else left
    aligned = not anatomy.is_encoder_decoder()
    return together(parts, list(groups.values()), left, anatomy.padding(), aligned)


def acting(model: nn.Module) -> list[list]:
    """The tuners that act on each row; one list for all rows where `route` names none."""
    known, rows = tuners(model), model.minipeft.routing
    return [active(model)] if rows is None else [[known[n] for n in names] for names in rows]


def with_positions(
    model: nn.Module, batch: dict, otherwise: Tensor | None = None, past: int = 0
) -> dict:
    """The batch with position_ids, where some rows count their own tokens (see doors.positions).

    otherwise: (B, T), the positions of the other rows; None for the base's, which counts on from
        `past`.
    """
    rows = acting(model)
    counting = [any(t.counts for t in row) and not any(t.as_in_peft for t in row) for row in rows]
    takes_positions = anatomy_of(model).takes_positions
    if not any(counting) or not is_left_padded(batch) or not takes_positions():
        return batch
    mask = batch["attention_mask"]
    given = batch.get("input_ids")
    B, T = (batch["inputs_embeds"] if given is None else given).shape[:2]
    if otherwise is None:
        otherwise = past + torch.arange(T, device=mask.device).expand(B, T)
    counting = torch.tensor(counting, device=mask.device).repeat_interleave(B // len(rows))
    return {**batch, "position_ids": count_positions(mask, counting, otherwise)}


def positions_to_write_on(model: nn.Module, batch: dict) -> Tensor | None:
    """position_ids (B, T) for `generate`; None where every row counts its own tokens, as there."""
    rows, mask = acting(model), batch.get("attention_mask")
    in_peft = [any(t.words and t.as_in_peft for t in row) for row in rows]
    if mask is None or not any(in_peft) or not anatomy_of(model).takes_positions():
        return None
    B, T = mask.shape  # padding stands between a prompt of PEFT's and the text
    counting = ~torch.tensor(in_peft, device=mask.device).repeat_interleave(B // len(rows))
    return count_positions(mask, counting, torch.arange(T, device=mask.device).expand(B, T))


def batch_without_words(model: nn.Module, batch: dict, past: int = 0) -> dict:
    """The batch of a later step, whose prompt is in the cache, or one of vectors instead of ids.

    past: how many tokens the cache has.

    Raises:
        ValueError: the mask is of the text alone, but new words stand in the cache; or a method
            that acts looks for a token in the ids.
    """
    rows = model.minipeft.routing
    for tuner in active(model) if not past else ():
        if rows is None or any(tuner.name in names for names in rows):
            tuner.method.before_forward(tuner, batch)
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    plain = isinstance(mask, Tensor) and mask.dim() == 2  # generate may make one for each layer
    if not plain or anatomy_of(model).is_encoder_decoder():
        return batch
    T = (batch["inputs_embeds"] if ids is None else ids).shape[1]
    if any(tuner.words for tuner in active(model)) and past and mask.shape[1] < past + T:
        raise ValueError(
            f"The mask is of {mask.shape[1]} tokens, but the cache and the new ones are "
            f"{past + T}, a tuner's words included: go on with the mask of tuner.wrap(batch)."
        )
    if batch.get("position_ids") is not None or mask.shape[1] != past + T:
        return batch
    return with_positions(model, batch, past=past)


def look_at_rows(model: nn.Module, module: nn.Module, given: dict) -> None:
    """Before `module`, the model or one inside it, is called so: see followed_rows.py."""
    attached = model.minipeft
    if attached.routing is not None:
        check_rows(model, module, attached.routing, given, attached.checked)
