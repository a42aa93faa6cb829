"""Training: the loop, what may be put around it, and many runs in one pass."""

from minipeft.training.loop import History, train

__all__ = ["History", "train"]
