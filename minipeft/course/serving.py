"""What lesson 17 measures: many adapters on one base; queues of requests, and five servers.

users = users_of(10)                                    # name -> its task: 50 of them
with serving(model, adapters, lora) as tuners: ...      # attached by name, ready for `route`
y = mixed_lora(x, y, A, B, who, scale)                  # what `route` does, in four lines
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from minipeft import tasks
from minipeft.contexts import evaluating
from minipeft.course.passport_facts import answers, largest_difference, shake
from minipeft.course.runs import attached, rows_of
from minipeft.doors.memory import MemoryDoor
from minipeft.doors.words import together as padded
from minipeft.methods.lora import LoRA
from minipeft.methods.method import Method
from minipeft.routing import route, wrap
from minipeft.tasks.tasks import Task
from minipeft.tuner import Tuner

Adapter = Mapping[str, tuple[Tensor, Tensor]]  # path of a linear map -> A (r, in), B (out, r)
FUNCTIONS = ("copy", "rotate", "swap", "double", "reverse")
ENDS = ("moon", "bell", "boat", "ship", "sand", "rose", "coin", "lamp", "hill", "drum")


def mixed_lora(x: Tensor, y: Tensor, A: Tensor, B: Tensor, who: Tensor, scale: float) -> Tensor:
    """LoRA beside one linear map, for a batch whose rows belong to different adapters.

    y_i + scale B_a A_a x_i for each row i, with a = who[i]; y_i alone where who[i] is -1.

    Args:
        x: (R, T, in), what goes into the map: R rows.
        y: (R, T, out), what the frozen map gives.
        A, B: (N, r, in) and (N, out, r), of N adapters.
        who: (R,), whole numbers: the adapter of each row, -1 for the base.

    Returns:
        (R, T, out), a new tensor. All tensors but `who` have one dtype.
    """
    adapted = who >= 0  # (R,)
    A, B = A[who[adapted]], B[who[adapted]]  # (n, r, in), (n, out, r): one for each adapted row
    detour = scale * (x[adapted] @ A.mT) @ B.mT  # (n, T, out)
    return y.index_put((adapted,), y[adapted] + detour)


# ---- fifty tasks ----


def users_of(ends: int = len(ENDS), functions: Sequence[str] = FUNCTIONS) -> dict[str, Task]:
    """Name -> task. Each wants a function of the row, and a last word of its own; both unsaid."""
    users = {}
    for function in functions:
        known = tasks.load(function).splits
        for end in ENDS[:ends]:
            splits = {
                split: [(e.input, f"{e.target.removesuffix('.')}{end} .") for e in known[split]]
                for split in ("train", "dev", "test")
            }
            users[f"{function}-{end}"] = tasks.make(f"{function}-{end}", "generate", **splits)
    return users


def put_in(tuner: Tuner, adapter: Adapter) -> None:
    """The numbers of an adapter into the LoRA of a tuner."""
    for place, patch in tuner.patches:
        A, B = adapter[place.path]
        patch.A.data.copy_(A)
        patch.B.data.copy_(B)


@contextmanager
def serving(
    model: nn.Module, adapters: Mapping[str, Adapter], method: LoRA
) -> Iterator[dict[str, Tuner]]:
    """All adapters on one model, each a tuner of its name, for a block of code."""
    with ExitStack() as stack:
        tuners = {}
        for name, adapter in adapters.items():
            tuners[name] = stack.enter_context(attached(model, method, name=name))
            put_in(tuners[name], adapter)
        yield tuners


def requests(
    base: tuple[nn.Module, object], users: Mapping[str, Task], each: int
) -> tuple[list[str], dict[str, Tensor]]:
    """The first test rows of every user: (the user of each row, one batch padded on the right)."""
    model, tokenizer = base
    parts = [rows_of(task, "test", tokenizer, model, rows=each) for task in users.values()]
    rows = [range(number * each, (number + 1) * each) for number in range(len(parts))]
    batch = padded(parts, rows, left=False, padding=tokenizer.pad_token_id)
    return [name for name in users for _ in range(each)], batch


@torch.no_grad()
def scores(model: nn.Module, names: Sequence[str | None], batch: dict) -> tuple[Tensor, Tensor]:
    """One mixed pass: of each row (R,) the share of right words, and whether all are right."""
    with evaluating(model), route(model, names):
        batch = wrap(model, batch)  # soft prompts in
        logits = model(**batch).logits[:, :-1]  # position t answers for t + 1
    labels = batch["labels"][:, 1:]
    asked = labels != -100
    right = (logits.argmax(dim=-1) == labels) & asked
    return right.sum(dim=1) / asked.sum(dim=1), (right == asked).all(dim=1)


def who_answers(
    model: nn.Module, names: Sequence[str], batch: dict[str, Tensor], shifts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Rows of every user answered by every other's adapter: one mixed pass for each shift.

    names: the user of each row, users in blocks of equal length.

    Returns:
        (N, N) share of right words, of the rows of user i (a row) with adapter j (a column), and
        the same for rows that are right to the last word; nan where no shift leads.
    """
    users = list(dict.fromkeys(names))
    N, each = len(users), len(names) // len(users)
    words, exact = torch.full((N, N), torch.nan), torch.full((N, N), torch.nan)
    for shift in shifts:
        other = [users[(users.index(name) + shift) % N] for name in names]
        for table, rows in zip((words, exact), scores(model, other, batch), strict=True):
            means = rows.float().view(N, each).mean(dim=1)  # (N,)
            for i in range(N):
                table[i, (i + shift) % N] = means[i]
    return words, exact


