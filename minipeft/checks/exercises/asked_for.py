"""Which labels a model is asked for."""

from __future__ import annotations

import torch

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

FIRST = "asked[:, 0] = False"


def inputs(case: Case, draw: Draw) -> dict:
    shape = (case.B, case.T) if case.labels == "words" else (case.B,)
    some = torch.tensor([-101, -99, -1, 0, 1, 2, 156, 50_000])  # below 0, too: they are asked for
    labels = some[draw.integers(0, len(some), *shape)]
    hidden = draw.integers(0, 3, *shape) == 0
    return {"labels": torch.where(hidden, -100, labels), "shifted": case.shifted}


asked_for = Check(
    "asked_for",
    "minipeft.analysis.examinations.labels:asked_for",
    "all labels that are not -100, but for the first of a row where the labels are shifted",
    [
        Trial(
            "what is asked for",
            inputs,
            lambda asked_for, case, given: asked_for(given.labels, given.shifted),
            axes={
                "B": (3, 1, 8),
                "T": (4, 1, 7),
                "labels": ("words", "classes"),
                "shifted": (True, False),
            },
            dtypes=("float32",),
        )
    ],
    [
        mistake(
            "the last label of a row is left out: place t answers label t + 1, so that the first "
            "label has nobody to answer it",
            (FIRST, "asked[:, asked.shape[1] - 1] = False"),
        ),
        mistake("the first label of a row is asked for: nobody answers it", (FIRST, "pass")),
        mistake(
            "a row's first label is left out of every model: only where labels are shifted",
            ("if shifted and labels.dim() == 2:", "if labels.dim() == 2:"),
        ),
        mistake(
            "the first row is left out: it is the first column that nobody answers",
            (FIRST, "asked[0] = False"),
        ),
        mistake(
            "that is what is not asked for: True is for labels that are not -100",
            ("labels != -100", "labels == -100"),
        ),
        mistake(
            "that is what is not asked for: True is for labels that are not -100",
            ("labels != -100", "labels == -100"),
            (FIRST, "pass"),
        ),
        mistake(
            "labels below 0 other than -100 are left out: only -100 means that nothing is asked",
            ("labels != -100", "labels >= 0"),
        ),
        mistake(
            "label 0 is taken for nothing asked: only -100 is",
            ("labels != -100", "labels > 0"),
        ),
        *(
            mistake(
                "the answers are shifted to the places that give them: each stays where its label "
                "stands, and a row's first is False",
                (FIRST, f"asked = labels.roll(-1, 1) != -100\n        {drop}"),
            )
            for drop in ("pass", "asked[:, -1] = False")
        ),
        mistake(
            "both ends of a row are left out: only its first label has nobody to answer it",
            (FIRST, f"{FIRST}\n        asked[:, -1] = False"),
        ),
        mistake(
            "the first label that asks for something is left out: it is the first place of the "
            "row, whatever stands there",
            (FIRST, "asked &= asked.cumsum(1) > 1"),
        ),
        mistake(
            "labels (B,) are shifted, too: each of them is a row's only label",
            ("if shifted and labels.dim() == 2:", "if shifted:"),
            (FIRST, "asked[..., 0] = False"),
        ),
        mistake(
            "the shape is that of the labels: leave the first column where it is, as False",
            ("return asked", "return asked[:, 1:] if shifted and labels.dim() == 2 else asked"),
        ),
    ],
)
