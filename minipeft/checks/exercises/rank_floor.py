"""The floor of Eckart and Young as a number, worked out before any student is trained."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

VALUES, RANK, MOST = (4.0, 3.0, 2.0, 1.0), 2, 0.05
SQUARES = [value**2 for value in VALUES]
ERROR = sum(SQUARES[RANK:])
SHARE = ERROR / sum(SQUARES)
ENOUGH = next(r for r in range(5) if sum(SQUARES[r:]) <= MOST * sum(SQUARES))

rank_floor = NumberCheck(
    "rank_floor",
    "the squares of the singular values that are left: 5 of 30; and 5 % is reached with 3 of them",
    {"error": ERROR, "share": SHARE, "rank": ENOUGH},
    [
        (
            {"error": 3},
            "error: the singular values that are left are squared before they are added",
        ),
        ({"error": ERROR**0.5}, "error: that is the length; the error is its square"),
        ({"error": 25}, "error: that is what the student keeps, not what it leaves"),
        ({"error": 7}, "error: that adds up what is kept; take what is left, squared"),
        ({"error": 30}, "error: that is the error without any LoRA: rank 2 takes the largest two"),
        ({"error": 4}, "error: that is the next one alone; all the smaller ones are left, too"),
        (
            {"error": 2},
            "error: that is the largest value left; add the squares of all that is left",
        ),
        ({"error": 1}, "error: rank 2 keeps two values, so two are left, not one"),
        ({"error": 14}, "error: rank 2 keeps two values, so two are left, not three"),
        ({"error": 0}, "error: that would need rank 4, the rank of the change itself"),
        ({"error": 1.25}, "error: a sum of squares, not their mean"),
        ({"share": 25 / 30}, "share: that is what is kept; asked is what is left"),
        ({"share": 0.3}, "share: of the squares, 5 of 30, not of the values, 3 of 10"),
        ({"share": 0.5}, "share: two of four values, but the large ones weigh more: take squares"),
        ({"share": SHARE**0.5}, "share: of the squared length, not of the length"),
        ({"share": 0.2}, "share: of the whole, 30, not of what is kept, 25"),
        ({"share": 100 * SHARE}, "share: between 0 and 1, not in per cent"),
        ({"rank": 2}, "rank: with rank 2 one sixth is left, which is more than 5 %"),
        ({"rank": 4}, "rank: with rank 3 one thirtieth is left: that is enough"),
        ({"rank": 1}, "rank: with rank 1 nearly half is left"),
        ({"rank": 38}, "rank: 5 % of what? r goes from 1 to 4, the rank of the change"),
    ],
    tolerance=0.01,
)
