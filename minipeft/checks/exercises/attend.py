"""Equation 1: Vaswani et al. 2017, section 3.2.1."""

from __future__ import annotations

import torch

from minipeft.checks.framework import DROPOUT, OMIT, Case, Check, Draw, Trial, call, mistake


def inputs(case: Case, draw: Draw) -> dict:
    """query (B, H, T, D), key and value (B, H, S, D), mask as the case says."""
    B, H, T, S, D = case.B, case.H, case.T, case.S, case.D
    query, key, value = draw.normal(B, H, T, D), draw.normal(B, H, S, D), draw.normal(B, H, S, D)
    lowest = torch.finfo(draw.dtype).min
    mask = case.mask
    if mask in ("bias", "padding"):
        shape = (T, S) if mask == "bias" else (B, 1, 1, S)
        closed = torch.rand(shape, generator=draw.generator) < 0.4
        values = torch.zeros(shape, dtype=draw.dtype).masked_fill(closed, lowest)
        values[..., 0] = -1.0  # a score may also be lowered a little, as relative positions do
        mask = draw.tensor(values)
    elif mask == "nowhere":  # a query of padding
        mask = draw.tensor(torch.full((T, S), lowest, dtype=draw.dtype))
    return {"query": query, "key": key, "value": value, "mask": mask}


def run(attend, case: Case, given):
    return call(attend, given.query, given.key, given.value, mask=given.mask, dropout=case.dropout)


def heads_only(attend, case: Case, given):
    """With a dropout the weights may be given back before or after it."""
    return run(attend, case, given)[0]


SCALED = " / math.sqrt(query.shape[-1])"
MASKED = "    if mask is not None:\n        scores = scores + mask\n"
SOFTMAX = "scores.softmax(dim=-1)"
DROPPED = f"F.dropout({SOFTMAX}, dropout)"
YES_OR_NO = "the mask is read as yes or no: add its values, a small one lowers a score a bit"
LOW = "torch.finfo(scores.dtype).min"

