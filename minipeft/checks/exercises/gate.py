"""The gate of UniPELT: Mao et al. 2022, section 3.2."""

from __future__ import annotations

import torch

from minipeft.checks.framework import Case, Check, Draw, Trial, call, expect, mistake

UNFIT = ("other text", "other batch", "turned")  # masks that belong to other tokens
MASKS = ("none", "padding behind", "padding before", "gap", "all ones", "nothing", *UNFIT)
SIGMOID = "torch.sigmoid(x @ self.weight + self.bias)[..., None]"
ALONE = "g = torch.sigmoid(self.bias).view(1, 1, 1)"
MEAN = "g = (g * counts).sum(dim=1, keepdim=True) / total"
OWN = "counts = self.mask.to(g)[..., None]"
KNOWN = "if self.mask is not None and self.mask.shape == x.shape[:2]:"
TOTAL = "counts.sum(dim=1, keepdim=True).clamp(min=1)"
KEPT = "self.value = g.detach()"
ONLY_MEAN = 'if self.mode == "mean":'
BEFORE = "x = x.to(self.weight.dtype)"
ZEROED = f"""{BEFORE}
            fits = self.mask is not None and self.mask.shape == x.shape[:2]
            if fits and self.mode == "mean":
                x = x * self.mask[..., None]"""


def build(Gate: type, case: Case):
    return call(Gate, case.width, case.mode)


def mask_of(case: Case) -> torch.Tensor | None:
    """(N, T) or None, or one of another length or number of texts: it belongs to other tokens."""
    if case.mask == "none":
        return None
    N, T = case.N, case.T
    if case.mask == "other text":
        return torch.ones(N, T + 2, dtype=torch.long)
    if case.mask == "other batch":  # which a product would spread over all texts
        mask = torch.ones(1 if N > 1 else 2, T, dtype=torch.long)
        mask[:, -1] = 0
        return mask
    if case.mask == "turned":  # as many numbers, in another shape
        mask = torch.ones(N * T, dtype=torch.long)
        mask[::2] = 0
        return mask.view((T, N) if T != N else (1, N * T))
    mask = torch.ones(N, T, dtype=torch.long)
    for row in range(N):
        cut = min(T - 1, row + 1)  # in every row another number of tokens is padding
        if case.mask == "padding behind" and cut:
            mask[row, -cut:] = 0
        if case.mask == "padding before" and cut:
            mask[row, :cut] = 0
        if case.mask == "gap" and T > 2:
            mask[row, 1] = 0
    if case.mask == "nothing":
        mask[0] = 0  # a text without a word
    return mask


def inputs(case: Case, draw: Draw) -> dict:
    """x (N, T, C), which may have another dtype than the gate's numbers."""
    if case.x_dtype != "same":
        draw.dtype = getattr(torch, case.x_dtype)
    return {"x": draw.normal(case.N, case.T, case.width, scale=2.0)}


def run(gate, case: Case, given) -> dict:
    mask = mask_of(case)
    gate.mask = mask
    g = gate(given.x)
    value = gate.value
    expect(
        mask is None or isinstance(gate.mask, torch.Tensor) and _same(mask_of(case), gate.mask),
        "forward changes self.mask: leave it as it is, since query and value ask the same gate one "
        "after the other",
    )
    return {"g": g, "value": value}


def _same(mask: torch.Tensor, other: torch.Tensor) -> bool:
    """Whatever the dtype, do they count the same tokens?"""
    return mask.shape == other.shape and torch.equal(mask.bool(), other.bool())