def folder_bytes(folder: Path) -> int:
    """Of all files in it."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


# ---- every method ----


def mixed_against_alone(
    model: nn.Module, method: Method, users: int, batch: dict[str, Tensor]
) -> float | None:
    """`users` tuners of a method, each on one row of a batch, against one pass for each row.

    The largest difference between the logits, in float64; None where rows cannot be routed. Random
    numbers stand in the place of a training.
    """
    model = copy.deepcopy(model).double()
    names = [f"user{number}" for number in range(users)]
    with ExitStack() as stack:
        try:
            for number, name in enumerate(names):
                tuner = stack.enter_context(attached(model, method, name=name, seed=number))
                model.double()  # the new patches as well
                shake(tuner, number)
            with route(model, names):
                mixed = answers(model, batch)
        except ValueError:  # it trains the base's own numbers, which act on every row
            return None
        alone = []
        for row, name in enumerate(names):
            with route(model, [name]):
                alone += answers(model, {key: v[row : row + 1] for key, v in batch.items()})
        return largest_difference(alone, mixed)


def memory_of_a_request(model: nn.Module, method: Method) -> int:
    """Bytes of keys and values that a request needs beside those of its text.

    A prefix has a key and a value in every layer for each of its places; a soft prompt is that many
    tokens more, and each leaves a key and a value in every layer.
    """
    C, layers = model.config.width, model.config.layers
    with attached(model, method, seed=0) as tuner, torch.no_grad():
        numbers = 2 * layers * len(tuner.words or ()) * C
        for door in tuner.doors():
            if isinstance(door, MemoryDoor):
                gathered = door.gather(torch.zeros(1, 1, C))
                numbers += sum(part.numel() for part in gathered[:2])
    return 4 * numbers


# ---- merging by hand ----


@torch.no_grad()
def drift_by_hand(weight: Tensor, deltas: Sequence[Tensor], dtype: torch.dtype) -> list[float]:
    """W + D - D, adapter after adapter: how far W is from what it was, as a share of its length.

    weight (out, in); deltas of the same shape, one after the other added and subtracted again.
    """
    first = weight.to(dtype)
    now, drifts = first.clone(), []
    for delta in deltas:
        now += delta.to(dtype)
        now -= delta.to(dtype)
        drifts.append(((now.double() - first.double()).norm() / first.double().norm()).item())
    return drifts
