"""Checks of exercises: plain functions that take the learner's object.

    from minipeft import checks
    checks.lora(LoRAPatch)      # one green line, or one sentence that names the mistake

`EXERCISES` says which check judges which exercise, for the lessons and `python -m minipeft check`.
"""

from minipeft.checks.framework import CheckFailed, NotFinished
from minipeft.checks.weights import lora

EXERCISES = {
    "minipeft.methods.lora:LoRAPatch": lora,
}

__all__ = ["EXERCISES", "CheckFailed", "NotFinished", "lora"]
