"""Shapes of tuned tensors in SmolLM2, read off its configuration."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

LAYERS, WIDTH, HEADS, KEY_VALUE_HEADS, P, R = 30, 576, 9, 3, 10, 8
D = WIDTH // HEADS
KEYS = (1, KEY_VALUE_HEADS, P, D)
TABLE = (P, 2 * LAYERS * KEY_VALUE_HEADS * D)
A, B = (R, WIDTH), (KEY_VALUE_HEADS * D, R)

checkpoint_shapes = NumberCheck(
    "checkpoint_shapes",
    "3 heads keep keys and values, each of D = 576 / 9 = 64 numbers; A is (r, in), B is (out, r)",
    {"keys": KEYS, "table": TABLE, "A": A, "B": B},
    [
        ({"keys": (1, HEADS, P, D)}, "keys: 9 heads ask, but only 3 keep keys and values"),
        (
            {"keys": (1, KEY_VALUE_HEADS, P, WIDTH // KEY_VALUE_HEADS)},
            "keys: a head has D = 576 / 9 numbers, for 9 heads share the width",
        ),
        ({"keys": (1, KEY_VALUE_HEADS, P, WIDTH)}, "keys: a head has D = 576 / 9 numbers"),
        ({"keys": (1, P, KEY_VALUE_HEADS, D)}, "keys: the heads come before the places"),
        ({"keys": (1, KEY_VALUE_HEADS, D, P)}, "keys: the places come before the numbers"),
        ({"keys": (KEY_VALUE_HEADS, P, D)}, "keys: the first axis is the rows of the batch, 1"),
        ({"keys": (2, KEY_VALUE_HEADS, P, D)}, "keys: asked are the keys alone, without values"),
        ({"keys": (1, P, KEY_VALUE_HEADS * D)}, "keys: the heads have an axis of their own"),
        ({"keys": (LAYERS, KEY_VALUE_HEADS, P, D)}, "keys: asked is one layer, one row: (1, ...)"),
        ({"keys": (1, KEY_VALUE_HEADS, R, D)}, f"keys: {R} is the rank of the LoRA, not a place"),
        (
            {"keys": (1, HEADS, P, WIDTH // KEY_VALUE_HEADS)},
            "keys: 3 heads keep keys and values; 9 heads share the width, 64 numbers each",
        ),
        ({"keys": (1, P, HEADS, D)}, "keys: heads before places, and only 3 heads keep keys"),
        *(
            (
                {"table": shape},
                "table: everything of a place stands side by side in its one row, 2 axes in all",
            )
            for shape in (
                (P, LAYERS, 2 * KEY_VALUE_HEADS * D),
                (P, LAYERS, 2, KEY_VALUE_HEADS * D),
                (P, LAYERS, 2, KEY_VALUE_HEADS, D),
                (P, 2 * LAYERS, KEY_VALUE_HEADS * D),
                (P, 2 * LAYERS, KEY_VALUE_HEADS, D),
                (P, 2 * LAYERS * KEY_VALUE_HEADS, D),
            )
        ),
        *(
            ({"table": shape}, "table: only the places are rows; layers stand side by side")
            for shape in (
                (LAYERS * P, 2 * KEY_VALUE_HEADS * D),
                (2 * P, LAYERS * KEY_VALUE_HEADS * D),
                (2 * LAYERS * P, KEY_VALUE_HEADS * D),
            )
        ),
        (
            {"table": (R, 2 * LAYERS * KEY_VALUE_HEADS * D)},
            f"table: {R} is the rank of the LoRA, the prefix has {P} places",
        ),
        (
            {"table": (P, 2 * LAYERS * WIDTH)},
            "table: that would be 9 heads: only 3 of them keep keys and values",
        ),
        (
            {"table": (P, LAYERS * KEY_VALUE_HEADS * D)},
            "table: a place has a key and a value in every layer",
        ),
        (
            {"table": (P, 2 * KEY_VALUE_HEADS * D)},
            "table: that is one layer, the model has 30",
        ),
        (
            {"table": (2 * LAYERS * KEY_VALUE_HEADS * D, P)},
            "table: a row for each place, not a column",
        ),
        ({"table": (P, WIDTH)}, "table: that is a soft prompt at the input, not a prefix"),
        ({"A": (WIDTH, R)}, "A: it is (r, in), not (in, r)"),
        ({"A": (R, KEY_VALUE_HEADS * D)}, "A: it reads what goes into the map: 576 numbers"),
        ({"A": (R, D)}, "A: it reads the whole state of a token, not one head"),
        ({"A": (P, WIDTH)}, f"A: {P} are the places of the prefix, the LoRA has rank {R}"),
        (
            {"B": (KEY_VALUE_HEADS * D, P)},
            f"B: {P} are the places of the prefix, the LoRA has rank {R}",
        ),
        *(
            ({"B": shape}, "B: out is 3 heads of 64 numbers, side by side: one axis")
            for shape in ((KEY_VALUE_HEADS, R), (KEY_VALUE_HEADS, D, R))
        ),
        ({"B": (WIDTH, R)}, "B: the map of the values gives 3 heads, not 9"),
        ({"B": (R, KEY_VALUE_HEADS * D)}, "B: it is (out, r), not (r, out)"),
        ({"B": (D, R)}, "B: that is one head, the map of the values gives 3"),
        ({"B": (R, WIDTH)}, "B: it is (out, r), and the map of the values gives 3 heads"),
    ],
)
