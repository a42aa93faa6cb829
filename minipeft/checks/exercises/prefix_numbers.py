"""What a prefix trains and what is left of it, worked out before the code counts."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

P, C, K, L = 10, 1024, 512, 24  # GPT-2 medium and the paper's prefix for table-to-text
MLP = P * C + C * K + K + (K + 1) * 2 * L * C  # P', down, up
STORED = 2 * P * L * C
PROMPT = P * C

prefix_numbers = NumberCheck(
    "prefix_numbers",
    "P C + C k + k + 2 (k + 1) L C trained, 2 P L C stored, P C for prompt tuning",
    {"trained": MLP, "stored": STORED, "prompt": PROMPT},
    [
        (
            {"trained": MLP - K - 2 * L * C},
            "trained: both maps of the MLP have a bias, of k and of 2 L C numbers",
        ),
        (
            {"trained": MLP - K},
            "trained: the first map has a bias, too: one number for each of its k outputs",
        ),
        (
            {"trained": MLP - 2 * L * C},
            "trained: the second map has a bias, too: one number for each of its 2 L C outputs",
        ),
        (
            {"trained": MLP - K - 2 * L * C + 2},
            "trained: the bias of a map is a vector: one number for each of its outputs",
        ),
        (
            {"trained": MLP + C - 2 * L * C},
            "trained: a bias has a number for each output of its map, not for each input: k and "
            "2 L C",
        ),
        (
            {"trained": MLP - L * C},
            "trained: the bias of the second map has 2 L C numbers: keys and values",
        ),
        (
            {"trained": MLP - PROMPT - K - 2 * L * C},
            "trained: P' itself is trained, too, and both maps have a bias",
        ),
        (
            {"trained": PROMPT},
            "trained: that is P' alone, and both maps of the MLP are trained with it",
        ),
        (
            {"trained": MLP - PROMPT + P * K},
            "trained: P' is as wide as the model, (P, C): the first map takes it from C to k",
        ),
        (
            {"trained": MLP + (L - 1) * PROMPT},
            "trained: there is one P' for all layers, not one for each",
        ),
        (
            {"trained": MLP + C * K + K},
            "trained: keys and values come out of one MLP, its first map counts once",
        ),
        ({"trained": MLP - PROMPT}, "trained: P' itself is trained, too, P C numbers"),
        (
            {"trained": MLP - (K + 1) * L * C},
            "trained: the second map gives a key and a value, 2 C numbers for each layer",
        ),
        (
            {"trained": PROMPT + L * (C * K + K + (K + 1) * 2 * C)},
            "trained: there is one MLP for all layers, not one for each: its output is 2 L C wide",
        ),
        (
            {"trained": PROMPT + C * K + K + (K + 1) * 2 * C},
            "trained: the MLP makes the rows of all L layers: its output is 2 L C wide",
        ),
        (
            {"trained": P * (C * K + K + (K + 1) * 2 * L * C) + PROMPT},
            "trained: the P rows go through the same MLP: its numbers count once",
        ),
        (
            {"trained": STORED},
            "trained: that is what is stored; while training P' and the MLP are what is trained",
        ),
        (
            {"trained": MLP + STORED},
            "trained: R comes out of the MLP, it is no parameter beside it",
        ),
        ({"stored": P * L * C}, "stored: a key and a value, so twice as many"),
        (
            {"stored": STORED + PROMPT},
            "stored: P' is thrown away with the MLP, R is all that is kept",
        ),
        ({"stored": 2 * P * C}, "stored: that is one layer, the model has L of them"),
        ({"stored": PROMPT}, "stored: a key and a value in each of the L layers"),
        (
            {"stored": MLP},
            "stored: the MLP is thrown away after training; its output R is kept",
        ),
        (
            {"stored": STORED * 4},
            "stored: that is bytes in fp32, the question is how many numbers",
        ),
        (
            {"prompt": STORED},
            "prompt: prompt tuning has P vectors at the input only, no keys and no values",
        ),
        ({"prompt": P}, "prompt: P vectors, each of C numbers"),
        ({"prompt": P * K}, "prompt: the vectors are as wide as the model, C: there is no MLP"),
        ({"prompt": P * L * C}, "prompt: at the input only, not in every layer"),
        ({"prompt": 2 * P * C}, "prompt: one vector per row, no pair of key and value"),
        (
            {"prompt": MLP},
            "prompt: prompt tuning has no MLP: the P vectors at the input are all",
        ),
    ],
)
