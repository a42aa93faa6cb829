"""Which rows are whose inside a layer: `route` must know, and not guess from a shape.

Inside a model a row of the batch may be anywhere: (B, T, C), all tokens one after the other
(B T, C), tokens first (T, B, C), tokens gathered for an expert, or nowhere, as in DeBERTa's
positions (1, 2 S, C), which one projection reads beside the text. The doors go by the first
dimension, B times something, row by row. Whether that is so we know of the architectures listed in
minipeft.model.families. Of every other model it is looked at, before anything is computed:

    check_rows      the last row becomes not-a-number where the model reads it; what is not a
                    number at the input of a layer belongs to that row

Layers that read what belongs to no row are run once for each set of tuners, on its rows:

    one_set_at_a_time

Shapes: B batch, T tokens, C width.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from minipeft.contexts import evaluating
from minipeft.doors.door import Door, doors
from minipeft.doors.memory import PositionDoor
from minipeft.doors.rows import Routing
from minipeft.doors.words import WordDoor

KNOWN = ("transformers.", "tiny_transformer.")  # whose classes of the listed families we know
BESIDE = ("attention_mask", "position_ids", "past_key_values", "cache_position")  # of a later step


def is_known(model: nn.Module, anatomy) -> bool:
    """Is it the very model of a listed architecture, so that its layers read row after row?"""
    return anatomy.is_listed() and type(model).__module__.startswith(KNOWN)


def check_rows(
    model: nn.Module, module: nn.Module, rows: Routing, given: dict, checked: set
) -> None:
    """Look whether every layer that a tuner changes reads row after row: (B n, ...).

    It costs one forward pass for every new shape of the inputs. `checked` holds those seen before.
    module: the model or one inside it, which is about to be called with the arguments `given`.

    Raises:
        ValueError: one does not, or the inputs have no number of rows that the route names.
    """
    tensors = {k: v for k, v in given.items() if isinstance(v, Tensor) and k not in BESIDE}
    shapes = {key: tuple(value.shape) for key, value in tensors.items() if value.dim()}
    size = next(iter(shapes.values()), (0,))[0]
    if size % len(rows) or size < len(rows):
        raise ValueError(
            f"route() names {len(rows)} rows, but the batch has {size}: give one name per row."
        )
    if rows.uniform or rows.known:
        return
    paths = {inner: path for path, inner in model.named_modules()}
    every = [door for door in doors(module) if door.patches]
    changed = [door for door in every if not isinstance(door, WordDoor | PositionDoor)]
    where = tuple(paths[each] for each in (module, *changed))
    seen = (where, len(rows), tuple(sorted(shapes.items())))
    if seen not in checked:
        again = given.get("past_key_values") is not None  # it would write into the cache
        inputs = {k: v for k, v in given.items() if v is not None and not (again and k in BESIDE)}
        wrong = out_of_order(module, changed, inputs, size, len(rows))
        if wrong:
            raise ValueError(
                f"route() cannot tell the rows apart in {wrong[0]}: give the rows of each tuner in "
                "a batch of their own."
            )
        checked.add(seen)
    rows.verified = True


def out_of_order(
    module: nn.Module, changed: list[Door], inputs: dict, size: int, count: int
) -> list[str]:
    """The doors that do not read row after row. count: routed rows, size: rows of the batch."""
    last = slice(size - size // count, size)  # of the batch, what belongs to the last routed row
    names = {inner: path.replace(".base", "") for path, inner in module.named_modules()}
    wrong: list[str] = []

    def check_input(door: Door, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        n, marked = len(x), x.isnan().flatten(1).any(dim=1)  # (n,)
        expected = torch.arange(n, device=x.device) >= n - n // count
        gathered = ".experts." in f".{names[door]}."  # how many tokens come depends on the text
        if n % count or gathered or not torch.equal(marked, expected):
            wrong.append(f"{names[door]}, which reads {tuple(x.shape)}")

    with ExitStack() as stack:
        for block in (torch.no_grad(), torch.random.fork_rng(), evaluating(module)):
            stack.enter_context(block)
        stack.enter_context(switched_off(changed))
        for inner in module.modules():
            if isinstance(inner, nn.Embedding | WordDoor):
                hook = inner.register_forward_hook(marking(size, last, inputs))
                stack.callback(hook.remove)
        for door in changed:
            stack.callback(door.register_forward_pre_hook(check_input, with_kwargs=True).remove)
        module.forward(**{key: marked(value, size, last) for key, value in inputs.items()})
    return wrong


def marked(value, size: int, last: slice):
    """An input, what is no id in it (vectors, pictures, states of an encoder) with the mark."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == (size,):
        value = value.clone()
        value[last] = torch.nan
    elif isinstance(value, dict):
        value = type(value)(**{key: marked(part, size, last) for key, part in value.items()})
    elif isinstance(value, tuple):
        value = tuple(marked(part, size, last) for part in value)
    return value


