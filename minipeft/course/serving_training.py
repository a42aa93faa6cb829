"""How lesson 17 trains: a tuner for each user, all of them at once; rates are chosen on dev rows.

chosen = contest({"LoRA": rates}, loras_at_once(base, few, lora, 60), [0], together=True)["LoRA"]
adapters = train_many(base, users, lora, chosen.rate, 60)     # name -> {path: (A, B)}
run = prompts_at_once(base, users, mp.PromptTuning(8), 150)   # the arms EACH and SHARED
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.contexts import evaluating
from minipeft.course.runs import attached, rows_of
from minipeft.course.serving import Adapter, scores
from minipeft.doors.words import together as padded
from minipeft.methods.lora import LoRA
from minipeft.methods.method import Method
from minipeft.routing import route, wrap
from minipeft.tasks.tasks import Task
from minipeft.training.sweep import Run, together, train_side_by_side

EACH, SHARED = "a prompt each", "one prompt for all"
Job = tuple[str, float, int]  # arm, rate, seed, as `contest` gives them


def train_many(
    base: tuple[nn.Module, object],
    users: Mapping[str, Task],
    method: LoRA,
    rate: float,
    steps: int,
    batch_size: int = 8,
) -> dict[str, Adapter]:
    """One LoRA for each user, all of them trained in one pass per step (`training.sweep`).

    The seed of a user's first numbers, and of the order of its examples, is its number.
    """
    trained: list[dict] = [{} for _ in users]

    def keep(model: nn.Module, runs: int) -> list[dict]:
        for place, patch in model.minipeft.tuners["side_by_side"].patches:
            for number, A, B in zip(patch.who.tolist(), patch.A, patch.B, strict=True):
                trained[number][place.path] = A.detach().clone(), B.detach().clone()
        return [{} for _ in range(runs)]

    _in_one_pass(base, users, method, [rate], steps, batch_size, keep)
    return dict(zip(users, trained, strict=True))


def _in_one_pass(base, users, method: LoRA, rates, steps: int, batch_size: int, evaluate) -> list:
    """One LoRA for each user at every rate, side by side: their results, rate by rate.

    A user's number is the seed of its first numbers, and of the order of its examples.
    """
    model, tokenizer = base
    feeds = _feeds(users, tokenizer, batch_size)
    runs = [Run(method, rate, seed=number) for rate in rates for number in range(len(users))]
    return train_side_by_side(
        model, runs, lambda seed, step: feeds[seed](step), steps, evaluate=evaluate, progress=False
    )


def loras_at_once(
    base: tuple[nn.Module, object],
    users: Mapping[str, Task],
    method: LoRA,
    steps: int,
    batch_size: int = 8,
    rows: int = 20,
) -> Callable[[Sequence[Job]], list[dict]]:
    """A run for `contest(.., together=True)`: one LoRA for each user at every rate, in one pass.

    As in `train_many`; a result's "dev" is the mean over users of the loss on `rows` dev rows. All
    jobs have the same seeds, those of the users' numbers.
    """
    model, tokenizer = base
    dev = [rows_of(task, "dev", tokenizer, model, rows=rows) for task in users.values()]

    @torch.no_grad()
    def measured(model: nn.Module, runs: int) -> list[dict]:
        batch = together(dev * (runs // len(dev)))
        with evaluating(model):
            losses = row_losses(model(**batch).logits, batch["labels"])
        return [{"dev": loss} for loss in losses.view(runs, -1).mean(dim=1).tolist()]

    def run(jobs: Sequence[Job]) -> list[dict]:
        rates = [rate for _, rate, _ in jobs]
        results = _in_one_pass(base, users, method, rates, steps, batch_size, measured)
        losses = torch.tensor([result.scores["dev"] for result in results]).view(len(jobs), -1)
        return [{"dev": loss} for loss in losses.mean(dim=1).tolist()]

    return run


def _feeds(users: Mapping[str, Task], tokenizer, batch_size: int) -> list:
    """The training batches of every user; the seed of their order is the user's number."""
    return [
        task.batches("train", tokenizer, batch_size=batch_size, seed=number)
        for number, task in enumerate(users.values())
    ]


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss in nats over the labels of each row, (R,), of a causal model's logits (R, T, V)."""
    labels = labels[:, 1:]  # position t answers for token t + 1
    losses = F.cross_entropy(logits[:, :-1].mT, labels, reduction="none")  # (R, T - 1)
    return losses.sum(dim=1) / (labels != -100).sum(dim=1)


