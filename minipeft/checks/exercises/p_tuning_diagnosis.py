"""Four runs of P-tuning that went wrong: which mistake is whose? `course.p_tuning.charts`."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

CAUSES = {  # as the lesson lists them
    "a": "the learning rate is far too high",
    "b": "the pseudo tokens stand behind the answer",
    "c": "the word embedding of the model was trained too",
    "d": "the whole language model was trained too",
    "e": "what the encoder gives is detached",
    "f": "the labels ask for the words of the question too",
}
RIGHT = {"A": "c", "B": "a", "C": "b", "D": "d"}
LOOK = {
    "A": "A: look at what moved: one matrix of the base is not what it was, the rest is",
    "B": "B: the gradient is as long as the healthy one's and nothing of the base moved, but the "
    "loss stays high",
    "C": "C: the gradient is zero, and the row says why",
    "D": "D: look at what moved",
}
SPECIAL = {
    ("A", "d"): "A: then all of the base would have moved, and only a part of it has",
    ("A", "a"): "A: with such a rate the loss would not fall to 0; look at what moved",
    ("B", "e"): "B: then the gradient would be zero, and it is as long as the healthy one's",
    ("C", "e"): "C: that too would make the gradient zero, but the row shows another reason",
    ("C", "a"): "C: no rate moves anything along a gradient of zero",
    ("D", "c"): "D: more than the embedding has moved",
    ("D", "a"): "D: with such a rate the loss would not fall; look at what moved",
}

p_tuning_diagnosis = NumberCheck(
    "p_tuning_diagnosis",
    "each of the four runs has its cause",
    RIGHT,
    [
        (
            {patient: cause},
            f"{patient}: the row shows which words are asked for, only the answer"
            if cause == "f"
            else SPECIAL.get((patient, cause), LOOK[patient]),
        )
        for patient in RIGHT
        for cause in CAUSES
        if cause != RIGHT[patient]
    ],
)
