"""How likely an answer is: the sum over its tokens, and over nothing else."""

from __future__ import annotations

import torch

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake


def inputs(case: Case, draw: Draw) -> dict:
    """logits (B, T, V); labels (B, T): a question, an answer, and padding in some rows."""
    labels = torch.randint(0, case.V, (case.B, case.T), generator=draw.generator)
    for row in range(case.B):
        begin = min(case.question + row, case.T - 1)
        labels[row, :begin] = -100
        end = case.T - (row % 2) * case.padding
        if end > begin + 1:
            labels[row, end:] = -100
    if case.silent:
        labels[-1] = -100
    logits = draw.normal(case.B, case.T, case.V, scale=case.scale)
    return {"logits": logits, "labels": draw.whole(labels)}


SHIFT = "logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))"
NEXT = "labels = labels[:, 1:]"
PICK = "logits.log_softmax(dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]"
SUM = "(chosen * asked).sum(dim=1)"


def one_place(where: str) -> str:
    """An edit: the sum over some of the answer's tokens."""
    return f"(chosen * asked * ({where})).sum(dim=1)"


SAME = "logits.to(torch.promote_types(logits.dtype, torch.float32))"

answer_log_probability = Check(
    "answer_log_probability",
    "minipeft.training.preferences:answer_log_probability",
    "the sum of log p over the tokens of the answer, for each row",
    [
        Trial(
            "the log-probability",
            inputs,
            lambda function, case, given: function(given.logits, given.labels),
            axes={
                "B": (2, 1, 4),
                "T": (5, 2, 8),
                "V": (7, 2, 11),
                "question": (2, 1, 0),
                "padding": (1, 0, 2),
                "scale": (2.0, 300.0),
                "silent": (False, True),
            },
            free_dtype=("",),
        )
    ],
    [
        mistake(
            "the labels are not shifted: the logits at position t say what comes at t + 1",
            (SHIFT, SAME),
            (NEXT, "pass"),
        ),
        mistake(
            "shifted the wrong way: the logits at position t say what comes at t + 1, not at t - 1",
            (SHIFT, SHIFT.replace("[:, :-1]", "[:, 1:]")),
            (NEXT, "labels = labels[:, :-1]"),
        ),
        mistake("labels of -100 count as word 0: leave them out", (SUM, "chosen.sum(dim=1)")),
        mistake(
            "that is the mean over the answer's tokens: DPO takes the sum",
            (SUM, "(chosen * asked).sum(dim=1) / asked.sum(dim=1).clamp(min=1)"),
        ),
        mistake(
            "that is the mean over all positions: take the sum over those of the answer",
            (SUM, "(chosen * asked).mean(dim=1)"),
        ),
        mistake(
            "that is the last token of the answer alone: take the sum over all of them",
            (SUM, one_place("asked.flip(1).cumsum(1).flip(1) == 1")),
        ),
        mistake(
            "that is the first token of the answer alone: take the sum over all of them",
            (SUM, one_place("asked.cumsum(1) == 1")),
        ),
        mistake(
            "the first token of the answer is left out: the question's last position speaks of it",
            (SUM, one_place("asked.cumsum(1) > 1")),
        ),
        mistake(
            "the last token of the answer is left out",
            (SUM, one_place("asked.flip(1).cumsum(1).flip(1) > 1")),
        ),
        mistake(
            "the last position is asked for the first label: roll brings it round, leave it out",
            (SHIFT, SAME),
            (NEXT, "labels = labels.roll(-1, 1)"),
        ),
        mistake(
            "logits and labels are both cut, and not shifted: the logits at position t say what "
            "comes at t + 1",
            (NEXT, "labels = labels[:, :-1]"),
        ),
        mistake(
            "that is divided by the root of the answer's length: DPO takes the sum",
            (SUM, "(chosen * asked).sum(dim=1) / asked.sum(dim=1).clamp(min=1) ** 0.5"),
        ),
        mistake(
            "that is the least likely token of the answer alone: take the sum over all of them",
            (SUM, "chosen.masked_fill(~asked, 0).amin(1)"),
        ),
        mistake(
            "probabilities are added and the logarithm is taken of the sum: add the logarithms",
            (SUM, 'chosen.masked_fill(~asked, float("-inf")).logsumexp(1)'),
        ),
        mistake(
            "squeeze() takes away every axis of size 1, that of the batch or of the positions too: "
            "name the axis",
            (PICK, PICK.replace("[..., 0]", ".squeeze()")),
        ),
        mistake(
            "places that are left out get minus infinity, which a sum keeps: they get 0",
            (SUM, 'chosen.masked_fill(~asked, float("-inf")).sum(dim=1)'),
        ),
        mistake(
            "probabilities are multiplied, and no logarithm is taken: add the logarithms",
            (SUM, "chosen.exp().masked_fill(~asked, 1).prod(1)"),
        ),
        mistake(
            "logarithms are multiplied: add them",
            (SUM, "chosen.masked_fill(~asked, 1).prod(1)"),
        ),
        mistake(
            "that is the entropy of the words: take the log-probability of the one in the answer",
            (PICK, "(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)"),
        ),
        mistake(
            "a label of -100 is no word that can be looked up: clamp the labels (or fill them) "
            "first, and leave those places out of the sum",
            when=lambda view: "index -100 is out of bounds" in str(view.error),
        ),
        mistake(
            "the mask is not shifted: it belongs to the token at t + 1, as the label does",
            (NEXT, "unshifted = labels[:, :-1] != -100\n    labels = labels[:, 1:]"),
            (SUM, "(chosen * unshifted).sum(dim=1)"),
        ),
        mistake(
            "word 0 is left out: only -100 means that nothing is asked",
            (SUM, "(chosen * (labels > 0)).sum(dim=1)"),
        ),
        mistake(
            "that is the likeliest word at every position: take the one that the answer has",
            (PICK, "logits.log_softmax(dim=-1).amax(dim=-1)"),
        ),
        mistake(
            "that is one number for the whole batch: each row has its own",
            (SUM, "(chosen * asked).sum()"),
        ),
        mistake(
            "the sign is wrong: log p is negative, the loss is not asked for", (SUM, f"-{SUM}")
        ),
        mistake(
            "the logarithm is missing: sum log p", (PICK, PICK.replace("log_softmax", "softmax"))
        ),
        mistake(
            "the softmax is missing: a logit is no log-probability",
            (PICK, PICK.replace(".log_softmax(dim=-1)", "")),
        ),
        mistake(
            "the softmax is over the positions: it is over the words, the last axis",
            (PICK, PICK.replace("log_softmax(dim=-1)", "log_softmax(dim=1)")),
        ),
        mistake(
            "the sum is over the rows: it is over the positions, axis 1",
            (SUM, "(chosen * asked).sum(dim=0)"),
        ),
        mistake(
            "with large logits a small number inside of the logarithm counts: use log_softmax",
            when=lambda view: (
                view.case.scale == 300.0
                and view.difference.kind == "value"
                and bool(torch.isfinite(view.given).all())
            ),
        ),
        mistake(
            "a row without an answer gets 0: here it is NaN or infinite (0 / 0?)",
            when=lambda view: (
                view.case.silent
                and not bool(torch.isfinite(view.given[-1]))
                and bool(torch.isfinite(view.given[:-1]).all())
            ),
        ),
        mistake(
            "with large logits this is -inf or nan: use log_softmax, not log(softmax)",
            when=lambda view: (
                view.case.scale == 300.0 and not bool(torch.isfinite(view.given).all())
            ),
        ),
        mistake(
            "it is computed in bfloat16, which keeps three digits: turn the logits into float32 "
            "first",
            when=lambda view: (
                view.case.dtype == "bfloat16" and view.difference.kind in ("value", "dtype")
            ),
        ),
    ],
)
