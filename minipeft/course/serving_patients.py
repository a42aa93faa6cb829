"""Lesson 17: five servers of many adapters, four of them broken."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import nn

from minipeft.course.passport_facts import shake
from minipeft.course.runs import attached
from minipeft.methods.lora import LoRA
from minipeft.model.fingerprint import fingerprint
from minipeft.report import Table
from minipeft.routing import route
from minipeft.tuner import Tuner

CAUSES = {
    "cache": "keys and values of a text are kept under the text alone, not under text and user",
    "swap": "the next user's adapter comes while answers are still being written",
    "order": "rows are sorted by user for the pass, and answers are not sorted back",
    "merge": "adapters are merged, and never taken out again",
    "healthy": "nothing is wrong",
}
SERVERS = {"A": "order", "B": "merge", "C": "cache", "D": "healthy", "E": "swap"}
WORDS = 6  # that every answer has


class Server:
    """Answers requests (user, text) greedily; it may have a fault, one of CAUSES."""

    def __init__(self, model: nn.Module, tuners: Mapping[str, Tuner], fault: str) -> None:
        self.model, self.tuners, self.fault = model, tuners, fault
        self.kept: dict[tuple[int, ...], list] = {}  # text -> keys and values, of a faulty server

    @torch.no_grad()
    def answer(self, queue: Sequence[tuple[str, tuple[int, ...]]]) -> list[tuple[int, ...]]:
        """Texts of equal length -> WORDS ids for each."""
        if self.fault == "order":
            queue = sorted(queue)
        if self.fault == "merge":
            return self.merged(queue)
        if self.fault == "cache":
            return [self.remembered(user, text) for user, text in queue]
        users = [user for user, _ in queue]
        ids, cache = torch.tensor([text for _, text in queue]), []  # (R, T)
        for step in range(WORDS):
            if self.fault == "swap" and step == 1:
                known = list(self.tuners)
                users = [known[(known.index(user) + 1) % len(known)] for user in users]
            with route(self.model, users):
                logits = self.model(ids if not step else ids[:, -1:], cache=cache).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
        return [tuple(row) for row in ids[:, -WORDS:].tolist()]

    def remembered(self, user: str, text: tuple[int, ...]) -> tuple[int, ...]:
        """One row, whose text but for its last word was read once, by whoever came first."""
        with route(self.model, [user]):
            if text not in self.kept:
                self.kept[text] = []
                self.model(torch.tensor([text[:-1]]), cache=self.kept[text])
            cache = [{who: dict(pair) for who, pair in layer.items()} for layer in self.kept[text]]
            ids = list(text)
            for _ in range(WORDS):
                logits = self.model(torch.tensor([ids[-1:]]), cache=cache).logits
                ids.append(int(logits[0, -1].argmax()))
        return tuple(ids[-WORDS:])

    def merged(self, queue: Sequence[tuple[str, tuple[int, ...]]]) -> list[tuple[int, ...]]:
        """User after user: the change of its adapter is added to the weights, and stays there."""
        given: dict[int, tuple[int, ...]] = {}
        with ExitStack() as stack:
            for tuner in self.tuners.values():  # what is merged needs no detour
                stack.enter_context(tuner.disabled())
            for user, tuner in self.tuners.items():
                for place, patch in tuner.patches:
                    place.module.weight += patch.delta()
                for number in [i for i, (who, _) in enumerate(queue) if who == user]:
                    ids = torch.tensor([queue[number][1]])
                    for _ in range(WORDS):
                        ids = torch.cat([ids, self.model(ids).logits[:, -1:].argmax(-1)], dim=1)
                    given[number] = tuple(ids[0, -WORDS:].tolist())
        return [given[number] for number in range(len(queue))]


def queue_of(users: Sequence[str], texts: int = 3, seed: int = 0) -> list[tuple[str, tuple]]:
    """Every user asks every text once, users in turns: text (T,) as ids."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(20, 120, (texts, 6), generator=generator).tolist()
    total = texts * len(users)
    return [(users[i % len(users)], tuple(drawn[i % texts])) for i in range(total)]


def examine(model: nn.Module, which: str) -> dict[str, float]:
    """One of SERVERS seen from outside: a queue of requests, against each request alone.

    Four adapters of random numbers, three texts, and every user asks each of them.

    Returns:
        shares: "answers" as alone; "set": of the answers, whoever got them; "first word";
        "first to ask": of the requests that are the first with their text; "base": does the base
        have the same bits afterwards?
    """
    model = copy.deepcopy(model).eval()
    before = fingerprint(model)
    users = ["ann", "bob", "cyd", "dan"]
    queue = queue_of(users)
    with ExitStack() as stack:
        tuners = {}
        for number, user in enumerate(users):
            method = LoRA(rank=4, targets=("query", "value"))
            tuners[user] = stack.enter_context(attached(model, method, name=user, seed=number))
            shake(tuners[user], number, size=0.3)
        alone = [Server(model, tuners, "healthy").answer([request])[0] for request in queue]
        got = Server(model, tuners, SERVERS[which]).answer(queue)
    texts = [text for _, text in queue]
    first = [texts.index(text) == number for number, text in enumerate(texts)]
    same = [a == b for a, b in zip(alone, got, strict=True)]
    missing = list(got)
    in_set = [missing.remove(a) is None for a in alone if a in missing]
    return {
        "answers": sum(same) / len(queue),
        "set": len(in_set) / len(queue),
        "first word": sum(a[0] == b[0] for a, b in zip(alone, got, strict=True)) / len(queue),
        "first to ask": sum(s for s, f in zip(same, first, strict=True) if f) / sum(first),
        "base": float(fingerprint(model) == before),
    }


def servers_table(model: nn.Module) -> Table:
    """What can be seen of every server, see `examine`."""
    rows = []
    for which in SERVERS:
        seen = examine(model, which)
        shares = [f"{100 * seen[key]:.0f} %" for key in list(seen)[:-1]]
        rows.append((which, *shares, "yes" if seen["base"] else "no"))
    header = ("server", "answers as alone", "the same answers, whoever got them",
              "first words as alone", "as alone, of the first to ask a text",
              "base afterwards the same")  # fmt: skip
    notes = ["Twelve requests: four users, three texts, every user asks each text."]
    return Table("Five servers, one queue", header, rows, notes)