MISTAKES = [
    mistake("the scores are not scaled: divide them by sqrt(D)", (SCALED, "")),
    mistake("the scores are divided by D, it should be sqrt(D)", (SCALED, " / query.shape[-1]")),
    mistake(
        "the scores are multiplied by sqrt(D): divide them", (SCALED, SCALED.replace("/", "*"))
    ),
    mistake(
        "the scores are divided by sqrt(H), it should be sqrt(D): D is the last axis of the query",
        (SCALED, " / math.sqrt(query.shape[1])"),
    ),
    mistake(
        "the scores are divided by sqrt(T), it should be sqrt(D): D is the last axis of the query",
        (SCALED, " / math.sqrt(query.shape[-2])"),
    ),
    mistake(
        "the scores are divided by sqrt(H D): the query is one head already, so divide by sqrt(D)",
        (SCALED, " / math.sqrt(query.shape[1] * query.shape[-1])"),
    ),
    mistake(
        "the scores are divided by sqrt(S), it should be sqrt(D)",
        (SCALED, " / math.sqrt(key.shape[-2])"),
    ),
    mistake(
        "softmax runs over the queries (dim -2): each query shares out one unit of weight over "
        "the keys, dim -1",
        (SOFTMAX, "scores.softmax(dim=-2)"),
    ),
    mistake(
        "softmax runs over the heads (dim 1): it should run over the keys, dim -1",
        (SOFTMAX, "scores.softmax(dim=1)"),
    ),
    mistake(
        "softmax runs over the batch (dim 0): it should run over the keys, dim -1",
        (SOFTMAX, "scores.softmax(dim=0)"),
    ),
    mistake("these are the scores: the softmax is missing", (SOFTMAX, "scores")),
    mistake(
        "the heads and the weights have changed places: return heads, weights",
        ("weights @ value, weights", "weights, weights @ value"),
    ),
    mistake(
        "attend should return two tensors, the heads and the weights",
        when=lambda view: (
            view.difference.kind in ("type", "parts")
            and not view.difference.where
            and view.given is not None
        ),
    ),
    mistake(
        "the weights are transposed: weights @ value", ("weights @ value", "weights.mT @ value")
    ),
    mistake(
        "query and key have changed places: row i of the weights belongs to query i",
        ("query @ key.transpose(-2, -1)", "key @ query.transpose(-2, -1)"),
    ),
    mistake(
        "the weights mix the keys: they should mix the values", ("weights @ value", "weights @ key")
    ),
    mistake(
        "the heads are the values as they came: mix them, weights @ value",
        ("weights @ value", "value"),
    ),
    mistake(
        "the heads are the plain mean of the values",
        ("weights @ value,", "value.mean(2, True).expand_as(query),"),
    ),
    mistake("the mask is ignored: add it to the scores", (MASKED, "")),
    mistake(
        "the mask is added after the softmax, too late to share the weight out anew: add it to "
        "the scores",
        (MASKED, ""),
        (SOFTMAX, f"({SOFTMAX} + (0 if mask is None else mask))"),
    ),
    mistake(
        "what is masked is cut out after the softmax, so rows do not sum to 1: add the mask to the "
        "scores",
        (MASKED, ""),
        (SOFTMAX, f"{SOFTMAX}.masked_fill(False if mask is None else mask < -1e9, 0.0)"),
    ),
    mistake("the mask is multiplied with the scores: add it", ("scores + mask", "scores * mask")),
    mistake("the mask is subtracted from the scores: add it", ("scores + mask", "scores - mask")),
    mistake(
        "the mask is added before the division by sqrt(D): divide first",
        ("scores + mask", f"scores + mask{SCALED}"),
    ),
    mistake(YES_OR_NO, ("scores + mask", f"scores.masked_fill(mask < -1e9, {LOW})")),
    mistake(YES_OR_NO, ("scores + mask", f"scores.masked_fill(mask < 0, {LOW})")),
    mistake(
        "the mask is upside down: what it opens is closed",
        ("scores + mask", f"scores.masked_fill(mask > -1e9, {LOW})"),
    ),
    mistake(
        "the mask is read upside down, 0 as closed: 0 is added and changes nothing",
        ("scores + mask", f"scores.masked_fill(mask == 0, {LOW})"),
    ),
    mistake(
        "softmax runs over queries and keys together: each query shares out one unit of weight "
        "over the keys, dim -1",
        (SOFTMAX, "scores.flatten(-2).softmax(-1).view_as(scores)"),
    ),
    mistake(
        "there is a sigmoid in place of the softmax: the weights of a query sum to 1",
        (SOFTMAX, "scores.sigmoid()"),
    ),
    mistake(
        "query and key are divided by their lengths: the scores are their plain product, divided "
        "by sqrt(D)",
        (
            "query @ key.transpose",
            "F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose",
        ),
    ),
    mistake(
        "these are the scores beside the heads: give the weights, which come after the softmax",
        ("weights @ value, weights", "weights @ value, scores"),
    ),
    mistake(
        "the future is hidden although no mask asks for it: the mask alone says who may look",
        (
            MASKED,
            "    T, S = scores.shape[-2:]\n    if mask is None and T == S:\n"
            f"        mask = torch.full((T, S), {LOW}, dtype=scores.dtype).triu(1)\n{MASKED}",
        ),
    ),
    mistake(
        "a query that may look nowhere (padding) gives NaN: add the mask as it is, without -inf",
        when=lambda view: view.difference.kind == "nan" and view.case.mask == "nowhere",
    ),
    mistake(
        "dropout changes nothing: it sets some attention weights to zero, after the softmax",
        (DROPPED, SOFTMAX),
    ),
    mistake(
        "dropout changes nothing after the softmax: it falls on the scores, it should fall on the "
        "weights",
        (DROPPED, "F.dropout(scores, dropout).softmax(dim=-1)"),
    ),
    mistake(
        "dropout falls on the heads: it should fall on the weights, before they meet the values",
        (DROPPED, SOFTMAX),
        ("weights @ value, ", "F.dropout(weights @ value, dropout), "),
    ),
    mistake(
        "dropout falls on the values: it should fall on the weights, before they meet the values",
        (DROPPED, SOFTMAX),
        ("weights @ value, ", "weights @ F.dropout(value, dropout), "),
    ),
    mistake(
        "with dropout the heads become smaller on average: what is kept is divided by 1 - dropout "
        "(F.dropout does it)",
        (DROPPED, f"{SOFTMAX} * (torch.rand_like(scores) >= dropout)"),
    ),
    mistake(
        "dropout keeps what it should drop: p is the share that becomes zero",
        (DROPPED, f"{SOFTMAX} * (torch.rand_like(scores) < dropout) / max(dropout, 1e-9)"),
    ),
    mistake(
        "dropout keeps what it should drop: p is the share that becomes zero",
        (DROPPED, f"{SOFTMAX} * (torch.rand_like(scores) < dropout) / (1 - dropout)"),
    ),
    mistake(
        "the weights are shared out anew after dropout: what is kept is divided by 1 - dropout, "
        "whatever the row sums to",
        (DROPPED, f"F.normalize(F.dropout({SOFTMAX}, dropout), p=1, dim=-1)"),
    ),
]

attend = Check(
    "attend",
    "tiny_transformer.attention:attend",
    "softmax(Q K^T / sqrt(D) + mask) V, rows of weights that sum to 1, dropout on the weights",
    [
        Trial(
            "the answer",
            inputs,
            run,
            axes={
                "T": (4, 1, 3),
                "S": (4, 5, 1),
                "D": (6, 3, 1),
                "B": (2, 1),
                "H": (3, 1),
                "mask": (OMIT, None, "bias", "padding", "nowhere"),
                "dropout": (OMIT, 0.0),
            },
            valid=lambda case: case.dtype != "bfloat16" or min(case.T, case.S, case.D) > 1,
            names={"[0]": "the heads", "[1]": "the attention weights"},
            draws=True,
        ),
        Trial(
            "the heads",
            inputs,
            heads_only,
            axes={
                "dropout": (0.5, 0.1, 0.0),
                "mask": (None, "padding"),
                "T": (2, 1),
                "S": (2,),
                "D": (2,),
                "B": (1,),
                "H": (1, 2),
            },
            valid=lambda case: case.T * case.H < 4,
            **DROPOUT,
        ),
    ],
    MISTAKES,
)
