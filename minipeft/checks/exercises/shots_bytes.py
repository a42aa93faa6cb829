"""What solved examples in a prompt cost with every question: keys and values, in bytes."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

LAYERS, HEADS, KEY_VALUE_HEADS, D, WIDTH = 30, 9, 3, 64, 576  # of SmolLM2-135M
TOKENS, BYTES = 16 * 7, 2  # sixteen examples of seven tokens; bfloat16
RIGHT = 2 * LAYERS * KEY_VALUE_HEADS * D * TOKENS * BYTES

shots_bytes = NumberCheck(
    "shots_bytes",
    "a key and a value of D numbers for each token, in each of 3 heads, in each of 30 layers",
    RIGHT,
    [
        (RIGHT // 2, "that is half: each token leaves a key and a value, and a number has 2 bytes"),
        (RIGHT * 3, "9 heads ask, but only 3 keep keys and values: that is what the 3 is for"),
        (RIGHT * 3 // 2, "9 heads ask, 3 keep keys and values; each keeps a key and a value"),
        (RIGHT // LAYERS, "that is one layer: each of the 30 keeps its own"),
        (RIGHT // KEY_VALUE_HEADS, "that is one head: 3 keep keys and values"),
        (RIGHT // 16, "that is one example: there are 16"),
        (RIGHT // 7, "that is one token of each example: each has 7"),
        (RIGHT // TOKENS, "that is one token: there are 16 examples of 7 tokens"),
        (RIGHT // D, "each key has D = 64 numbers, not one"),
        (2 * RIGHT, "that is twice as much: a number in bfloat16 has 2 bytes, not 4"),
        (RIGHT // 4, "count a key and a value, and 2 bytes for each number of them"),
        (
            RIGHT * (HEADS + 2 * KEY_VALUE_HEADS) // (2 * KEY_VALUE_HEADS),
            "the queries of a token are never needed again: keys and values only",
        ),
        (RIGHT * 4, "9 heads ask and leave nothing behind: count the 3 that keep, not 9 + 3"),
        (RIGHT * 6, "9 heads ask, 3 keep keys and values, and a number has 2 bytes, not 4"),
        (RIGHT * 8, "that is bits: a byte has 8 of them"),
        (RIGHT * 16, "16 examples of 7 tokens: is the 16 there twice?"),
        (RIGHT // 7 * 8, "each example has 7 tokens, not 8"),
        (RIGHT * 9, "each of the 3 heads keeps D = 64 numbers: D is one head's width, not C"),
        (
            TOKENS * WIDTH * BYTES,
            "that is the word vectors of the examples; what is kept are the keys and values of "
            "every layer",
        ),
    ],
)
