"""Five batches, of which four are ill: what is wrong with each?"""

from __future__ import annotations

from minipeft.checks.framework import diagnosis
from minipeft.course.pretraining import PATIENTS

MASKED = "it is for masked words: there is no next word to be asked"
CAUSAL = "it is causal: nothing need be hidden, the model does not see the word after"
NO_PAD = "its labels are · at <pad>"
HINTS = {  # (patient, wrong cause): what speaks against it
    ("A", "shifted"): "each label stands where its word stands",
    ("A", "padding"): NO_PAD,
    ("A", "all asked"): "its labels are · at most places",
    ("A", "healthy"): "compare inputs and labels where something is asked",
    ("B", "nothing hidden"): CAUSAL,
    ("B", "padding"): NO_PAD,
    ("B", "all asked"): "a causal batch asks for every word",
    ("B", "healthy"): "the decoder shifts the labels itself: which word does `the` get then?",
    ("C", "nothing hidden"): CAUSAL,
    ("C", "shifted"): "each label stands where its word stands",
    ("C", "all asked"): "a causal batch asks for every word, but for more than words?",
    ("C", "healthy"): "look at the end of the row",
    ("D", "nothing hidden"): "where a word is asked for there stands <mask>",
    ("D", "shifted"): "each label stands where its word stood",
    ("D", "padding"): NO_PAD,
    ("D", "all asked"): "its labels are · where the word can be seen",
    ("E", "nothing hidden"): "some words are hidden; look at the others",
    ("E", "shifted"): MASKED,
    ("E", "padding"): NO_PAD,
    ("E", "healthy"): "what is asked for at `france`, which can be seen?",
}

batch_patients = diagnosis(
    "batch_patients",
    "inputs and labels side by side tell what a model would learn, before it learns it",
    PATIENTS,
    HINTS,
)
