"""What `make test` takes a part of, so that it stays short: each lesson, each solution, run anew.

`WHOLE=1 make test` takes all; continuous integration does.
"""

import os
from collections.abc import Sequence

WHOLE = os.environ.get("WHOLE", "").strip() not in ("", "0")


def part_of(items: Sequence, count: int) -> list:
    """So many of them, evenly spread from the first to the last; all of them with WHOLE=1."""
    if WHOLE or len(items) <= count:
        return list(items)
    step = (len(items) - 1) / max(1, count - 1)
    return [items[round(step * index)] for index in range(count)]