def prompts_at_once(
    base: tuple[nn.Module, object],
    users: Mapping[str, Task],
    method: Method,
    steps: int,
    batch_size: int = 8,
    rows: int = 20,
) -> Callable[[Sequence[Job]], list[dict]]:
    """A run for `contest(.., together=True)`: tuners of any method, all in one batch per step.

    The arm EACH has a tuner for each user, SHARED one for the rows of all users. Adam in a plain
    loop, each tuner's loss the mean over the labels of its rows: no row's loss depends on another's
    tuner, so each learns what it would have learnt alone, up to rounding.

    Args:
        method: one that leaves the language head alone.
        batch_size: training rows of every user in a step, the same ones for all jobs.
        rows: of dev and of test, of every user.

    A result has "dev", the mean over users of the loss, and "test", the exact match of every user.
    """
    model, tokenizer = base
    feeds = _feeds(users, tokenizer, batch_size)
    dev, test = (
        [rows_of(task, split, tokenizer, model, rows=rows) for task in users.values()]
        for split in ("dev", "test")
    )

    def repeated(parts: Sequence[dict], jobs: int) -> dict[str, Tensor]:
        """The rows of every user, once for each job, as one batch."""
        count = len(parts[0]["input_ids"])
        places = [range(count * n, count * (n + 1)) for n in range(jobs * len(parts))]
        return padded([*parts] * jobs, places, left=False, padding=tokenizer.pad_token_id)

    def run(jobs: Sequence[Job]) -> list[dict]:
        with ExitStack() as stack:
            groups, owners = [], []  # owners: the tuner's name, of each user of each job
            for number, (arm, rate, seed) in enumerate(jobs):
                for user in range(1 if arm == SHARED else len(users)):
                    name, first = f"job{number}-{user}", 1000 * seed + user
                    tuner = stack.enter_context(attached(model, method, name=name, seed=first))
                    groups.append({"params": list(tuner.parameters()), "lr": rate})
                    owners += [name] * (len(users) if arm == SHARED else 1)
            optimizer = torch.optim.Adam(groups)
            names = [name for name in owners for _ in range(batch_size)]
            for step in range(steps):
                batch = repeated([feed(step) for feed in feeds], len(jobs))
                tuner_losses(model, names, batch).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            names = [name for name in owners for _ in range(rows)]
            with torch.no_grad(), evaluating(model), route(model, names):
                batch = wrap(model, repeated(dev, len(jobs)))
                losses = row_losses(model(**batch).logits, batch["labels"])
            _, exact = scores(model, names, repeated(test, len(jobs)))
        losses = losses.view(len(jobs), -1).mean(dim=1).tolist()
        exact = exact.float().view(len(jobs), len(users), rows).mean(dim=2).tolist()
        return [{"dev": loss, "test": each} for loss, each in zip(losses, exact, strict=True)]

    return run


def tuner_losses(model: nn.Module, names: Sequence[str], batch: dict[str, Tensor]) -> Tensor:
    """Of each tuner in `names`, in their order, the mean loss over all labels of its rows.

    names: the tuner of each row, R. The language head runs at labels only.
    """
    known = {name: place for place, name in enumerate(dict.fromkeys(names))}
    with route(model, names):
        batch = wrap(model, batch)  # soft prompts in
        states = model.run(batch["input_ids"], batch["attention_mask"])  # (R, T, C)
    labels = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)  # position t answers for t + 1
    asked = labels != -100  # (R, T)
    losses = F.cross_entropy(model.head(states[asked]), labels[asked], reduction="none")  # (n,)
    places = torch.tensor([known[name] for name in names])
    owner = places[:, None].expand_as(labels)[asked]  # (n,)
    sums = losses.new_zeros(len(known)).index_add(0, owner, losses)
    return sums / owner.bincount(minlength=len(known))


def most_for_all(users: Mapping[str, Task]) -> float:
    """The largest share of all users' test rows that one function of the row can get right.

    To equal rows it gives equal answers, so of each row it gets those users who want the answer
    that most of them want.
    """
    wanted: dict[str, Counter] = defaultdict(Counter)
    for task in users.values():
        for row, target in task.test:
            wanted[row][target] += 1
    most = sum(answers.most_common(1)[0][1] for answers in wanted.values())
    return most / sum(answers.total() for answers in wanted.values())
