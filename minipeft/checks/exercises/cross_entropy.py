"""The loss: what a transformer is trained on."""

from __future__ import annotations

import torch

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake


def inputs(case: Case, draw: Draw) -> dict:
    """logits (..., V); labels (...), some of them -100."""
    shape = (case.B, case.T) if case.T else (case.B,)
    logits = draw.normal(*shape, case.V, scale=case.scale)
    labels = torch.randint(0, case.V, shape, generator=draw.generator)
    labels.view(-1)[0] = case.V - 1
    order = torch.randperm(labels.numel() - 1, generator=draw.generator) + 1
    for place in order[: int(case.left_out * labels.numel())].tolist():
        labels.view(-1)[place] = -100
    if case.left_out == 1.0:
        labels.fill_(-100)
    return {"logits": logits, "labels": draw.whole(labels)}


def without_labels(case: Case, draw: Draw) -> dict:
    logits = draw.normal(2, 3, 5) if case.logits == "given" else None
    return {"logits": logits, "labels": None}


RIGHT = "F.cross_entropy(logits.float(), labels, ignore_index=-100)"
CHOSEN = "logits.float()[labels != -100].log_softmax(-1).gather(1, labels[labels != -100][:, None])"
EVERY = "logits.float().log_softmax(-1).gather(1, labels.clamp(min=0)[:, None])"


def losing(sentence: str, wrong: str):
    return mistake(sentence, (RIGHT, wrong))


MISTAKES = [
    losing("labels of -100 count as word 0: leave them out", f"-{EVERY}.mean()"),
    losing(
        "this is the sum: divide by the number of labels that count",
        RIGHT.replace(")", ', reduction="sum")', 2).replace(', reduction="sum")', ")", 1),
    ),
    losing("divide by the labels that count, not by all of them", f"-{CHOSEN}.sum() / len(labels)"),
    losing("the logarithm is missing: the loss is -log p", f"-{CHOSEN}.exp().mean()"),
    losing("the logarithm is missing: the loss is -log p", f"1 - {CHOSEN}.exp().mean()"),
    losing("the sign is wrong: the loss is -log p", f"{CHOSEN}.mean()"),
    losing(
        "the loss is in bits: use the natural logarithm", f"-{CHOSEN}.mean() / 0.6931471805599453"
    ),
    losing(
        "the softmax is missing: the loss is -logit",
        "-logits.float()[labels != -100].gather(1, labels[labels != -100][:, None]).mean()",
    ),
    losing(
        "the softmax is done twice: cross_entropy takes logits",
        RIGHT.replace("logits.float()", "logits.float().softmax(-1)"),
    ),
    *(
        mistake(
            f"the softmax runs over axis {axis} of the logits: over the last axis, so that the V "
            "words of a position share 1",
            (
                "logits.flatten(0, -2), labels.flatten()",
                f"logits.float().log_softmax({axis}).flatten(0, -2), labels.flatten()",
            ),
            (RIGHT, "F.nll_loss(logits, labels)"),
        )
        for axis in (0, 1)
    ),
    losing(
        "the softmax runs over the positions: over the last axis, so that the V words of a "
        "position share 1",
        RIGHT.replace("cross_entropy(logits.float()", "nll_loss(logits.float().log_softmax(0)"),
    ),
    losing(
        "the labels are smoothed: the loss is -log p of the label alone",
        RIGHT.replace("ignore_index=-100", "label_smoothing=0.1"),
    ),
    losing(
        "something is added to p before the logarithm, so that a surprise has an upper end: take "
        "log_softmax, which needs nothing added",
        f"-({CHOSEN}.exp() + 1e-8).log().mean()",
    ),
    losing(
        "something is added to p before the logarithm, so that a surprise has an upper end: take "
        "log_softmax, which needs nothing added",
        f"-({CHOSEN}.exp() + 1e-12).log().mean()",
    ),
    mistake(
        "each row has a mean of its own, and those are averaged: take one mean over all labels "
        "that count",
        (
            "logits, labels = logits.flatten(0, -2), labels.flatten()",
            "rows = zip(logits, labels) if labels.dim() > 1 else [(logits, labels)]",
        ),
        (
            f"return {RIGHT}",
            "losses = [F.cross_entropy(a.float(), b) for a, b in rows]\n"
            "    return sum(losses) / len(losses)",
        ),
    ),
    mistake(
        "the labels are shifted here: the model has shifted them already",
        (
            "logits, labels = logits.flatten(0, -2), labels.flatten()",
            "logits, labels = logits[..., :-1, :].flatten(0, -2), labels[..., 1:].flatten()",
        ),
    ),
    mistake(
        "the loss is one number: take the mean over all labels that count",
        when=lambda view: view.difference.kind == "shape" and view.given.numel() > 1,
    ),
    mistake(
        "the loss is one number: give it without axes, shape ()",
        when=lambda view: view.difference.kind == "shape" and view.given.numel() == 1,
    ),
    mistake(
        "with large logits the loss is infinite: use log_softmax, not log(softmax)",
        when=lambda view: (
            view.case.get("scale") == 300.0 and not bool(torch.isfinite(view.given).all())
        ),
    ),
    mistake(
        "when all labels are -100 there is no mean: the mean of nothing is NaN, do not invent a "
        "number",
        when=lambda view: view.case.get("left_out") == 1.0 and view.difference.kind == "value",
    ),
    mistake(
        "without labels (None) there is no loss: give back None",
        when=lambda view: view.inputs["labels"] is None,
    ),
    mistake(
        "the loss is computed in bfloat16, which keeps three digits: turn the logits into float32 "
        "first",
        when=lambda view: (
            view.case.dtype == "bfloat16" and view.difference.kind in ("value", "dtype")
        ),
    ),
]

cross_entropy = Check(
    "cross_entropy",
    "tiny_transformer.heads:cross_entropy",
    "mean of -log p(label) over the labels that are not -100",
    [
        Trial(
            "the loss",
            inputs,
            lambda function, case, given: function(given.logits, given.labels),
            axes={
                "B": (2, 1, 5),
                "T": (4, 1, 0),
                "V": (7, 2, 30),
                "left_out": (0.375, 0.0, 0.75, 1.0),
                "scale": (3.0, 300.0),
            },
            free_dtype=("",),
            rounds=True,
        ),
        Trial(
            "the loss without labels",
            without_labels,
            lambda function, case, given: function(given.logits, given.labels),
            axes={"logits": ("given", "None")},
        ),
    ],
    MISTAKES,
    impossible={("logits", "labels"): "without logits there is nothing to be labelled"},
)