gate = Check(
    "gate",
    "minipeft.methods.unipelt:Gate",
    "the mean of sigmoid(W_g x + b_g) over a text's own tokens; for each token; without input",
    [
        Trial(
            "the gate",
            inputs,
            run,
            build=build,
            axes={
                "mode": ("mean", "token", "alone"),
                "mask": MASKS,
                "width": (4, 3, 1),
                "N": (2, 3, 1),
                "T": (5, 3, 1),
                "x_dtype": ("same", "float32", "bfloat16"),
            },
            names={"g": "g", "value": "self.value"},
            keeps=("mask", "value"),
        )
    ],
    [
        mistake(
            "padding counts in the mean: only a text's own tokens do, those with a 1 in self.mask",
            (KNOWN, "if False:"),
        ),
        mistake(
            "padding is left out of the sum, and yet the sum is divided by all T tokens",
            (MEAN, "g = (g * counts).mean(dim=1, keepdim=True)"),
        ),
        mistake(
            "the x of padding is set to 0, whose sigmoid is not 0: leave padding out of the mean",
            (BEFORE, ZEROED),
            (KNOWN, "if False:"),
        ),
        mistake(
            "the x of padding is set to 0, whose sigmoid is not 0: leave padding out of the mean",
            (BEFORE, ZEROED),
            (MEAN, "g = g.sum(dim=1, keepdim=True) / total"),
        ),
        mistake(
            "the first tokens are averaged, as many as the mask has ones: padding may stand before "
            "a text or in it, so take those where the mask is 1",
            (OWN, "counts = self.mask.sort(dim=1, descending=True).values.to(g)[..., None]"),
        ),
        mistake(
            "a text without a token gets the mean over its padding: it gets 0",
            (
                OWN,
                "counts = self.mask.where(self.mask.any(1, True), 1).to(g)[..., None]",
            ),
        ),
        mistake(
            "the mean is over x, and the sigmoid comes after it: every token has a sigmoid first",
            (SIGMOID, "(x @ self.weight + self.bias)[..., None]"),
            (MEAN, "g = torch.sigmoid((g * counts).sum(dim=1, keepdim=True) / total)"),
            (KEPT, 'g = torch.sigmoid(g) if self.mode == "token" else g\n        ' + KEPT),
        ),
        mistake(
            "the sum over the tokens is not divided by how many they are",
            (MEAN, "g = (g * counts).sum(dim=1, keepdim=True)"),
        ),
        mistake(
            'mode "token" is averaged, too: there every token has a gate of its own',
            (ONLY_MEAN, "if self.weight is not None:"),
        ),
        mistake(
            'mode "mean" is not averaged: there a text has one gate, (N, 1, 1)',
            (ONLY_MEAN, "if False:"),
        ),
        mistake(
            'the modes are exchanged: "mean" has one gate for a text, "token" one for each token',
            (ONLY_MEAN, 'if self.mode == "token":'),
        ),
        mistake(
            'in mode "token" padding is set to 0: no token looks at another there, so nothing is '
            "left out",
            (
                ONLY_MEAN,
                'if self.mode == "token":\n            known = self.mask is not None and '
                "self.mask.shape == x.shape[:2]\n            "
                "g = g * self.mask.to(g)[..., None] if known else g\n        " + ONLY_MEAN,
            ),
        ),
        mistake("the bias b_g is missing", (SIGMOID, "torch.sigmoid(x @ self.weight)[..., None]")),
        mistake(
            "b_g is added behind the sigmoid: a gate stays between 0 and 1",
            (SIGMOID, "(torch.sigmoid(x @ self.weight) + self.bias)[..., None]"),
        ),
        mistake(
            "the sigmoid is missing: a gate stays between 0 and 1",
            (SIGMOID, "(x @ self.weight + self.bias)[..., None]"),
        ),
        mistake(
            "the non-linearity is a tanh, which can be negative: a gate is a sigmoid",
            (SIGMOID, "torch.tanh(x @ self.weight + self.bias)[..., None]"),
        ),
        mistake(
            "the non-linearity is a ReLU, which has no upper end: a gate is a sigmoid",
            (SIGMOID, "torch.relu(x @ self.weight + self.bias)[..., None]"),
        ),
        mistake(
            "the line is cut off at 0 and 1, where its gradient is 0: a gate is a sigmoid",
            (SIGMOID, "(x @ self.weight + self.bias).clamp(0, 1)[..., None]"),
        ),
        mistake(
            "W_g is brought to the dtype of x, which rounds it: bring x to that of W_g",
            (BEFORE, "pass"),
            (SIGMOID, "torch.sigmoid(x @ self.weight.to(x.dtype) + self.bias)[..., None]"),
        ),
        mistake(
            "W_g is brought to the dtype of x, which rounds it: bring x to that of W_g",
            (BEFORE, "dtype = x.dtype"),
            (
                SIGMOID,
                "torch.sigmoid(x @ self.weight.to(dtype) + self.bias.to(dtype))[..., None]",
            ),
        ),
        mistake(
            "g is rounded to 0 or 1: a gate may be half open, and rounding has no gradient",
            (KEPT, f"g = g.round()\n        {KEPT}"),
        ),
        mistake(
            "g is rounded to 0 or 1: a gate may be half open, and rounding has no gradient",
            (KEPT, f"{KEPT}\n        g = g.round()"),
        ),
        mistake(
            "that is a softmax over the tokens, whose sum is always 1: each token has a sigmoid",
            (SIGMOID, "torch.softmax(x @ self.weight + self.bias, dim=1)[..., None]"),
        ),
        mistake(
            "W_g x is divided by sqrt(C), as scores of attention are: a gate is not",
            (SIGMOID, "torch.sigmoid(x @ self.weight / x.shape[-1] ** 0.5 + self.bias)[..., None]"),
        ),
        mistake(
            "the gate is turned round, it is 1 - g: positive W_g x opens it",
            (SIGMOID, "torch.sigmoid(-(x @ self.weight + self.bias))[..., None]"),
        ),
        mistake(
            'in mode "alone" the gate is a constant: it is sigmoid(b_g), and b_g is trained',
            (ALONE, "g = torch.full_like(self.bias, 0.5).view(1, 1, 1)"),
        ),
        mistake(
            'in mode "alone" the sigmoid is missing: g = sigmoid(b_g)',
            (ALONE, "g = self.bias.view(1, 1, 1)"),
        ),
        mistake(
            'in mode "alone" the gate has another shape: (1, 1, 1), which fits every batch',
            (ALONE, "g = torch.sigmoid(self.bias)"),
        ),
        mistake(
            'in mode "alone" the gate has another shape: (1, 1, 1), which fits every batch',
            (ALONE, "g = torch.sigmoid(self.bias).expand(x.shape[0], 1, 1)"),
        ),
        mistake(
            'in mode "alone" the gate has another shape: (1, 1, 1), which fits every batch',
            (ALONE, "g = torch.sigmoid(self.bias).expand(x.shape[0], x.shape[1], 1)"),
        ),
        mistake(
            "that is the largest over the tokens: the paper takes their mean",
            (MEAN, "g = (g * counts).amax(dim=1, keepdim=True)"),
        ),
        mistake(
            "that is the first token alone: the paper takes the mean over all tokens of a text",
            (MEAN, "g = g[:, :1]"),
        ),
        mistake(
            "that is the last place alone: the paper takes the mean over all tokens of a text",
            (MEAN, "g = g[:, -1:]"),
        ),
        mistake(
            "the mean runs over the texts of the batch as well: every text has a gate of its own",
            (MEAN, f"{MEAN}\n            g = g.mean(dim=0, keepdim=True)"),
        ),
        mistake(
            "the mask is read the other way round: 1 is a token of the text, 0 is padding",
            (OWN, "counts = 1 - self.mask.to(g)[..., None]"),
        ),
        mistake(
            "a text without a token divides by 0: divide by 1 there, so that the gate says 0",
            (TOTAL, "counts.sum(dim=1, keepdim=True)"),
        ),
        mistake(
            "0 / 0 is only covered by nan_to_num: the gradient is NaN all the same; divide by 1 "
            "there",
            (TOTAL, "counts.sum(dim=1, keepdim=True)"),
            (MEAN, MEAN.replace("(g * counts)", "torch.nan_to_num((g * counts)") + ", nan=0.0)"),
        ),
        mistake(
            "a mask that is not (N, T) belongs to other tokens: without one that fits, all count",
            when=lambda view: view.case.mask in UNFIT and view.case.mode == "mean",
        ),
        mistake(
            "a text without a token gets 0",
            when=lambda view: (
                view.case.mask == "nothing"
                and view.case.mode == "mean"
                and view.difference.kind == "value"
                and torch.equal(view.wanted["g"][1:], view.given["g"][1:])
            ),
        ),
        mistake(
            "without a mask self.mask is None: then all tokens count",
            when=lambda view: view.case.mask == "none" and "NoneType" in str(view.error),
        ),
        mistake(
            'in mode "alone" there is no W_g, self.weight is None: g = sigmoid(b_g)',
            when=lambda view: view.case.mode == "alone" and "NoneType" in str(view.error),
        ),
        mistake(
            "x may have another dtype than W_g: bring it to W_g's first",
            when=lambda view: view.case.x_dtype != "same" and "dtype" in str(view.error),
        ),
        mistake(
            "what the gate said is not kept: self.value is g without its gradient",
            (KEPT, "pass"),
        ),
        mistake(
            "self.value carries a gradient and keeps the whole graph alive: detach it",
            (KEPT, "self.value = g"),
        ),
        mistake(
            "g itself is detached: then W_g and b_g would never learn; only self.value is",
            (KEPT, f"{KEPT}\n        g = g.detach()"),
        ),
    ],
    blank=("forward",),
)
