"""Five soft prompts seen from outside, of which four went wrong: what happened to each?"""

from __future__ import annotations

from minipeft.checks.framework import diagnosis
from minipeft.course.prompt_tuning import PATIENTS

HINTS = {  # (patient, wrong cause): what speaks against it
    ("A", "labels"): "no more labels are asked than in others",
    ("A", "mask"): "its gradient is not 0, so the prompt is read",
    ("A", "detached"): "its gradient is not 0, so nothing is cut off",
    ("A", "healthy"): "the answer to a row should not depend on who else is in the batch",
    ("B", "labels"): "no more labels are asked than in others",
    ("B", "mask"): "a prompt that is hidden cannot change the loss, and here it does",
    ("B", "padding"): "a row is answered the same alone and in the batch",
    ("B", "healthy"): "a prompt with a gradient of 0 never learns",
    ("C", "labels"): "no more labels are asked than in others",
    ("C", "mask"): "its gradient is not 0, so the prompt is read",
    ("C", "padding"): "a row is answered the same alone and in the batch",
    ("C", "detached"): "its gradient is not 0, so nothing is cut off",
    ("D", "mask"): "its gradient is not 0, so the prompt is read",
    ("D", "padding"): "a row is answered the same alone and in the batch",
    ("D", "detached"): "its gradient is not 0, so nothing is cut off",
    ("D", "healthy"): "count the labels: more are asked than the answers have tokens",
    ("E", "labels"): "no more labels are asked than in others",
    ("E", "padding"): "a row is answered the same alone and in the batch",
    ("E", "detached"): "a detached prompt is read, and the loss would be another than the base's",
    (
        "E",
        "healthy",
    ): "with such a prompt the loss is the base's to the last digit: nobody reads it",
}

prompt_patients = diagnosis(
    "prompt_patients",
    "labels, gradient, loss and the row alone tell every fault from the others",
    PATIENTS,
    HINTS,
)
