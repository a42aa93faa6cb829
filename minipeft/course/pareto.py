"""Two aims at once: which points are beaten by no other one."""

from __future__ import annotations

from torch import Tensor


def pareto_front(costs: Tensor, scores: Tensor) -> Tensor:
    """costs (n,), lower is better; scores (n,), higher is better -> (n,), True on the front.

    A point is off the front if another one is at least as good in both, and better in one of them.
    So of two equal points neither beats the other.
    """
    as_good = (costs[:, None] <= costs) & (scores[:, None] >= scores)  # [i, j]: i as good as j
    better = (costs[:, None] < costs) | (scores[:, None] > scores)  # in one of them, (n, n)
    return ~(as_good & better).any(dim=0)
