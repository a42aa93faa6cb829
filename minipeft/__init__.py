"""minipeft: parameter-efficient fine-tuning from scratch, three doors and one file per method.

import minipeft as mp
tuner = mp.attach(model, mp.LoRA(rank=8, alpha=16, targets=("query", "value")), name="task")
mp.train(model, batches, steps=300, learning_rate=1e-3)
tuner.save("runs/task")
"""

from minipeft import methods, metrics, plots, prompt_search, tasks
from minipeft.anatomy import Family, Slice
from minipeft.cloze import cloze
from minipeft.doors import WeightDoor
from minipeft.drift import merge_drift
from minipeft.files import load
from minipeft.fingerprint import fingerprint
from minipeft.generation import generate
from minipeft.methods import *  # noqa: F403  every method that has its line there
from minipeft.plots import interval
from minipeft.sanity import sanity_ladder
from minipeft.templates import Template
from minipeft.training import History, train
from minipeft.tuner import Tuner, attach, route, tuners
from minipeft.voting import vote, vote_written
from minipeft.warm_up import warm_up

__all__ = [
    *methods.__all__,
    "Family",
    "History",
    "Slice",
    "Template",
    "Tuner",
    "WeightDoor",
    "attach",
    "cloze",
    "fingerprint",
    "generate",
    "interval",
    "load",
    "merge_drift",
    "metrics",
    "plots",
    "prompt_search",
    "route",
    "sanity_ladder",
    "tasks",
    "train",
    "tuners",
    "vote",
    "vote_written",
    "warm_up",
]
