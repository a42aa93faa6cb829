"""Lesson 11: many comparisons in one table, and what one of them is worth."""

from __future__ import annotations

from minipeft.checks.framework.numbers import NumberCheck

INSIDE, COUNT = 0.95, 9  # each interval holds the truth so often; intervals

nine_intervals = NumberCheck(
    "nine_intervals",
    "none of nine: 0.95^9; so that all nine hold in 95 of 100 tables, each must in 99.4",
    {"one": 1 - INSIDE**COUNT, "level": 100 * INSIDE ** (1 / COUNT)},
    [
        ({"one": 0.45}, "one: such chances cannot be added: how likely is it that none does?"),
        ({"one": 1 - INSIDE**3}, "one: that is for three: each of the three rows has three"),
        ({"one": 1 - INSIDE**8}, "one: that is for eight, and there are nine"),
        ({"one": 1 - INSIDE**10}, "one: that is for ten, and there are nine"),
        ({"one": INSIDE}, "one: that is how often a single interval holds 0"),
        ({"one": INSIDE**COUNT}, "one: that is how likely it is that none of them does"),
        ({"one": 0.05}, "one: that is a single interval, and there are nine"),
        ({"one": 9 * 0.05 * 0.95**8}, "one: that is exactly one of them: two or more count, too"),
        ({"one": 100 - 100 * INSIDE**COUNT}, "one: a number from 0 to 1 is asked, not percent"),
        ({"one": 0.05**9}, "one: that is how likely it is that all nine do"),
        ({"level": 95.0}, "level: with 95 % for each it happens far more often than in 5 %"),
        ({"level": 99.0}, "level: with 99 % for each it still happens in 9 % of the tables"),
        (
            {"level": 100 * INSIDE ** (1 / 3)},
            "level: that is for three: each row has three",
        ),
        ({"level": 100 * INSIDE ** (1 / 8)}, "level: that is for eight, and there are nine"),
        ({"level": 100 * INSIDE ** (1 / 10)}, "level: that is for ten, and there are nine"),
        ({"level": (100 * INSIDE) ** (1 / COUNT)}, "level: take the root of 0.95, then per cent"),
        ({"level": 5.0}, "level: that is how often it shall happen in a whole table"),
        ({"level": 1 - INSIDE ** (1 / COUNT)}, "level: that is what may lie outside"),
        ({"level": INSIDE ** (1 / COUNT)}, "level: percent are asked"),
        ({"level": 100 - 100 * INSIDE ** (1 / COUNT)}, "level: that is what may lie outside"),
        ({"level": 5 / 9}, "level: that is what may lie outside"),
        ({"level": 100 * INSIDE**COUNT}, "level: that is how often all nine hold at 95 % each"),
        ({"level": 100 * (1 - 0.05**9)}, "level: not all nine have to fail, one is enough"),
    ],
    tolerance=1e-3,
)
