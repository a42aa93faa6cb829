"""Five adapters in folders, opened by a short script: four times something is wrong."""

from __future__ import annotations

from minipeft.checks.framework import diagnosis
from minipeft.course.checkpoints_patients import FOLDERS

TAKEN = "all tensors of its file were taken"
BITS = "its base has the author's bits"
LENGTH = "what it adds to the weights is as long as the author's"
HINTS = {  # (folder, wrong cause): what speaks against it
    ("A", "names"): TAKEN,
    ("A", "scale"): "a wrong scale makes the change too short or too long, not 0",
    ("A", "base"): BITS,
    ("A", "healthy"): "it answers as if there were no adapter",
    ("B", "names"): TAKEN,
    ("B", "early"): "it changes the weights, and one of zeros would not",
    ("B", "base"): BITS,
    ("B", "healthy"): "its change is not as long as the author's",
    ("C", "names"): TAKEN,
    ("C", "early"): "it changes the weights, and one of zeros would not",
    ("C", "scale"): LENGTH,
    ("C", "base"): BITS,
    ("D", "early"): "look how many of its tensors were taken",
    ("D", "scale"): "a wrong scale makes the change too short or too long, not 0",
    ("D", "base"): BITS,
    ("D", "healthy"): "it answers as if there were no adapter",
    ("E", "names"): TAKEN,
    ("E", "early"): "it changes the weights, and one of zeros would not",
    ("E", "scale"): LENGTH,
    ("E", "healthy"): "it does not answer as the author's did",
}

folder_patients = diagnosis(
    "folder_patients",
    "tensors taken, length of the change and bits of the base tell every fault from the others",
    FOLDERS,
    HINTS,
)
