"""Answers of lesson 14: what is wrong with ten runs, and the smallest step of half precision."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck, diagnosis
from minipeft.course.museum import FIRST, SECOND

ASKED = "all its labels ask for a word"
SHARP = "its tensors stand in float32"
CALLED = "every place of it is called"
COMES = "a gradient comes to every tensor"
NOT_ZERO = "no tensor has a gradient of all zeros"
FIRST_HINTS = {  # (run, wrong cause): what speaks against it
    ("A", "labels"): ASKED,
    ("A", "precision"): SHARP,
    ("A", "reach"): f"{CALLED}, and still there is no gradient",
    ("A", "zero start"): f"{NOT_ZERO}: to most there comes none at all",
    ("B", "checkpointing"): f"{COMES}: it is 0",
    ("B", "precision"): SHARP,
    ("B", "reach"): CALLED,
    ("B", "zero start"): "its loss is no number, and look how many labels are left",
    ("C", "checkpointing"): COMES,
    ("C", "labels"): ASKED,
    ("C", "reach"): COMES,
    ("C", "zero start"): NOT_ZERO,
    ("D", "checkpointing"): "compare how many of its places are called",
    ("D", "labels"): ASKED,
    ("D", "precision"): SHARP,
    ("D", "zero start"): NOT_ZERO,
    ("E", "checkpointing"): f"{COMES}: it is 0",
    ("E", "labels"): ASKED,
    ("E", "precision"): SHARP,
    ("E", "reach"): CALLED,
}

BLOCKS = "all its blocks have a patch"
FILE = "loaded from its file it answers the same"
MERGE = "merged by hand it answers the same, or cannot be merged at all"
ROWS = "none of its rows is padded"
EXPERTS = "it has no experts: look at the column of the largest weight"
PROMPT = "it has no patch in a block, but words of its own in front"
SECOND_HINTS = {
    ("F", "targets"): PROMPT,
    ("F", "head"): FILE,
    ("F", "tied weights"): MERGE,
    ("F", "experts"): EXPERTS,
    ("G", "padding"): ROWS,
    ("G", "head"): FILE,
    ("G", "tied weights"): MERGE,
    ("G", "experts"): EXPERTS,
    ("H", "padding"): ROWS,
    ("H", "targets"): BLOCKS,
    ("H", "tied weights"): MERGE,
    ("H", "experts"): EXPERTS,
    ("I", "padding"): ROWS,
    ("I", "targets"): "its patch stands at the head, in no block, as was meant",
    ("I", "head"): FILE,
    ("I", "experts"): EXPERTS,
    ("J", "padding"): ROWS,
    ("J", "targets"): BLOCKS,
    ("J", "head"): FILE,
    ("J", "tied weights"): MERGE,
}

room_one = diagnosis(
    "room_one",
    "labels, dtype, calls, gradients and what moved tell every fault",
    FIRST,
    FIRST_HINTS,
)
room_two = diagnosis(
    "room_two",
    "where the patches stand, and the answers merged, loaded and without padding, tell every fault",
    SECOND,
    SECOND_HINTS,
)

WEIGHT, GAP = 0.1, 2**-11  # 2**-4 <= 0.1 < 2**-3, and 7 bits behind the leading one

smallest_step = NumberCheck(
    "smallest_step",
    "half of the gap to the next number: 2^-4 times 2^-7, divided by 2",
    GAP / 2,
    [
        (GAP, "that is the gap itself: what lies beyond its middle is rounded up already"),
        (GAP / 4, "that is a quarter of the gap: a number is rounded to the nearer neighbour"),
        (2 * GAP, "0.1 lies between 2^-4 and 2^-3: the gap is counted from the lower of the two"),
        (2**-8, "that is for weights from 1 to 2: 0.1 has a smaller leading power of two"),
        (2**-7, "that is the gap at 1: 0.1 has a smaller leading power of two, and take its half"),
        (WEIGHT * 2**-8, "the gap is the same from 2^-4 to 2^-3: take 2^-4 times 2^-7, not 0.1"),
        (WEIGHT * 2**-7, "the gap is the same from 2^-4 to 2^-3: take 2^-4 times 2^-7, and half"),
        (-12, "that is the exponent: the step is 2 to the power of it, 2**-n in Python"),
        *(
            (number, "in Python ^ is no power, it works on single bits: write 2**-n")
            for number in (2 ^ -12, 2 ^ -11)
        ),
        (2**-4 * 2**-10 / 2, "those are the 10 bits of float16: bfloat16 has 7"),
        (2**-4 * 2**-23 / 2, "those are the 23 bits of float32: bfloat16 has 7"),
    ],
    tolerance=0.02,
)
