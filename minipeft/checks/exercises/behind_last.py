"""Where the answer is read when rows have unequal lengths."""

from __future__ import annotations

import torch

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

LAST = "(mask * places).argmax(dim=1)"
SIDE = (
    "the side of the padding is decided once for the whole batch: it may differ from row to row, "
    "so look for the rightmost 1 of each row"
)


def inputs(case: Case, draw: Draw) -> dict:
    """Rows of unequal lengths, the longest one last, padded behind, before, or each in turn."""
    lengths = [max(1, case.T - case.step * ((row + 1) % case.B)) for row in range(case.B)]
    rows = [[1] * length + [0] * (case.T - length) for length in lengths]
    before = {"right": (), "left": range(case.B), "mixed": range(0, case.B, 2)}[case.side]
    rows = [row[::-1] if place in before else row for place, row in enumerate(rows)]
    mask = torch.tensor(rows)  # (B, T)
    return {
        "logits": draw.normal(case.B, case.T, case.V),
        "mask": mask.bool() if case.kind == "bool" else mask,
    }


behind_last = Check(
    "behind_last",
    "minipeft.course.written_prompts:behind_last",
    "the logits at each row's last token, with padding behind it or before it",
    [
        Trial(
            "the logits behind the last tokens",
            inputs,
            lambda behind_last, case, given: behind_last(given.logits, given.mask),
            axes={
                "B": (3, 1, 2),
                "T": (5, 3, 1),
                "V": (4, 1, 2),
                "step": (1, 0, 2),
                "side": ("right", "left", "mixed"),
                "kind": ("int", "bool"),
            },
        )
    ],
    [
        mistake(
            SIDE,
            (LAST, "mask.long().sum(dim=1) - 1 if mask[0, 0] else 0 * mask.sum(dim=1).long() - 1"),
        ),
        mistake(
            SIDE,
            (LAST, "0 * mask.long().sum(dim=1) - 1 if mask[:, -1].all() else mask.sum(dim=1) - 1"),
        ),
        mistake(
            "with padding before the row the number of tokens is not the place of the last one: "
            "look for the rightmost 1 of the mask",
            (LAST, "mask.long().sum(dim=1) - 1"),
        ),
        mistake(
            "the last column is padding in a short row that is padded behind: look for the "
            "rightmost 1 of the mask",
            (LAST, "torch.full((len(mask),), mask.shape[1] - 1)"),
        ),
        mistake(
            "argmax of the mask alone finds the first 1, the row's first token",
            (LAST, "mask.long().argmax(dim=1)"),
        ),
        mistake(
            "the mask was turned round, and the place found in it was not turned back",
            (LAST, "mask.long().flip(1).argmax(dim=1)"),
        ),
        mistake(
            "off by one: that is the place behind the last token",
            (LAST, "(mask * places).argmax(dim=1).add(1).clamp(max=mask.shape[1] - 1)"),
        ),
        mistake(
            "off by one: places are counted from 0, and the last token's is the rightmost 1",
            (LAST, "(mask * places).argmax(dim=1).add(1)"),
        ),
        mistake(
            "off by one: that is the token before the last, which predicts the last token itself",
            (LAST, "(mask * places).argmax(dim=1).sub(1).clamp(min=0)"),
        ),
        mistake(
            "the leftmost place is taken, of the row's first token",
            ("return logits[rows, last]", "return logits[:, 0]"),
        ),
        mistake(
            "every row is read at the place of the first row's last token",
            ("return logits[rows, last]", "return logits[:, last[0]]"),
        ),
        mistake(
            "the result pairs every row with every place, (B, B, V): index rows and places "
            "together, logits[rows, last]",
            ("return logits[rows, last]", "return logits[:, last]"),
        ),
        mistake(
            "the logits are averaged over the tokens of a row: only the last one predicts what "
            "comes behind",
            (
                "return logits[rows, last]",
                "return (logits * mask[..., None]).sum(1) / mask[..., None].sum(1)",
            ),
        ),
        mistake(
            "the logits are summed over the tokens of a row: only the last one predicts what "
            "comes behind",
            ("return logits[rows, last]", "return (logits * mask[..., None]).sum(1)"),
        ),
        mistake(
            "that is the largest logit of all tokens of a row: take those of the last token",
            (
                "return logits[rows, last]",
                'return logits.masked_fill(mask[..., None] == 0, float("-inf")).amax(1)',
            ),
        ),
        mistake(
            "padding is set to 0 and the last column taken: in a row that is padded behind, the "
            "last token stands further left",
            (
                "return logits[rows, last]",
                "return (logits * mask[..., None].to(logits.dtype))[:, -1]",
            ),
        ),
        mistake(
            "that is the logarithm of the softmax: give the logits as they are",
            ("return logits[rows, last]", "return logits[rows, last].log_softmax(dim=-1)"),
        ),
        mistake(
            "that is the softmax: give the logits as they are",
            ("return logits[rows, last]", "return logits[rows, last].softmax(dim=-1)"),
        ),
        mistake(
            "that is the chosen token: give the logits of all V tokens",
            ("return logits[rows, last]", "return logits[rows, last].argmax(dim=-1)"),
        ),
    ],
)
