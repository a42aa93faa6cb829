"""The schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minipeft.checks.framework import OMIT, Case, Check, Draw, Trial, call, mistake
from minipeft.checks.framework.numbers import number


def inputs(case: Case, draw: Draw) -> dict:
    return {"steps": case.steps, "peak": case.peak, "warmup": case.warmup}


def curve(learning_rate: Callable, case: Case, given) -> Tensor:
    """The rates of step 0 to the last, in units of the peak: (steps + 1,)."""
    rates = [
        number(
            call(learning_rate, step, given.steps, given.peak, given.warmup, floor=case.floor),
            "learning_rate",
        )
        for step in range(given.steps + 1)
    ]
    return torch.tensor(rates, dtype=torch.float64) / given.peak


def schedule(rise: str = "right", fall: str = "right", scale: bool = True) -> Callable:
    """learning_rate with a mistake in its rise or in its fall."""
    rises = {
        "right": lambda s, w: min(1.0, (s + 1) / max(1, w)),
        "from 0": lambda s, w: min(1.0, s / max(1, w)),
        "none": lambda s, w: 1.0,
        "on": lambda s, w: (s + 1) / max(1, w),
        "reaches 1 late": lambda s, w: min(1.0, (s + 1) / (w + 1)),
    }
    cosine = lambda part: (1 + math.cos(math.pi * part)) / 2  # noqa: E731
    falls = {
        "right": lambda s, n, w, f: f + (1 - f) * cosine(s / n),
        "none": lambda s, n, w, f: 1.0,
        "no floor": lambda s, n, w, f: cosine(s / n),
        "on top": lambda s, n, w, f: f + cosine(s / n),
        "cut off": lambda s, n, w, f: max(f, cosine(s / n)),
        "line": lambda s, n, w, f: f + (1 - f) * (1 - s / n),
        "whole": lambda s, n, w, f: f + (1 - f) * cosine(2 * s / n),
        "quarter": lambda s, n, w, f: f + (1 - f) * math.cos(math.pi * s / n / 2),
        "upside down": lambda s, n, w, f: f + (1 - f) * (1 - cosine(s / n)),
        "after": lambda s, n, w, f: f + (1 - f) * cosine(max(0, s - w) / max(1, n - w)),
        "after, uncut": lambda s, n, w, f: f + (1 - f) * cosine((s - w) / max(1, n - w)),
        "fewer": lambda s, n, w, f: f + (1 - f) * cosine(s / max(1, n - w)),
        "double": lambda s, n, w, f: f + (1 - f) * 2 * cosine(s / n),
        "one early": lambda s, n, w, f: f + (1 - f) * cosine(s / max(1, n - 1)),
        "one late": lambda s, n, w, f: f + (1 - f) * cosine((s + 1) / n),
        "unstretched": lambda s, n, w, f: f + cosine(s / n) * 1.0 - f * cosine(0.0),
        "degrees": lambda s, n, w, f: f + (1 - f) * (1 + math.cos(180 * s / n)) / 2,
    }

    def learning_rate(step, steps, peak, warmup, floor=0.05):
        part = rises[rise](step, warmup) * falls[fall](step, steps, warmup, floor)
        return (peak if scale else 1.0) * part

    return learning_rate


MISTAKES = [
    mistake("the rate is not multiplied by peak", wrong=schedule(scale=False)),
    mistake(
        "the warm-up begins at 0, so the first step does nothing: count step + 1",
        wrong=schedule(rise="from 0"),
    ),
    mistake("the warm-up is missing", wrong=schedule(rise="none")),
    mistake(
        "the rise goes on beyond 1: it stays at 1 after the warm-up", wrong=schedule(rise="on")
    ),
    mistake(
        "the rise reaches 1 one step late: it is (step + 1) / warmup",
        wrong=schedule(rise="reaches 1 late"),
    ),
    mistake("there is no fall after the warm-up", wrong=schedule(fall="none")),
    mistake("the floor is ignored: the fall ends at floor * peak", wrong=schedule(fall="no floor")),
    mistake("the floor is added on top: the fall starts at 1", wrong=schedule(fall="on top")),
    mistake(
        "the floor cuts the cosine off: stretch the cosine between floor and 1",
        wrong=schedule(fall="cut off"),
    ),
    mistake("the fall is a straight line: it should be half a cosine", wrong=schedule(fall="line")),
    mistake(
        "the cosine runs through a whole period, so the rate rises again: cos(pi s / steps)",
        wrong=schedule(fall="whole"),
    ),
    mistake(
        "the fall is a quarter of a cosine: it should be half of one, (1 + cos(pi s / steps)) / 2",
        wrong=schedule(fall="quarter"),
    ),
    mistake("the cosine is upside down: 1 + cos, not 1 - cos", wrong=schedule(fall="upside down")),
    mistake(
        "the fall begins after the warm-up: here the cosine runs over all steps, from step 0",
        wrong=schedule(fall="after"),
    ),
    mistake(
        "the fall begins after the warm-up: here the cosine runs over all steps, from step 0",
        wrong=schedule(fall="after, uncut"),
    ),
    mistake(
        "the cosine runs over steps - warmup: divide by steps, as the equation says",
        wrong=schedule(fall="fewer"),
    ),
    mistake(
        "the division by 2 is missing: 1 + cos lies between 0 and 2",
        wrong=schedule(fall="double"),
    ),
    mistake(
        "the cosine runs over steps - 1: divide by steps, as the equation says",
        wrong=schedule(fall="one early"),
    ),
    mistake(
        "the cosine counts step + 1: only the rise does, the fall begins at step 0",
        wrong=schedule(fall="one late"),
    ),
    mistake(
        "brackets are missing, step + 1 / warmup: the rise is (step + 1) / warmup",
        wrong=lambda s, n, p, w, floor=0.05: (
            p * min(1.0, s + 1 / max(1, w)) * schedule(rise="none")(s, n, 1.0, w, floor)
        ),
    ),
    mistake(
        "brackets are missing around 1 + cos: (1 - floor) multiplies both, and both are halved",
        wrong=lambda s, n, p, w, floor=0.05: (
            p * min(1.0, (s + 1) / max(1, w)) * (1 + math.cos(math.pi * s / n) / 2)
        ),
    ),
    mistake(
        "the cosine of pi s is divided by steps: the cosine is of pi s / steps",
        wrong=lambda s, n, p, w, floor=0.05: (
            p
            * min(1.0, (s + 1) / max(1, w))
            * (floor + (1 - floor) * (1 + math.cos(math.pi * s) / n) / 2)
        ),
    ),
    mistake(
        "the fall is exponential, floor ** (s / steps): it should be half a cosine",
        wrong=lambda s, n, p, w, floor=0.05: (
            p * min(1.0, (s + 1) / max(1, w)) * max(floor, 1e-9) ** (s / n)
        ),
    ),
    mistake(
        "the fall is 1 / sqrt(step), as in the first transformer: it should be half a cosine",
        wrong=lambda s, n, p, w, floor=0.05: (
            p * min((s + 1) / max(1, w), math.sqrt(max(1, w) / (s + 1)))
        ),
    ),
    mistake(
        "ZeroDivisionError with a warm-up of 0 steps: divide by max(1, warmup)",
        when=lambda view: isinstance(view.error, ZeroDivisionError) and view.case.warmup == 0,
    ),
    mistake(
        "in the warm-up the cosine is left out: rise and fall are multiplied at every step",
        wrong=lambda s, n, p, w, floor=0.05: (
            p * (s + 1) / w if s < w else schedule(rise="none")(s, n, p, w, floor)
        ),
    ),
    mistake(
        "the floor holds the warm-up up, too: it belongs to the fall, and the rise multiplies both",
        wrong=lambda s, n, p, w, floor=0.05: max(floor * p, schedule()(s, n, p, w, floor)),
    ),
    mistake(
        "the floor stands outside of the warm-up: the rise multiplies the whole fall, floor too",
        wrong=lambda s, n, p, w, floor=0.05: (
            p * (floor + (1 - floor) * schedule(fall="no floor")(s, n, 1.0, w))
        ),
    ),
    mistake(
        "the floor is not multiplied by peak: it is a share of the peak",
        wrong=lambda s, n, p, w, floor=0.05: (
            floor + p * (1 - floor) * schedule(fall="no floor")(s, n, 1.0, w)
        ),
    ),
    mistake(
        "the rise is rounded down (//), so there is none: divide with /",
        wrong=lambda s, n, p, w, floor=0.05: (
            p * min(1, (s + 1) // max(1, w)) * schedule(rise="none")(s, n, 1.0, w, floor)
        ),
    ),
    mistake(
        "the floor is multiplied by peak twice: it is a share of the peak",
        wrong=lambda s, n, p, w, floor=0.05: schedule()(s, n, p, w, p * floor),
    ),
    mistake(
        "the cosine takes radians: math.cos(math.pi * ...), not degrees",
        wrong=schedule(fall="degrees"),
    ),
]

learning_rate = Check(
    "learning_rate",
    "tiny_transformer.pretraining:learning_rate",
    "rises in equal steps from peak / warmup to peak, then falls as half a cosine to the floor",
    [
        Trial(
            "the rate of every step",
            inputs,
            curve,
            axes={
                "steps": (100, 10, 3, 1),
                "peak": (0.01, 1.0, 2.5),
                "warmup": (20, 5, 1, 0, 200),
                "floor": (OMIT, 0.1, 0.0, 0.5),
            },
            dtypes=("float32",),
            layouts=("plain",),
            gradients=("on",),
            rounds=True,  # one may work with tensors of float32
        )
    ],
    MISTAKES,
)
