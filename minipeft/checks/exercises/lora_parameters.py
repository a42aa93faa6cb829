"""How many numbers LoRA trains, worked out before the code counts them."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

LAYERS, WIDTH, RANK, MAPS = 4, 80, 8, 2  # of tiny-decoder-0.4m; query and value
ONE = RANK * (WIDTH + WIDTH)

lora_parameters = NumberCheck(
    "lora_parameters",
    "r (in + out) numbers for each of the two maps, in each of the layers",
    LAYERS * MAPS * ONE,
    [
        (ONE, "that is one map of one layer: LoRA stands beside two maps in each of the 4 layers"),
        (MAPS * ONE, "that is one layer: the model has 4"),
        (LAYERS * ONE, "that is half: query and value both get a LoRA, and each has an A and a B"),
        (2 * LAYERS * MAPS * ONE, "that is twice as many: A has r x in numbers, B has out x r"),
        (LAYERS * 3 * ONE, "that is three maps: LoRA stands beside query and value alone"),
        (LAYERS * MAPS * (ONE + WIDTH), "A and B have no bias: r (in + out) numbers for each map"),
        (LAYERS * MAPS * ONE + RANK, "alpha is no trained number, it is a setting"),
        (
            LAYERS * MAPS * WIDTH * WIDTH,
            "that is what full fine-tuning of these maps trains, in x out numbers each",
        ),
        (
            LAYERS * MAPS * RANK * WIDTH * WIDTH,
            "A and B are two matrices: add their numbers, r x in + out x r",
        ),
    ],
)
