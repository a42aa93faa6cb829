"""Lesson 15: the best of several equal arms looks better than it is.

Of n independent normal numbers the largest lies, on average, at the mean over u in 0 .. 1 of that
number z below which a share u^(1/n) of the normal distribution lies.
"""

from __future__ import annotations

from statistics import NormalDist

from minipeft.checks.framework.numbers import NumberCheck

SPREAD, ARMS = 2.0, 13  # points; arms of the contest

COLUMN = "thirteen: that is the best of many contests (dim=0?): take the best arm of each one"


def best_of(arms: int, steps: int = 5000) -> float:
    """How many points the best of so many equal arms lies above the truth, on average."""
    shares = (((i + 0.5) / steps) ** (1 / arms) for i in range(steps))
    return SPREAD * sum(map(NormalDist().inv_cdf, shares)) / steps


first_by_luck = NumberCheck(
    "first_by_luck",
    "the best of thirteen equal means lies 1.67 standard deviations too high, of two 0.56",
    lambda: {"thirteen": best_of(ARMS), "two": best_of(2)},
    [
        (
            {"thirteen": 0.0},
            "thirteen: all means have no error on average, but the best was picked",
        ),
        (
            {"thirteen": 2.0},
            "thirteen: that is the standard deviation of one mean, picked by nobody",
        ),
        ({"thirteen": 1.668}, "thirteen: the noise has a standard deviation of 2 points, not of 1"),
        ({"thirteen": 3.984}, "thirteen: the best is the highest mean, not the one farthest away"),
        ({"thirteen": 6.67}, "thirteen: that is how far the best lies above the worst"),
        ({"thirteen": 0.5547}, "thirteen: that is the noise of the mean of all; take the largest"),
        (
            {"thirteen": 2.358},
            "thirteen: the noise is 2 points, not its square: do not take a root",
        ),
        (
            {"thirteen": 4.53},
            "thirteen: sqrt(2 ln n) is a bound, and is near where arms are very many",
        ),
        (
            {"thirteen": 2.852},
            "thirteen: one of 13 lies above that; take the mean of the best",
        ),
        (
            {"thirteen": 3.92},
            "thirteen: that is the edge of an interval for one mean",
        ),
        ({"thirteen": 1.857}, "thirteen: the noise is normal: torch.randn, not torch.rand"),
        *(({"thirteen": value}, COLUMN) for value in (7.7, 8.77, 9.73)),
        ({"two": 0.0}, "two: both means have no error on average, but the better one was picked"),
        ({"two": 2.0}, "two: that is the standard deviation of one mean, picked by nobody"),
        ({"two": 0.5642}, "two: the noise has a standard deviation of 2 points, not of 1"),
        (
            {"two": 2.257},
            "two: how far they lie apart is not asked, nor the farther one: take the higher",
        ),
        ({"two": 1.596}, "two: that is how far a single mean lies away, up or down"),
        ({"two": 2.355}, "two: sqrt(2 ln n) is a bound, and is near where arms are very many"),
        ({"two": 1.414}, "two: that is the noise of the mean of both; take the larger"),
        ({"two": 2.828}, "two: that is the noise of their difference; take the larger"),
        (
            {"two": 3.92},
            "two: that is the edge of an interval for one mean",
        ),
        ({"two": 1.333}, "two: the noise is normal: torch.randn, not torch.rand"),
        ({"two": 3.336}, "two: that is the best of thirteen"),
        ({"thirteen": 1.128}, "thirteen: that is the better one of two"),
    ],
    tolerance=0.03,
)
