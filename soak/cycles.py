"""Attach, detach and route thousands of times, and from several threads at once."""

from __future__ import annotations

import gc
import random
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

import minipeft as mp
from soak import small
from soak.bases import Bases
from soak.ledger import Clock, Line

COUNT = 10_000
PASSES = 300  # of every thread
ROOM = 24  # MiB that memory may grow by, after the first cycles: the allocator's own


def resident() -> float:
    """MiB of memory that this process has now."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def cycles(count: int, clock: Clock) -> Line:
    """Attach one or two tuners, route, merge, save and load now and then, detach."""
    line = Line("attach, route, detach")
    begun = time.monotonic()
    rng = random.Random(0)
    bases, batch = Bases(), small.batch(rows=2)
    answers = {name: small.logits(model, batch) for name, model in bases.models.items()}
    first = None
    with tempfile.TemporaryDirectory() as place:
        for number in range(count):
            if clock.over():
                break
            layout, names = rng.choice(list(bases.models)), rng.sample(list(small.METHODS), 2)
            model = bases.models[layout]
            added = [name for name in names if name not in small.OWN_WEIGHTS]
            try:
                tuners = {
                    name: mp.attach(model, small.METHODS[name], name, seed=number) for name in added
                }
                with mp.route(model, [added[0] if added else None, None]):
                    routed = small.logits(model, batch)
                if not torch.allclose(routed[1, :5], answers[layout][1, :5], atol=1e-5):
                    line.fail(f"{number}, {names} on {layout}", "a row of the base has changed")
                if number % 20 == 0 and added:
                    tuners[added[0]].save(Path(place) / "tuner")
                    tuners.pop(added[0]).detach()
                    tuners["again"] = mp.load(model, Path(place) / "tuner", "again")
                for tuner in tuners.values():
                    if isinstance(tuner.method, mp.LoRA | mp.IA3) and number % 3 == 0:
                        tuner.disable().enable()
                for name in rng.sample(list(tuners), len(tuners)):
                    tuners[name].detach()
            except Exception as error:
                line.fail(f"{number}, {names} on {layout}", f"{type(error).__name__}: {error}")
                for tuner in mp.tuners(model).values():
                    tuner.detach()
            else:
                line.worked += 1
            bases.check(layout, line, str(number), whole=False)
            if number == min(count // 4, 500):
                first = resident()
    for layout, model in bases.models.items():
        if not torch.equal(small.logits(model, batch), answers[layout]):
            line.fail(layout, "the base answers differently")
        bases.check(layout, line, layout, whole=True)
    grown = resident() - (first or resident())
    line.note = f"memory grew by {grown:.1f} MiB"
    if grown > ROOM:
        line.fail("memory", line.note)
    line.seconds = time.monotonic() - begun
    return line


def threads(passes: int, clock: Clock) -> Line:
    """Threads that route to different tuners, or to none, at once: each must get its own."""
    line = Line("threads with different tuners")
    begun = time.monotonic()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # hand over as often as can be
    for first, second in (
        *(("LoRA", "Prefix"), ("UniPELT", "Adapter"), ("PromptTuning", "IA3")),
        *(("PTuningV2", "Combined"), ("LoRA", "DoRA")),
    ):
        model = small.base()
        for name in (first, second):
            small.shake(mp.attach(model, small.METHODS[name], name, seed=0), seed=len(name))
        model.eval()
        plans = [[first, first], [second, None], [None, first, second], None]
        batches = [small.batch(seed, rows=len(plan or "two")) for seed, plan in enumerate(plans)]

        def answer(plan, batch, model=model):
            if plan is None:  # both tuners act on every row
                return small.logits(model, batch)
            with mp.route(model, plan):
                return small.logits(model, batch)

        wanted = [answer(*pair) for pair in zip(plans, batches, strict=True)]

        def work(
            number, plans=plans, wanted=wanted, batches=batches, ask=answer, pair=(first, second)
        ):
            for _ in range(passes):
                try:
                    given = ask(plans[number], batches[number])
                except Exception as error:
                    line.fail(pair, f"{type(error).__name__}: {error}")
                    return
                if not torch.equal(given, wanted[number]):
                    line.fail(pair, f"thread {number} got the answer of another")
                    return
                line.worked += 1
                if clock.over():
                    return

        every = [threading.Thread(target=work, args=(number,)) for number in range(len(plans))]
        for thread in every:
            thread.start()
        for thread in every:
            thread.join()
    sys.setswitchinterval(interval)
    line.seconds = time.monotonic() - begun
    return line


def soak(count: int | None, clock: Clock) -> list[Line]:
    """Passes in many threads at once, then attach, use and detach in cycles; a line for each."""
    torch.set_num_threads(1)
    some = PASSES if count is None else max(5, count // 30)
    return [threads(some, clock), cycles(COUNT if count is None else count, clock)]
