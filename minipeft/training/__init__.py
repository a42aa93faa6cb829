"""Training: the loop, what may be put around it, and many runs in one pass."""

from minipeft.training.history import History
from minipeft.training.loop import train

__all__ = ["History", "train"]
