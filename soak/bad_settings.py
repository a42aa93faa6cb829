"""Settings of every method with one or more values that nobody should give, and then attach."""

from __future__ import annotations

import dataclasses
import math
import random
import resource
import time

import minipeft as mp
from minipeft import methods
from soak import small
from soak.bases import Bases
from soak.ledger import Clock, Line

COUNT = 6000
LONG = "x" * 3000
VALUES = (
    *(0, 1, 2, 3, 5, 17, 23, 24, 25, 64, 300, -1, -8, 2**31, 2**40, 2**63, 10**30),
    *(0.0, 0.5, 1.0, 1.5, -0.1, 1e-30, 1e30, math.nan, math.inf, -math.inf, 1e308),
    *(True, False, None, "", "query", "no_such_module", "2", "é\n", LONG, "(", "layout", "peft"),
    *((), ("query",), ("query", "query"), ("qkv",), ("down", "up"), ("nothing",), (0,), (1, 1)),
    *((-1,), (99,), (None,), (1.5,), ("",), ([],), [1, 2], ["query", "value"], ("P", "{x}")),
    *(("{x}",), ("P", "P"), ("P", "{x}", 10**9), ("{x}", "{x}", "P"), ("P", "{x}", -3)),
    *({}, {"query": 0}, {"query": 3}, {"nothing": 3}, {"query": "a"}, {3: 3}, {"query": 1e40}),
    *({"query": None}, b"bytes", object(), LONG.encode(), 1j, set(), {"a"}, range(3), print),
    *("houlsby", "parallel", "relu", "infix", "after-bos", "end", "text", "labels", "words", "mlp"),
    *("nf4", "int4", "float16", "all-linear", (0.5, 0.5), (0.5,), (2.0, 0.1), ("encoder",)),
    *(("cross",), ("decoder",), (10**30,), (2**63,), (5, 6, 7), (39, 40), ((1, 2), (3,))),
)
KINDS = [
    kind
    for name in methods.__all__
    if isinstance(kind := getattr(methods, name), type)
    and issubclass(kind, methods.Method)
    and dataclasses.is_dataclass(kind)
]


def settings(kind: type, rng: random.Random) -> dict:
    """Some fields of a method, mostly of a wrong kind or size."""
    fields = [field.name for field in dataclasses.fields(kind)]
    chosen = rng.sample(fields, min(len(fields), rng.choice((1, 1, 2, 3))))
    made = {name: rng.choice(VALUES) for name in chosen}
    if kind is mp.Combined and rng.random() < 0.8:
        parts = [rng.choice([*small.METHODS.values(), None, 3]) for _ in range(rng.choice((1, 2)))]
        made["methods"] = tuple(parts)
    if kind is mp.PTuning and rng.random() < 0.5:
        made.setdefault("length", rng.choice(VALUES))
    if kind in (mp.Prefix, mp.PTuningV2, mp.PromptTuning) and rng.random() < 0.2:
        made["length"] = rng.choice((20, 24, 30, 100))  # the model knows 24 positions
    return made


def use(model, kind: type, made: dict, rng: random.Random) -> None:
    """Attach, call, and detach whatever comes of it."""
    tuner = mp.attach(model, kind(**made), seed=0)
    try:
        model(**small.batch(rows=2)).loss.backward()
        tuner.report()
    finally:
        tuner.detach()
        model.zero_grad()


def soak(count: int | None, clock: Clock) -> list[Line]:
    """A line for each method."""
    lines = {kind: Line(f"settings: {kind.__name__}") for kind in KINDS}
    bases = Bases()
    rng = random.Random(0)
    with at_most(3):
        for number in range(COUNT if count is None else count):
            if clock.over():
                break
            begun = time.monotonic()
            kind = KINDS[number % len(KINDS)]
            layout = rng.choice(list(bases.models))
            model, made, line = bases.models[layout], settings(kind, rng), lines[kind]
            trial = f"{number} on {layout}: {str(made)[:200]}"
            line.attempt(trial, lambda m=model, k=kind, s=made: use(m, k, s, rng))
            bases.check(layout, line, trial, whole=number % 10 == 0)
            line.seconds += time.monotonic() - begun
    for layout in bases.models:
        bases.check(layout, lines[KINDS[0]], layout, whole=True)
    return list(lines.values())


class at_most:
    """No more than so many GiB of address space above what is used now."""

    def __init__(self, gib: float) -> None:
        self.gib = gib

    def __enter__(self) -> None:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        self.before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + int(self.gib * 2**30), self.before[1]))

    def __exit__(self, *_) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self.before)
