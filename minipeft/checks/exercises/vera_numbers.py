"""What VeRA trains beside what LoRA trains, on a model of 7 billion numbers."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck, diagnosis
from minipeft.course.capstone import PATIENTS

L, C, MAPS = 32, 4096, 64
LORA, VERA, FROZEN = MAPS * 16 * 2 * C, MAPS * (256 + C), 256 * 2 * C

vera_numbers = NumberCheck(
    "vera_numbers",
    "r (in + out) for each map with LoRA, r + out with VeRA, and A and B once",
    {"LoRA": LORA, "VeRA": VERA, "frozen": FROZEN},
    [
        ({"LoRA": LORA // 2}, "LoRA: that is one map in each layer: query and value are two"),
        ({"LoRA": LORA // 32}, "LoRA: that is one layer, and there are 32"),
        ({"LoRA": LORA // 64}, "LoRA: that is one map: there are two in each of 32 layers"),
        ({"LoRA": MAPS * 256 * 2 * C}, "LoRA: that is with VeRA's rank: LoRA's is 16"),
        ({"LoRA": MAPS * C * C}, "LoRA: that is all of the frozen maps"),
        ({"LoRA": MAPS * (16 + 2 * C)}, "LoRA: A is (r, in) and B is (out, r): r times each width"),
        ({"LoRA": MAPS * (16 + C)}, "LoRA: r times the widths; VeRA's count is a sum"),
        ({"VeRA": MAPS * C}, "VeRA: that is b alone: d has r numbers for each map"),
        ({"VeRA": MAPS * 256}, "VeRA: that is d alone: b has one number for each output"),
        ({"VeRA": MAPS * (256 + 2 * C)}, "VeRA: d and b alone: d has r numbers, b has out"),
        ({"VeRA": MAPS * C + MAPS // 2 * 256}, "VeRA: query and value have a d each"),
        ({"VeRA": VERA // 2}, "VeRA: that is one map in each layer: query and value are two"),
        ({"VeRA": VERA // 64}, "VeRA: that is one map: only A and B are shared, d and b are not"),
        ({"VeRA": MAPS * (16 + C)}, "VeRA: that is with LoRA's rank: VeRA's is 256"),
        ({"VeRA": MAPS * 256 * 2 * C}, "VeRA: A and B are not trained, only d and b are"),
        ({"VeRA": MAPS * 256 * C}, "VeRA: d and b stand side by side: their lengths add"),
        ({"VeRA": MAPS * 2 * C}, "VeRA: d has one number for each row of A, not for each input"),
        ({"VeRA": VERA + FROZEN}, "VeRA: A and B are frozen, so they are not trained"),
        ({"frozen": MAPS * FROZEN}, "frozen: A and B are shared by all maps: count them once"),
        ({"frozen": 2 * FROZEN}, "frozen: A and B are shared by query and value: count them once"),
        ({"frozen": 16 * 2 * C}, "frozen: that is with LoRA's rank: VeRA's is 256"),
        ({"frozen": MAPS * 256 * C}, "frozen: A and B once for all maps, not one in each of them"),
        ({"frozen": MAPS * C * C}, "frozen: only A and B are asked for, not the maps themselves"),
        ({"frozen": 7_000_000_000}, "frozen: A and B alone are asked for, not the model"),
        ({"frozen": 256 * C}, "frozen: that is one of the two matrices"),
        ({"frozen": 0}, "frozen: they are random, but something must hold them"),
    ],
)

BIG = "it trains as many numbers as most others do"
HINTS = {  # (patient, wrong cause): what speaks against it
    ("A", "unshared"): "its A and B have as many numbers as most others have",
    ("A", "zero"): "b has a gradient",
    ("A", "loud"): "the model is itself at the start",
    ("A", "trained"): BIG,
    ("A", "healthy"): "look at the last column",
    ("B", "zero"): "b has a gradient",
    ("B", "loud"): "the model is itself at the start",
    ("B", "trained"): BIG,
    ("B", "merge"): "merging does not move its logits",
    ("B", "healthy"): "what is shared is there once; count what it holds",
    ("C", "unshared"): "its A and B have as many numbers as most others have",
    ("C", "loud"): "the model is itself at the start",
    ("C", "trained"): BIG,
    ("C", "merge"): "merging does not move its logits",
    ("C", "healthy"): "which of its tensors would move at the first step?",
    ("D", "unshared"): "its A and B have as many numbers as most others have",
    ("D", "zero"): "b has a gradient: it moves first, then d does",
    ("D", "loud"): "the model is itself at the start",
    ("D", "trained"): BIG,
    ("D", "merge"): "merging does not move its logits",
    ("E", "unshared"): "its A and B are there once",
    ("E", "zero"): "b has a gradient",
    ("E", "loud"): "the model is itself at the start",
    ("E", "merge"): "merging does not move its logits",
    ("E", "healthy"): "compare how many numbers are trained",
    ("F", "unshared"): "its A and B have as many numbers as most others have",
    ("F", "zero"): "both d and b have gradients",
    ("F", "trained"): BIG,
    ("F", "merge"): "merging does not move its logits",
    ("F", "healthy"): "its model is another one before the first step",
}

vera_patients = diagnosis(
    "vera_patients",
    "counts, start, gradients and merging tell every fault from the others",
    PATIENTS,
    HINTS,
)
