"""Two answers of lesson 11: what a gate at 0 leaves of attention, and what ails four unions."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck, diagnosis
from minipeft.course.unipelt import PATIENTS

P, S = 10, 30
SHARE = P / (P + S)

closed_gate = NumberCheck(
    "closed_gate",
    "a key of zeros has the score 0 and the weight e^0 = 1: P of P + S; the rest is left",
    {"share": SHARE, "left": 1 - SHARE, "lora": 1},
    [
        (
            {"share": 0},
            "share: the pairs hold zeros now, but their scores are 0 and not minus infinity: e^0 = "
            "1 stands in the softmax for each",
        ),
        (
            {"share": P / S},
            "share: the softmax divides by all P + S weights, those of the pairs too",
        ),
        ({"share": 1 / (P + S)}, "share: that is one pair, and there are P of them"),
        ({"share": 1 / S}, "share: that is one of S words without any pair"),
        ({"share": 1 / (1 + S)}, "share: there are P pairs, not one"),
        ({"share": 0.5}, "share: a gate of 0 is shut; one half is where gates start"),
        ({"share": S / (P + S)}, "share: that is what the words get"),
        ({"share": 1}, "share: the words have weights too, S of them"),
        ({"share": 100 * SHARE}, "share: that is per cent; write it as a number from 0 to 1"),
        (
            {"left": 1},
            "left: the pairs still take their share of attention, and what goes there finds zeros",
        ),
        ({"left": 0}, "left: the words keep their share of attention"),
        ({"left": SHARE}, "left: that is what falls on the zeros; how much does not?"),
        ({"left": 1 / (1 - SHARE)}, "left: the output becomes shorter, not longer"),
        ({"left": 100 * (1 - SHARE)}, "left: that is per cent; write it as a number from 0 to 1"),
        ({"left": (1 - SHARE) / S}, "left: that is one word, and there are S of them"),
        (
            {"lora": 0},
            "lora: the gate stands before B A x alone, W0 x does not pass it",
        ),
        ({"lora": 0.5}, "lora: a gate of 0 is shut; one half is where gates start"),
        (
            {"lora": 1 - SHARE},
            "lora: it is no part of a softmax: nothing is shared, h + 0 dh = h",
        ),
        ({"lora": SHARE}, "lora: it is no part of a softmax: nothing is shared, h + 0 dh = h"),
        ({"lora": 100}, "lora: that is per cent; write it as a number from 0 to 1"),
    ],
)

HINTS = {  # (patient, wrong cause): what speaks against it
    ("A", "padding"): "padding moves no logit of it",
    ("A", "detached"): "gates that are cut off stay near one half, where they began; these do not",
    ("A", "outside"): "with its gates at 0 it is the base",
    ("A", "healthy"): "its gates get no gradient, and they say 0 or 1 where a sigmoid is between",
    ("B", "padding"): "padding moves no logit of it",
    ("B", "detached"): "its gates get a gradient",
    ("B", "rounded"): "its gates say more than 0 and 1, and get a gradient",
    ("B", "healthy"): "a shut gate leaves h as it is, so at 0 nothing may be moved",
    ("C", "padding"): "padding moves no logit of it",
    ("C", "detached"): "its gates get a gradient",
    ("C", "rounded"): "its gates say more than 0 and 1, and get a gradient",
    ("C", "outside"): "with its gates at 0 it is the base",
    ("D", "detached"): "its gates get a gradient",
    ("D", "rounded"): "its gates say more than 0 and 1, and get a gradient",
    ("D", "outside"): "with its gates at 0 it is the base",
    ("D", "healthy"): "a text must get the same answer beside a longer one: look at padding",
    ("E", "padding"): "padding moves no logit of it",
    ("E", "rounded"): "its gates say numbers near one half",
    ("E", "outside"): "with its gates at 0 it is the base",
    ("E", "healthy"): "its gates get no gradient: they stay where they began, near one half",
}

gate_patients = diagnosis(
    "gate_patients",
    "range, gradient, padding and the shut gate tell every fault from the others",
    PATIENTS,
    HINTS,
)
