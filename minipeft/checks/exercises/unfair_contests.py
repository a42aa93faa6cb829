"""Five reports of one contest, four of which are unfair: what is wrong with each?"""

from __future__ import annotations

from minipeft.checks.framework import diagnosis
from minipeft.course.which_method_sheets import FAULTS

ON_DEV = "of both the rate with the lowest dev loss is taken"
MEANS = "what is reported of both is the mean of the three seeds"
SIZES = "the winner keeps less than the other one, or nearly as much"
INSIDE = "of neither does the best rate lie at the edge of those that were tried"
TRAPS = {
    "test": ON_DEV,
    "seeds": MEANS,
    "size": SIZES,
    "rates": INSIDE,
}
OWN = {  # what a letter is, seen by who says "fair"
    "A": "look at the rate that was taken: is it the one with the lowest dev loss?",
    "C": "compare what the two keep",
    "D": "look where the best rate of the first method lies among those that were tried",
    "E": "work out the means of the three seeds and compare them with what is reported",
}

HINTS = {  # (report, wrong cause): what speaks against it
    (letter, cause): OWN[letter] if cause == "fair" else TRAPS[cause]
    for letter, right in FAULTS.items()
    for cause in FAULTS.values()
    if cause != right
}

unfair_contests = diagnosis(
    "unfair_contests",
    "what was kept, what was tried, who chose, how many seeds: four questions to every report",
    FAULTS,
    HINTS,
)
