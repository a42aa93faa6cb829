"""Tasks and their data (`load`, `make`, `read`, `names`), their scores, votes, prompt searches."""

from minipeft.tasks.encoding import Example
from minipeft.tasks.tasks import KINDS, SPLITS, Task, folder, load, make, names, read

__all__ = ["KINDS", "SPLITS", "Example", "Task", "folder", "load", "make", "names", "read"]
