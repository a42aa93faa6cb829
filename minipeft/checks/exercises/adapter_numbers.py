"""Two answers of lesson 05: how many numbers adapters train, and what ails four of them."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck, diagnosis

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
        (
            2 * LAYERS * (2 * M * C + 2 * M) + NORMS,
            "b_up has C numbers, one for each feature that it adds to, not m",
        ),
        (2 * LAYERS * (2 * M * C + C) + NORMS, "b_down is missing: m numbers in each adapter"),
        (
            2 * LAYERS * (2 * M * C + M) + NORMS,
            "C numbers are missing in each adapter, or one layer norm in each layer: which of the "
            "two have you left out, b_up or a norm?",
        ),
        (
            2 * LAYERS * ONE + LAYERS * 2 * C,
            "each layer has two layer norms, and one stands behind the last layer: that makes nine",
        ),
        (
            2 * LAYERS * 2 * (M * C + M + C) + NORMS,
            "each map has one bias: b_down has m numbers and b_up has C",
        ),
        (
            2 * LAYERS * ONE + 2 * C,
            "that is one layer norm: each layer has two, and one stands behind the last layer",
        ),
        (
            2 * LAYERS * ONE + (2 * LAYERS + 2) * 2 * C,
            "that is ten layer norms: two in each of 4 layers and one behind the last make nine",
        ),
        (
            2 * ONE + 2 * 2 * C,
            "that is one layer: the model has 4, and one more layer norm behind the last",
        ),
        (NORMS, "those are the layer norms alone: add the eight adapters"),
        (2 * ONE + NORMS, "those are the adapters of one layer: there are 4 layers"),
        (
            ONE + NORMS,
            "that is one adapter beside the norms: there are two in each of the 4 layers",
        ),
        (
            3 * LAYERS * ONE + NORMS,
            "that is three adapters per layer: none stands behind a layer norm",
        ),
        (
            2 * LAYERS * (C * C + C) + NORMS,
            "that is a C by C map for each sublayer: an adapter goes through m numbers",
        ),
    ],
)

RIGHT = {"A": "c", "B": "d", "C": "b", "D": "a"}
FEWER = "it trains fewer numbers than the healthy one, and this fault takes none away"
ALL = "it trains as many numbers as the healthy one, and this fault takes some away"
HINTS = {  # (patient, wrong fault): what speaks against it
    ("A", "a"): "work out how many numbers are left without the layer norms: A has fewer",
    ("A", "b"): f"{FEWER}: work out what one adapter per layer would do",
    ("A", "d"): f"{FEWER}: work out what one adapter per layer would do",
    ("A", "e"): f"{FEWER}: work out what one adapter per layer would do",
    ("B", "a"): ALL,
    ("B", "b"): "without the skip the logits move at first, and B's do not: which matrices moved?",
    ("B", "c"): ALL,
    ("B", "e"): "large weights move the logits at first, and B's do not: which matrices moved?",
    ("C", "a"): f"{ALL}: how far are its logits at first?",
    ("C", "c"): f"{ALL}: how far are its logits at first?",
    ("C", "d"): "what is zero adds nothing to h: how far are its logits at first?",
    ("C", "e"): "large weights make h longer: how long is C's, behind the adapter?",
    ("D", "b"): f"{FEWER}: compare the two, the difference is 1,440",
    (
        "D",
        "c",
    ): "one adapter per layer would take half of all adapters away: the difference is 1,440",
    ("D", "d"): f"{FEWER}: compare the two, the difference is 1,440",
    ("D", "e"): f"{FEWER}: compare the two, the difference is 1,440",
}

adapter_faults = diagnosis("adapter_faults", "four adapters, each with its fault", RIGHT, HINTS)
