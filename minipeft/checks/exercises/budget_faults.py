"""Five runs of AdaLoRA seen from outside, of which four went wrong: what happened to each?"""

from __future__ import annotations

from minipeft.checks.framework import diagnosis
from minipeft.course.small_methods import FAULTS

FALLS = "its budget falls, and a run that {} keeps all its triplets"
NOBODY = FALLS.format("nobody tells of its steps")
EQUAL = FALLS.format("begins at its target")
LONG = FALLS.format("believes it has hardly begun")
READ = "its scores are not 0: the gradients were read"
ABOVE = "its target lies below what it has at first"

HINTS = {  # (run, wrong cause): what speaks against it
    ("A", "cleared"): READ,
    ("A", "healthy"): "at the end it keeps more than its target",
    ("A", "not called"): "it has scores, so somebody tells it of its steps",
    ("A", "equal"): ABOVE,
    ("B", "total"): LONG,
    ("B", "healthy"): "its scores are all 0: by what were the triplets chosen? look at the blocks",
    ("B", "not called"): NOBODY,
    ("B", "equal"): EQUAL,
    ("C", "total"): LONG,
    ("C", "cleared"): READ,
    ("C", "not called"): NOBODY,
    ("C", "equal"): EQUAL,
    ("D", "total"): "it has no scores at all: a run that is too long has some",
    ("D", "cleared"): "its budget never falls, and it has no scores, not even scores of 0",
    ("D", "healthy"): "at the end it keeps more than its target",
    ("D", "equal"): ABOVE,
    ("E", "total"): "its target is what it has: it would keep all, however long the run is",
    ("E", "cleared"): "its target is what it has: nothing is to be chosen, so nothing is scored",
    ("E", "healthy"): "it was to give up half of its triplets, and its target is all of them",
    ("E", "not called"): "somebody began to count: it has scores, of 0",
}

budget_faults = diagnosis(
    "budget_faults",
    "target, budget, scores and where the ranks are left tell every fault from the others",
    FAULTS,
    HINTS,
)
