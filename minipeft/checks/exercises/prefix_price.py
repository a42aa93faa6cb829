"""Lesson 17: a prefix takes memory with every request, LoRA once for a customer."""

from __future__ import annotations

from minipeft.checks.framework.numbers import NumberCheck

LAYERS, HEADS, WIDTH, PLACES, BYTES = 30, 3, 64, 10, 4  # SmolLM2 in float32; P places
LORA = 1_843_200  # bytes of a customer's LoRA
REQUEST = 2 * LAYERS * HEADS * WIDTH * PLACES * BYTES

prefix_price = NumberCheck(
    "prefix_price",
    "a key and a value for each place, head and layer; four such prefixes are as large as the LoRA",
    {"request": REQUEST, "requests": LORA // REQUEST},
    [
        (
            {"request": REQUEST // 2},
            "request: keys and values are two tensors, a number has 4 bytes",
        ),
        ({"request": 3 * REQUEST}, "request: only 3 of the 9 heads keep keys and values"),
        ({"request": REQUEST // HEADS}, "request: that is one head: 3 keep keys and values"),
        ({"request": REQUEST // LAYERS}, "request: that is one layer: there are 30"),
        ({"request": REQUEST // PLACES}, "request: that is one place: P is 10"),
        ({"request": REQUEST // BYTES}, "request: those are numbers; bytes are asked, 4 for each"),
        ({"request": REQUEST // WIDTH}, "request: each head keeps 64 numbers for a place"),
        (
            {"request": REQUEST // (2 * BYTES)},
            "request: those are numbers, of keys alone; bytes of keys and values are asked",
        ),
        (
            {"request": LORA},
            "request: that is the LoRA; a prefix is keys and values",
        ),
        ({"requests": LORA // BYTES / REQUEST}, "requests: bytes of the one by bytes of the other"),
        ({"requests": BYTES * LORA // REQUEST}, "requests: bytes of the one by bytes of the other"),
        (
            {"requests": REQUEST / LORA},
            "requests: the other way round: how many prefixes make a LoRA?",
        ),
        ({"requests": 50 * LORA // REQUEST}, "requests: of one customer, not of fifty"),
    ],
)
