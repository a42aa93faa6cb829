"""Five decoders of one block, seen by who influences whom: what is wrong with each?"""

from __future__ import annotations

from minipeft.checks.framework import diagnosis
from minipeft.course.attention import PATIENTS

MIXED = "such a cut gives a scattered picture, this one is regular"
HINTS = {  # (patient, wrong cause): what speaks against it
    ("A", "no mask"): "then every state would move with every token",
    ("A", "turned"): "its states do move with earlier tokens",
    ("A", "heads"): MIXED,
    ("A", "healthy"): "follow a row: the last token that moves it lies one beyond the diagonal",
    ("B", "off by one"): "then row 0 would move with token 1 and with no other of its future",
    ("B", "no mask"): "then every state would move with every token",
    ("B", "turned"): "then nothing below the diagonal would be blue, and all above it",
    ("B", "healthy"): "state 0 moves with tokens that come after it",
    ("C", "off by one"): "then one more place beside the diagonal would be blue in each row",
    ("C", "no mask"): "then every state would move with every token",
    ("C", "turned"): "its states move with earlier tokens, with no later one",
    ("C", "heads"): MIXED,
    ("D", "off by one"): "then most of what lies above the diagonal would be white",
    ("D", "no mask"): "then what lies below the diagonal would be blue, too",
    ("D", "heads"): MIXED,
    ("D", "healthy"): "its states move with later tokens, with no earlier one",
    ("E", "off by one"): "then most of what lies above the diagonal would be white",
    ("E", "turned"): "then what lies below the diagonal would be white",
    ("E", "heads"): MIXED,
    ("E", "healthy"): "a decoder's states must not move with later tokens",
}

seeing_patients = diagnosis(
    "seeing_patients",
    "one picture without any training tells every mask from the others, and a wrong cut too",
    PATIENTS,
    HINTS,
)
