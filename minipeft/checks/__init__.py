"""Checks of exercises: plain functions that take the learner's object.

    from minipeft import checks
    checks.lora(LoRAPatch)      # one green line, or one sentence that names the mistake

`EXERCISES` says which check judges which exercise, for the lessons and `python -m minipeft check`.
"""

from minipeft.checks.framework import CheckFailed, NotFinished
from minipeft.checks.losses import cross_entropy, masked
from minipeft.checks.pretraining import causal, learning_rate, span_corruption
from minipeft.checks.transfer import forgotten, train_top, training_bytes
from minipeft.checks.transformer import attend, attention, block, causal_mask, feed_forward
from minipeft.checks.weights import lora

EXERCISES = {
    "tiny_transformer.attention:attend": attend,
    "tiny_transformer.attention:causal_mask": causal_mask,
    "tiny_transformer.attention:Attention": attention,
    "tiny_transformer.layers:FeedForward": feed_forward,
    "tiny_transformer.layers:Block": block,
    "tiny_transformer.heads:cross_entropy": cross_entropy,
    "tiny_transformer.objectives:causal": causal,
    "tiny_transformer.objectives:masked": masked,
    "tiny_transformer.objectives:span_corruption": span_corruption,
    "tiny_transformer.pretraining:learning_rate": learning_rate,
    "minipeft.course.transfer:train_top": train_top,
    "minipeft.course.transfer:training_bytes": training_bytes,
    "minipeft.course.transfer:forgotten": forgotten,
    "minipeft.methods.lora:LoRAPatch": lora,
}

__all__ = [
    "EXERCISES",
    "CheckFailed",
    "NotFinished",
    "attend",
    "attention",
    "block",
    "causal",
    "causal_mask",
    "cross_entropy",
    "feed_forward",
    "forgotten",
    "learning_rate",
    "lora",
    "masked",
    "span_corruption",
    "train_top",
    "training_bytes",
]
