"""Seeded choices. Every kind of text has a random generator of its own, seeded by a string, so
that changing one kind leaves the bytes of the others alone."""

import random
import zlib
from collections.abc import Sequence
from typing import Any


def generator(*names: str) -> random.Random:
    """A random generator that depends on nothing but the names."""
    return random.Random("tinyland/" + "/".join(names))


def weighted(rng: random.Random, choices: Sequence[tuple[float, Any]]) -> Any:
    """One of ``choices``, a sequence of (weight, value)."""
    return rng.choices([value for _, value in choices], [weight for weight, _ in choices])[0]


def bucket(text: str, buckets: int = 10) -> int:
    """A number in 0..buckets-1 that depends on ``text`` alone: splits examples by construction."""
    return zlib.crc32(("tinyland " + text).encode()) % buckets
