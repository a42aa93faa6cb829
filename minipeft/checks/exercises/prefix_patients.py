"""Five prefixes seen from outside, of which four are ill: what is wrong with each?"""

from __future__ import annotations

from minipeft.checks.framework import diagnosis
from minipeft.course.prefix import PATIENTS

HINTS = {  # (patient, wrong cause): what speaks against it
    ("A", "mask"): "lambda is near 1: it is seen more than anything else",
    ("A", "detached"): "P_k and P_v get gradients, so nothing is cut off",
    ("A", "base"): "its base is the same after a step",
    ("A", "healthy"): "lambda near 1 leaves nothing of the words, and the loss shows it",
    ("B", "mask"): "lambda is far above 0",
    ("B", "detached"): "P_k and P_v get gradients",
    ("B", "size"): "lambda leaves room for the words, and P_k has a gradient",
    ("B", "base"): "its base is the same after a step",
    ("C", "detached"): "a detached prefix is read, so lambda is not 0 and the loss is another",
    ("C", "size"): "a large prefix takes attention, here lambda is 0",
    ("C", "base"): "its base is the same after a step",
    ("C", "healthy"): "nobody reads it: lambda is 0, and nothing it says can change the loss",
    ("D", "mask"): "lambda is far above 0",
    ("D", "detached"): "P_k and P_v get gradients",
    ("D", "size"): "lambda leaves room for the words, and P_k has a gradient",
    ("D", "healthy"): "look at the last column",
    ("E", "mask"): "lambda is far above 0, so the prefix is read",
    ("E", "size"): "lambda leaves room for the words",
    ("E", "base"): "its base is the same after a step",
    ("E", "healthy"): "it is read and never learns: both gradients are 0",
}

prefix_patients = diagnosis(
    "prefix_patients",
    "lambda, the gradients and the fingerprint tell every fault from the others",
    PATIENTS,
    HINTS,
)
