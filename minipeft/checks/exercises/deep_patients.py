"""Five deep prompts on a tagging task, of which four are ill: what is wrong with each?"""

from __future__ import annotations

from minipeft.checks.framework import diagnosis
from minipeft.course.p_tuning_v2 import PATIENTS

AS_MANY = "it trains as many numbers as three others do"
GRADIENT = "its head has a gradient, so it is trained"
FALLS = "its loss falls to nearly 0 on what it was given"
HINTS = {  # (patient, wrong cause): what speaks against it
    ("A", "head"): GRADIENT,
    ("A", "layers"): AS_MANY,
    ("A", "size"): f"{FALLS}: it learns well, but what?",
    ("A", "healthy"): "look at the last two columns",
    ("B", "late"): "it gives few words the tag of the word before, and it does not learn well",
    ("B", "layers"): "with one layer the numbers of the prompts would be a quarter",
    ("B", "size"): "it trains fewer numbers than A, C and D: which are missing?",
    ("B", "healthy"): "the other prompts bring the loss far lower",
    ("C", "head"): GRADIENT,
    ("C", "late"): "all its words have the right tag",
    ("C", "layers"): AS_MANY,
    ("C", "size"): FALLS,
    ("D", "head"): GRADIENT,
    ("D", "late"): "it gives few words the tag of the word before",
    ("D", "layers"): AS_MANY,
    ("D", "healthy"): "it trains all numbers, and its loss stays high all the same",
    ("E", "head"): GRADIENT,
    ("E", "late"): "nearly all its words have the right tag",
    ("E", "size"): FALLS,
    ("E", "healthy"): "compare how many numbers are trained",
}

deep_patients = diagnosis(
    "deep_patients",
    "the count, the head's gradient, the loss and the last column tell every fault",
    PATIENTS,
    HINTS,
)
