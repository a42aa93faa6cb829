"""Two answers of lesson 03: the bytes of training, and what ails four runs."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck, diagnosis
from minipeft.course.transfer_lesson import PATIENTS

N, TOP, COPY, E = 390_000, 78_000, 70_800, 4  # numbers in all, of the top block, of the head; bytes
RIGHT = {
    "full": E * N + 3 * E * N,
    "top 1": E * N + 3 * E * TOP,
    "head only": E * (N + COPY) + 3 * E * COPY,
}
FROZEN = "frozen numbers have no gradient, and Adam has no means of them"
WEIGHTS = "the frozen numbers must be in memory too"
THREE = "Adam keeps two means of each number, and the gradient is counted by itself"
ONE_MEAN = "Adam keeps two means, of the gradient and of its square"
NO_MEANS = "Adam's two running means are missing"
NOT_BYTES = "that is how many numbers: each of them has 4 bytes"

adam_bytes = NumberCheck(
    "adam_bytes",
    "4 bytes for every number, and 12 more for every one that is trained",
    RIGHT,
    [
        ({name: value}, f"{name}: {sentence}")
        for name, value, sentence in (
            ("full", E * N, "gradients and Adam's two means are missing, or these are no bytes"),
            ("full", 2 * E * N, NO_MEANS),
            ("full", 3 * E * N, ONE_MEAN),
            ("full", 5 * E * N, THREE),
            ("top 1", E * N + 4 * E * TOP, THREE),
            ("top 1", 4 * E * TOP, WEIGHTS),
            ("top 1", RIGHT["full"], FROZEN),
            ("top 1", 3 * E * N + E * TOP, "Adam keeps means only of what it trains"),
            ("top 1", E * N + E * TOP, NO_MEANS),
            ("top 1", E * N + 2 * E * TOP, ONE_MEAN),
            ("top 1", E * N, "gradients and Adam's two means are missing"),
            ("top 1", N + 3 * TOP, NOT_BYTES),
            (
                "head only",
                E * N + 3 * E * COPY,
                "the copy lies beside the frozen matrix: a weight too",
            ),
            ("head only", E * (N + COPY) + 4 * E * COPY, THREE),
            (
                "head only",
                E * (N + COPY) + 6 * E * COPY,
                "the matrix itself stays frozen: only its copy has a gradient and means",
            ),
            ("head only", RIGHT["top 1"], "that is top 1: the head has another number of numbers"),
            ("head only", 4 * E * COPY, WEIGHTS),
            ("head only", 4 * E * (N + COPY), FROZEN),
            ("head only", RIGHT["full"], FROZEN),
            ("head only", E * (N + COPY) + E * COPY, NO_MEANS),
            (
                "head only",
                E * (N + COPY),
                "the gradients and Adam's two means of the copy are missing",
            ),
            ("head only", E * N, "its copy is a weight, and it is trained"),
            ("head only", N + COPY + 3 * COPY, NOT_BYTES),
        )
    ],
)

MOVED = "its loss falls, so the model does move"
COUNT = "its gradients are those of the healthy run, number for number"
KNOWS = "it knows every capital before the first step"
HINTS = {  # (patient, wrong cause): what speaks against it
    ("A", "lowest"): COUNT,
    ("A", "decay"): "weight decay would have changed something: look at its second column",
    ("A", "again"): "it starts from the loss of the healthy run",
    ("A", "random"): KNOWS,
    ("B", "lowest"): COUNT,
    ("B", "decay"): "as many numbers changed as had a gradient",
    ("B", "idle"): "its numbers do change",
    ("B", "random"): "a random model would know no capital at all, nor start at so low a loss",
    ("C", "decay"): "its number of numbers with a gradient is not the healthy run's",
    ("C", "again"): "it starts from the loss of the healthy run",
    ("C", "idle"): MOVED,
    ("C", "random"): KNOWS,
    ("D", "lowest"): COUNT,
    ("D", "again"): "it starts from the loss of the healthy run",
    ("D", "idle"): MOVED,
    ("D", "random"): KNOWS,
}

transfer_patients = diagnosis(
    "transfer_patients",
    "gradient, change, first loss and what was known before tell every fault",
    PATIENTS,
    HINTS,
)
