"""Two answers of lesson 05: how many numbers adapters train, and what ails four of them."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

LAYERS, C, M = 4, 80, 16  # of tiny-decoder-0.4m; the bottleneck
ONE = 2 * M * C + M + C
NORMS = (2 * LAYERS + 1) * 2 * C  # two per block and the last one, weight and bias

adapter_parameters = NumberCheck(
    "adapter_parameters",
    "two adapters of 2 m C + m + C numbers in each layer, and every layer norm",
    2 * LAYERS * ONE + NORMS,
    [
        (2 * LAYERS * ONE, "the layer norms are missing: they are trained too"),
        (LAYERS * ONE + NORMS, "that is one adapter per layer: there are two, one per sublayer"),
        (
            LAYERS * ONE,
            "that is one adapter per layer and no layer norm: there are two, and norms train too",
        ),
        (ONE, "that is one adapter: there are two in each of the 4 layers, and 9 layer norms"),
        (2 * ONE, "that is one layer without its norms: the model has 4 layers"),
        (
            2 * LAYERS * 2 * M * C + NORMS,
            "the biases are missing: b_down has m numbers and b_up has C",
        ),
        (
            2 * LAYERS * 2 * M * C,
            "that is W_down and W_up alone: add their biases, m + C, and the layer norms",
        ),
        (
            2 * LAYERS * ONE + 2 * LAYERS * 2 * C,
            "one layer norm is missing: beside two per layer there is one behind the last layer",
        ),
        (
            2 * LAYERS * ONE + (2 * LAYERS + 1) * C,
            "a layer norm has 2 C numbers, a weight and a bias for each feature",
        ),
        (
            2 * LAYERS * (M * C + M + C) + NORMS,
            "an adapter has two matrices: W_down (m, C) and W_up (C, m)",
        ),
        (
            2 * LAYERS * (2 * M * C + 2 * C) + NORMS,
            "b_down has m numbers, one for each hidden feature, not C",
        ),
    ],
)

RIGHT = {"A": "c", "B": "d", "C": "b", "D": "a"}
LOOK = {
    "A": "A is not {}: work out what one adapter per layer would do to the numbers trained",
    "B": "B is not {}: which matrices never moved, and what does the gradient of each one need?",
    "C": "C is not {}: it trains the right numbers, but how far are its logits at the start?",
    "D": "D is not {}: compare its numbers trained with the healthy one's, the difference is 1,440",
}

adapter_faults = NumberCheck(
    "adapter_faults",
    "four adapters, each with its fault",
    RIGHT,
    [
        ({patient: fault}, LOOK[patient].format(fault))
        for patient, right in RIGHT.items()
        for fault in "abcde"
        if fault != right
    ],
)
