"""How large a method may be for 10,240 numbers in a decoder of 4 layers and width 80."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

LAYERS, C, BUDGET = 4, 80, 10_240
UNITS = {"LoRA": 4 * C, "P-Tuning v2": 2 * C, "adapter": 2 * C + 1, "prompt tuning": C}  # a layer

same_budget = NumberCheck(
    "same_budget",
    "r = 8, P = 16, m = 15 and P = 128: what one unit costs, times the layers, decides",
    {
        "LoRA": BUDGET // (LAYERS * 2 * (C + C)),
        "P-Tuning v2": BUDGET // (LAYERS * 2 * C),
        "adapter": (BUDGET - LAYERS * C) // (LAYERS * (2 * C + 1)),
        "prompt tuning": BUDGET // C,
    },
    [
        *(
            ({name: cost}, f"{name}: that is what one unit costs: asked is how many fit")
            for name, unit in UNITS.items()
            for cost in {unit, LAYERS * unit}
        ),
        *(
            ({name: spent}, f"{name}: asked is its size, not how many numbers it then has")
            for name, spent in {**dict.fromkeys(UNITS, BUDGET), "adapter": 9_980}.items()
        ),
        ({"LoRA": 2}, "LoRA: A and B have r C numbers each, beside two maps in each of 4 layers"),
        ({"LoRA": 16}, "LoRA: A and B have r (C + C) numbers for each map, and there are two maps"),
        ({"LoRA": 32}, "LoRA: that is one layer, the model has 4"),
        ({"LoRA": 64}, "LoRA: that is one map of one layer: two maps in each of 4 layers"),
        ({"LoRA": 128}, "LoRA: every map of every layer has an A and a B"),
        ({"LoRA": 4}, "LoRA: two maps in each layer, not four: W_q and W_v"),
        ({"LoRA": 1}, "LoRA: A is (r, C) and B is (C, r), not (C, C)"),
        ({"P-Tuning v2": 32}, "P-Tuning v2: every one of the P has a key and a value"),
        ({"P-Tuning v2": 64}, "P-Tuning v2: that is one layer, the model has 4"),
        ({"P-Tuning v2": 128}, "P-Tuning v2: keys and values stand in each of the 4 layers"),
        ({"P-Tuning v2": 8}, "P-Tuning v2: a key and a value, 2 C numbers a layer, not 4 C"),
        ({"P-Tuning v2": 4}, "P-Tuning v2: the heads share the width C, they do not multiply it"),
        ({"adapter": 16}, "adapter: the biases count too: one of m numbers and one of C"),
        (
            {"adapter": 15.4},
            "adapter: m is a whole number, the largest that stays within the budget",
        ),
        (
            {"adapter": 10},
            "adapter: the bias behind W_up is C numbers once in a layer, however many features",
        ),
        *(
            (
                {"adapter": (BUDGET - LAYERS * bias) / (LAYERS * (2 * C + each))},
                "adapter: the biases count, m of one and C of the other; and m is a whole number",
            )
            for bias, each in ((0, 1), (C, 0), (0, C), (0, C + 1))
        ),
        ({"adapter": 6}, "adapter: one in each layer, and no norms: W_down, W_up, two biases"),
        ({"adapter": 7}, "adapter: there is one in each layer, not two"),
        ({"adapter": 8}, "adapter: there is one in each layer, not two, and it has biases"),
        ({"adapter": 63}, "adapter: that is one layer, the model has 4"),
        ({"adapter": 64}, "adapter: that is one layer without its biases, the model has 4"),
        ({"adapter": 31}, "adapter: it has W_down and W_up, both count"),
        ({"adapter": 32}, "adapter: it has W_down and W_up, and biases"),
        ({"prompt tuning": 32}, "prompt tuning: its vectors stand at the input only, in no layer"),
        ({"prompt tuning": 16}, "prompt tuning: one vector at the input, no keys, no layers"),
        ({"prompt tuning": 64}, "prompt tuning: a vector of C numbers, not a key and a value"),
        (
            {"prompt tuning": 96},
            "prompt tuning: that is how many positions there are; asked is what the budget pays",
        ),
        ({"prompt tuning": 20}, "prompt tuning: asked is what the budget pays for"),
    ],
)
