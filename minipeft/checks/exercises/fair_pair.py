"""Which comparison of P-tuning with prompt tuning changes the way to prompt and nothing else?"""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

fair_pair = NumberCheck(
    "fair_pair",
    "what is trained beside the prompt is the same on both sides, so the prompt is what differs",
    "c",
    [
        ("a", "on the left the model is tuned as well: that may be what wins, not the prompt"),
        ("b", "on the right the model is tuned as well: that may be what wins, not the prompt"),
        ("d", "on the right nothing prompts: that is a comparison with fine-tuning"),
    ],
)
