"""The share of full fine-tuning's products that a step with adapters needs."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

FORWARD, OF_INPUTS, OF_WEIGHTS = 1, 1, 1  # products of a linear map, in numbers of its weight
FULL = FORWARD + OF_INPUTS + OF_WEIGHTS
ADAPTERS = FORWARD + OF_INPUTS
TRAINED = 0.058  # share of the numbers, with m = 16

adapter_work = NumberCheck(
    "adapter_work",
    "two thirds: forward and the gradients of the inputs; only those of frozen weights are saved",
    ADAPTERS / FULL,
    [
        (
            FORWARD / FULL,
            "that is forward alone, or what is saved; the way back is missing: the gradient passes "
            "through the frozen maps",
        ),
        (0.5, "full fine-tuning has three parts for each map, adapters need two of them"),
        (1.0, "one part is saved: nobody needs the gradient of a frozen weight"),
        (FULL / ADAPTERS, "turned round: adapters divided by full fine-tuning is asked"),
        (ADAPTERS, "that is in products for each weight; divide by those of full fine-tuning"),
        (FULL, "that is full fine-tuning, in products for each weight; asked is a share"),
        (TRAINED, "that is the share of the numbers trained; all of the others still compute"),
        (
            1 - TRAINED,
            "that is the share of the frozen numbers; they compute all the same",
        ),
        (
            (FORWARD + (OF_INPUTS + OF_WEIGHTS) * TRAINED) / FULL,
            "the way back leads through all maps, not through the adapters alone",
        ),
        (
            (FORWARD + OF_WEIGHTS * TRAINED) / FULL,
            "the way back leads through all maps: the gradients of their inputs are missing",
        ),
        (
            (ADAPTERS + OF_WEIGHTS * TRAINED) / FULL,
            "the adapters themselves are not counted: no weight of these maps is trained",
        ),
        (0.0, "the frozen maps compute as before: forward, and back to their inputs"),
        (0.25, "full fine-tuning has three parts for each map: forward, inputs, weights"),
        (0.75, "full fine-tuning has three parts for each map: forward, inputs, weights"),
        (100 * ADAPTERS / FULL, "that is in per cent, asked is a share between 0 and 1"),
    ],
    tolerance=0.02,
)
