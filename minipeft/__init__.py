"""minipeft: parameter-efficient fine-tuning from scratch, three doors and one file per method.

import minipeft as mp
tuner = mp.attach(model, mp.LoRA(rank=8, alpha=16, targets=("query", "value")), name="task")
mp.train(model, batches, steps=300, learning_rate=1e-3)
tuner.save("runs/task")
"""

from minipeft import stopping  # noqa: F401  both must come before torch is loaded

# isort: split
from tiny_transformer import process  # noqa: F401

# isort: split
from minipeft import methods, tasks
from minipeft.analysis import plots
from minipeft.analysis.doctor import Diagnosis, doctor
from minipeft.analysis.drift import merge_drift
from minipeft.analysis.plots import interval
from minipeft.analysis.sanity import sanity_ladder
from minipeft.attached import tuners
from minipeft.doors.weights import WeightDoor
from minipeft.files.saving import load
from minipeft.generation import generate
from minipeft.methods import *  # noqa: F403  every method that has its line there
from minipeft.methods.parts.templates import Template
from minipeft.model.family import Family, Slice
from minipeft.model.fingerprint import fingerprint
from minipeft.routing import route
from minipeft.tasks import metrics, prompt_search, tables
from minipeft.tasks.cloze import cloze
from minipeft.tasks.voting import vote, vote_written
from minipeft.training.history import History
from minipeft.training.loop import train
from minipeft.training.trainer_callback import trainer_callback
from minipeft.training.warm_up import warm_up
from minipeft.tuner import Tuner, attach

__all__ = [
    *methods.__all__,
    "Diagnosis",
    "Family",
    "History",
    "Slice",
    "Template",
    "Tuner",
    "WeightDoor",
    "attach",
    "cloze",
    "doctor",
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
    "tables",
    "tasks",
    "train",
    "trainer_callback",
    "tuners",
    "vote",
    "vote_written",
    "warm_up",
]