def marking(size: int, last: slice, inputs: dict):
    """A hook for embeddings: what they say of the last row is not a number.

    A table looks up (B, T) ids, or (T, B), or what belongs to no row: places (1, T), distances
    (T, T). Where T = B the shape does not tell, but the inputs do, or labels, moved by one.
    """
    known = [v for v in inputs.values() if isinstance(v, Tensor) and v.dim() == 2]

    def is_one(ids: Tensor) -> bool:
        same = [v for v in known if v.shape == ids.shape]
        return any(torch.equal(ids, v) or torch.equal(ids[:, 1:], v[:, :-1]) for v in same)

    def hook(module: nn.Module, args: tuple, y: Tensor) -> Tensor:
        ids = args[0] if args else None
        if not isinstance(ids, Tensor) or ids.dim() != 2 or size not in ids.shape or len(ids) == 1:
            return y
        square = len(ids) == ids.shape[1]
        y = y.clone()
        if is_one(ids) if square else len(ids) == size:
            y[last] = torch.nan
        elif is_one(ids.T) if square else len(ids) != size:  # tokens first
            y[:, last] = torch.nan
        return y

    return hook


@contextmanager
def switched_off(changed: list[Door]) -> Iterator[None]:
    """The doors answer as their bases do, whatever is routed."""
    before = [(door, door.off, door.routing) for door in changed]
    try:
        for door in changed:
            door.off, door.routing = {*door.patches}, None
        yield
    finally:
        for door, off, rows in before:
            door.off, door.routing = off, rows


@contextmanager
def one_set_at_a_time(module: nn.Module, rows: Routing, before_forward) -> Iterator[None]:
    """Inside, `module` runs once for each set of tuners, on the rows of that set.

    before_forward: called with names and the attention mask of the rows that come.
    """
    before = vars(module).get("forward")
    forward = getattr(before, "ungrouped", module.forward)  # of a route inside a route
    inside, signature = doors(module), inspect.signature(forward)

    def grouped(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        B = len(next(iter(given.values())))
        each, sets = B // len(rows), {}
        for b in range(B):
            sets.setdefault(frozenset(rows[b // each]), []).append(b)
        if any(
            getattr(m, "gradient_checkpointing", False) and m.training for m in module.modules()
        ):
            raise ValueError(
                "route() runs this model's encoder once for each set of tuners, which gradient "
                "checkpointing cannot repeat: switch it off, or give each set a batch of its own."
            )
        parts = []
        try:
            for names, indices in sets.items():
                index = torch.tensor(indices, device=next(iter(given.values())).device)
                for door in inside:
                    door.routing = Routing([tuple(names)])
                part = {key: of_rows(value, index, B) for key, value in given.items()}
                before_forward(names, part.get("attention_mask"))
                parts.append(forward(**part))
        finally:
            for door in inside:
                door.routing = rows
        order = torch.tensor([b for indices in sets.values() for b in indices]).argsort()
        return joined(parts, order)

    grouped.ungrouped = forward
    module.forward = grouped
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def of_rows(value, index: Tensor, B: int):
    """Of an argument (B, ...) some rows; anything else as it is."""
    return value[index] if isinstance(value, Tensor) and value.dim() and len(value) == B else value


def joined(parts: list, order: Tensor):
    """Outputs of some rows each -> one of all rows in their order, whatever it is made of."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)[order.to(first.device)]
    if isinstance(first, dict):  # transformers' outputs
        return type(first)(**{key: joined([p[key] for p in parts], order) for key in first})
    if isinstance(first, tuple | list):
        return type(first)(joined(list(each), order) for each in zip(*parts, strict=True))
    return first
