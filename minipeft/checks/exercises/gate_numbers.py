"""Answers of lesson 11: what a union trains, what a shut gate leaves, and what ails four unions."""

from __future__ import annotations

import math

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
        ({"share": 1 / (1 + P)}, "share: that is one word among the pairs: S words stand there"),
        ({"share": 1 / P}, "share: that is one pair among the pairs; the words have weights too"),
        ({"share": 0.5}, "share: a gate of 0 is shut; one half is where gates start"),
        ({"share": S / (P + S)}, "share: that is what the words get"),
        ({"share": 1}, "share: the words have weights too, S of them"),
        (
            {"share": P / (P + math.e * S)},
            "share: the words have the score 0, and the weight e^0 = 1, too",
        ),
        ({"share": 100 * SHARE}, "share: that is per cent; write it as a number from 0 to 1"),
        (
            {"left": 1},
            "left: the pairs still take their share of attention, and what goes there finds zeros",
        ),
        ({"left": 0}, "left: the words keep their share of attention"),
        ({"left": SHARE}, "left: that is what falls on the zeros; how much does not?"),
        ({"left": 1 / (1 - SHARE)}, "left: the output becomes shorter, not longer"),
        ({"left": 100 * (1 - SHARE)}, "left: that is per cent; write it as a number from 0 to 1"),
        ({"left": 0.5}, "left: a gate of 0 is shut; one half is where gates start"),
        ({"left": 1 - P / S}, "left: the softmax divides by all P + S weights, not by S"),
        ({"left": S / P}, "left: the output becomes shorter: compare S with P + S, not with P"),
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

L, C, R, M = 12, 768, 8, 48  # of BERT-base; the paper's rank and bottleneck
PREFIX, LORA = 2 * P * C * L, R * (C + C) * 2 * L
ADAPTER, GATES = (2 * M * C + C + M) * L, 3 * (C + 1) * L

union_numbers = NumberCheck(
    "union_numbers",
    "in each layer 2 P C, r (C + C) for two maps, 2 m C + C + m, and three gates of C + 1",
    {"prefix": PREFIX, "lora": LORA, "adapter": ADAPTER, "gates": GATES},
    [
        ({"prefix": P * C * L}, "prefix: a key and a value, so twice as many"),
        ({"prefix": 2 * P * C}, "prefix: that is one layer, and there are L of them"),
        ({"prefix": P * C}, "prefix: a key and a value in each of the L layers"),
        ({"prefix": 12 * PREFIX}, "prefix: the heads together have C numbers: H counts in C"),
        ({"lora": LORA // 2 * 3}, "lora: query and value, two maps and not three"),
        ({"lora": LORA // 2}, "lora: that is one of the two maps, or A without B"),
        ({"lora": LORA // 4}, "lora: two maps in each layer, and each has an A and a B"),
        ({"lora": LORA // L}, "lora: that is one layer, and there are L of them"),
        ({"lora": LORA // L // 2}, "lora: that is one map: two in each of the L layers"),
        ({"lora": LORA * 2}, "lora: query and value, two maps and not four"),
        ({"lora": C * C * 2 * L}, "lora: that is W_0 itself, which is frozen: A is (r, C)"),
        ({"lora": (R + C) * 4 * L}, "lora: A is a matrix (r, C): r times C, not their sum"),
        ({"lora": LORA + 2 * L * C}, "lora: B A x has no bias"),
        ({"adapter": 2 * M * C * L}, "adapter: the biases are missing: m numbers and C numbers"),
        ({"adapter": (2 * M * C + C) * L}, "adapter: the bias of W_down is missing: m numbers"),
        ({"adapter": (2 * M * C + M) * L}, "adapter: the bias of W_up is missing: C numbers"),
        ({"adapter": (2 * M * C + 2 * C) * L}, "adapter: W_down gives m numbers, and so its bias"),
        ({"adapter": (2 * M * C + 2 * M) * L}, "adapter: W_up gives C numbers, and so its bias"),
        ({"adapter": 4 * M * C * L}, "adapter: one in a layer, with the biases m and C"),
        ({"adapter": (M * C + C + M) * L}, "adapter: two matrices, W_down and W_up"),
        ({"adapter": M * C * L}, "adapter: two matrices, W_down and W_up, and their biases"),
        ({"adapter": ADAPTER // L}, "adapter: that is one layer, and there are L of them"),
        ({"adapter": 2 * ADAPTER}, "adapter: one in a layer, behind the feed-forward layer alone"),
        ({"gates": (C + 1) * L}, "gates: three in each layer, one for each part"),
        ({"gates": 2 * (C + 1) * L}, "gates: three in each layer; the prefix has one as well"),
        (
            {"gates": (2 * (C + 1) + 1) * L},
            "gates: in an encoder the prefix's gate reads x as well, so it has C + 1 numbers, too",
        ),
        ({"gates": 4 * C * L}, "gates: three in each layer, and each has a bias"),
        ({"gates": 3 * C * L}, "gates: a gate has a bias, one number more than W_g"),
        ({"gates": 3 * (C + 1)}, "gates: that is one layer, and there are L of them"),
        ({"gates": C + 1}, "gates: that is one gate: three in each of the L layers"),
        ({"gates": 3 * L}, "gates: so many gates there are; each has W_g and a bias"),
        ({"gates": 3 * 2 * C * L}, "gates: b_g is one number, not C"),
        (
            {"gates": 4 * (C + 1) * L},
            "gates: query and value share the gate of their LoRA, so there are three in a layer",
        ),
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
