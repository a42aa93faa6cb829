"""Seeded choices that keep account of how surprising they were.

Every kind of text has a random generator of its own, seeded by a string, so that changing one kind
leaves the bytes of the others alone. The generator sums -log p of every choice: what it took to
draw a document, in nats, is the least that any model can pay for it (see floor.py).
"""

import math
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

TEST = 0  # texts of this bucket of ten are kept out of the corpus


class Generator(random.Random):
    """random.Random with a sum of -log p in `nats`."""

    nats = 0.0

    def choice(self, values: Sequence) -> Any:
        value = super().choice(values)
        self.nats -= math.log(list(values).count(value) / len(values))
        return value

    def sample(self, values: Sequence, k: int) -> list:
        self.nats += math.lgamma(len(values) + 1) - math.lgamma(len(values) - k + 1)
        return super().sample(values, k)

    def shuffle(self, values: list) -> None:
        self.nats += math.lgamma(len(values) + 1)
        super().shuffle(values)

    def weighted(self, choices: Sequence[tuple[float, Any]]) -> Any:
        """One of ``choices``, a sequence of (weight, value)."""
        weights = [weight for weight, _ in choices]
        place = self.choices(range(len(choices)), weights)[0]
        self.nats -= math.log(weights[place] / sum(weights))
        return choices[place][1]

    def chance(self, p: float) -> bool:
        """True with probability ``p``."""
        happens = self.random() < p
        self.nats -= math.log(p if happens else 1 - p)  # p = 1 always happens, p = 0 never
        return happens

    def until(self, make: Callable, text: Callable[[Any], str], test: bool = False) -> Any:
        """Draw ``make(self)`` until its text is kept for testing (``test``) or free to use."""
        before = self.nats
        while True:
            self.nats = before
            one = make(self)
            if (bucket(text(one)) == TEST) == test:
                self.nats += math.log(0.1 if test else 0.9)
                return one


def generator(*names: str) -> Generator:
    """A random generator that depends on nothing but the names."""
    return Generator("tinyland/" + "/".join(names))


def bucket(text: str, buckets: int = 10) -> int:
    """A number in 0..buckets-1 that depends on ``text`` alone: splits examples by construction."""
    return zlib.crc32(("tinyland " + text).encode()) % buckets
