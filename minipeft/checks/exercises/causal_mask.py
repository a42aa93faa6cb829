"""Who may look at whom."""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.checks.framework import Case, Check, Draw, Trial, expect, mistake


def inputs(case: Case, draw: Draw) -> dict:
    return {"tokens": case.tokens, "keys": case.tokens + case.past, "like": draw.normal(1, 2)}


def judge(case: Case, given: dict, mask) -> None:
    """0 for the past and the token itself, very negative for the future, in the dtype of `like`."""
    T, S = given["tokens"], given["keys"]
    expect(isinstance(mask, Tensor), "causal_mask should return a tensor (is a return missing?)")
    expect(
        mask.shape == (T, S),
        f"for {T} tokens and {S} keys the mask has shape {tuple(mask.shape)}, "
        f"it should be ({T}, {S})",
    )
    expect(
        mask.dtype != torch.bool,
        "the mask holds True and False: it is added to scores, so it needs 0 and a very negative "
        "number",
    )
    expect(
        not torch.isinf(mask).any() or case.dtype in ("bfloat16", "float16"),
        "the forbidden value is minus infinity: a query that may look nowhere would give NaN, so "
        "take torch.finfo(like.dtype).min",
    )
    expect(
        not (mask > 0).any(),
        "the mask holds positive numbers: it is added to the scores, 0 means may look",
    )
    _pattern(mask, T, S)
    if (mask < 0).any():
        weakest = mask[mask < 0].max().item()
        expect(
            weakest <= (-0.9e9 if case.dtype != "float16" else -3e4),
            f"the forbidden value {weakest:g} is too weak: a large score would shine through",
        )
    dtype = given["like"].dtype
    expect(
        mask.dtype == dtype,
        f"for {dtype} queries the mask is {mask.dtype}: give it the dtype of `like`",
    )
    expect(bool(torch.isfinite(mask).all()), _overflow(dtype))
    expect(
        not mask.requires_grad,
        "the mask gets a gradient: it is made anew, not computed from `like`",
    )


def _pattern(mask: Tensor, T: int, S: int) -> None:
    open_ = mask == 0  # (T, S)
    rows, columns = torch.arange(T)[:, None] + S - T, torch.arange(S)[None]
    if torch.equal(open_, columns <= rows):
        return
    for sentence, wrong in (
        ("every query may look everywhere: the future is open", torch.ones(T, S) > 0),
        (
            "off by one: a query sees the token after it, whose word it should guess",
            columns <= rows + 1,
        ),
        ("off by one: a query does not see its own token", columns < rows),
        ("upside down: queries see the future and not the past", columns >= rows),
        ("upside down: queries see the future and not the past", columns > rows),
        (
            "with more keys than tokens the first keys are the past: the last query stands at the "
            "last key",
            columns <= rows - (S - T),
        ),
        (
            "the past is closed: of more keys than tokens the first ones are the past, which every "
            "query sees",
            (columns <= rows) & (columns >= S - T),
        ),
        (
            "the past is put behind the tokens: of more keys than tokens the first ones are the "
            "past",
            (columns <= rows - (S - T)) | (columns >= T),
        ),
        (
            "the token sees itself and nothing of its past: all that came before is open",
            columns == rows,
        ),
    ):
        expect(not torch.equal(open_, wrong), sentence)
    i, j = (int(n[0]) for n in torch.nonzero(open_ != (columns <= rows), as_tuple=True))
    state = "may" if open_[i, j] else "may not"
    expect(
        False,
        f"of {T} tokens and {S} keys query {i} {state} look at key {j}: query i stands at key "
        f"i + {S - T} and sees it and all before it",
    )


def _overflow(dtype) -> str:
    return (
        f"the forbidden value is too large for {dtype}: use torch.finfo(like.dtype).min, in a "
        "tensor of that dtype"
    )


CALLED = {
    "inputs": inputs,
    "run": lambda causal_mask, case, given: causal_mask(given.tokens, given.keys, given.like),
    "judge": judge,
}

causal_mask = Check(
    "causal_mask",
    "tiny_transformer.attention:causal_mask",
    "0 for the past and the token itself, very negative for the future, with a past of any length",
    [
        Trial("the mask", axes={"tokens": (5,), "past": (0,)}, dtypes=("float32",), **CALLED),
        Trial(
            "the mask",
            axes={"tokens": (2, 5, 1), "past": (3, 4, 1, 0)},
            dtypes=("float32",),
            **CALLED,
        ),
        Trial(
            "the mask",
            axes={"tokens": (5, 2), "past": (0, 3)},
            dtypes=("float32", "bfloat16", "float16", "float64"),
            **CALLED,
        ),
    ],
    [
        mistake(
            lambda view: _overflow(view.inputs["like"].dtype),
            when=lambda view: "overflow" in str(view.error),
        ),
    ],
)
