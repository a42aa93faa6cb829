"""The gradient of a prefix through one attention layer, by hand."""

from __future__ import annotations

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

SOFTMAX = "(query @ all_keys.mT / math.sqrt(D)).softmax(dim=-1)"
SCORES = "(upstream @ prefix_values.mT - (upstream * output).sum(-1, True))"
MASKED = (
    "(query @ all_keys.mT / math.sqrt(D)).masked_fill(torch.ones(query.shape[2], "
    "all_keys.shape[2], dtype=torch.bool).triu(P + 1), -math.inf).softmax(dim=-1)"
)
OF_KEYS = "(of_scores.mT @ query).sum(dim=0) / math.sqrt(D)"
OF_VALUES = "(to_prefix.mT @ upstream).sum(dim=0)"
FIRST = "weights[..., :P]"
SWAPPED = "of_values, of_keys"
BEHIND = [
    (
        f"[prefix_{name}.expand(B, -1, -1, -1), {name}]",
        f"[{name}, prefix_{name}.expand(B, -1, -1, -1)]",
    )
    for name in ("keys", "values")
]


def inputs(case: Case, draw: Draw) -> dict:
    B, H, T, S, P, D = case.B, case.H, case.T, case.S, case.P, case.D
    return {
        "query": draw.normal(B, H, T, D),
        "prefix_keys": draw.normal(H, P, D),
        "prefix_values": draw.normal(H, P, D),
        "keys": draw.normal(B, H, S, D),
        "values": draw.normal(B, H, S, D),
        "upstream": draw.normal(B, H, T, D),
    }


def run(prefix_gradients, case: Case, given):
    return prefix_gradients(
        given.query,
        given.prefix_keys,
        given.prefix_values,
        given.keys,
        given.values,
        given.upstream,
    )


def per_row(view) -> bool:
    """Has either gradient an axis too many, for the rows of the batch?"""
    given = view.given if isinstance(view.given, tuple | list) else ()
    return any(getattr(part, "dim", lambda: 0)() == 4 for part in given)


prefix_gradients = Check(
    "prefix_gradients",
    "minipeft.course.prefix:prefix_gradients",
    "dL/dP_k and dL/dP_v of one attention layer, summed over tokens and rows",
    [
        Trial(
            "the gradients",
            inputs,
            run,
            axes={
                "B": (2, 1, 3),
                "H": (2, 1),
                "T": (3, 1, 2),
                "S": (4, 1),
                "P": (2, 1, 3),
                "D": (5, 1, 4),
            },
            dtypes=("float64", "float32"),
            gradients=("frozen", "off"),
            names={"[0]": "dL/dP_k", "[1]": "dL/dP_v"},
        ),
    ],
    [
        mistake(
            "the gradients have an axis for the batch: all rows read the same prefix, so their "
            "gradients are summed, (H, P, D)",
            when=per_row,
        ),
        mistake(
            "the rows of the batch are averaged: every row reads the same prefix, so their "
            "gradients add up (a mean is the affair of the loss)",
            (OF_KEYS, OF_KEYS.replace(".sum(dim=0)", ".mean(dim=0)")),
            (OF_VALUES, OF_VALUES.replace(".sum(dim=0)", ".mean(dim=0)")),
        ),
        mistake(
            "only the first row of the batch counts: sum over all of them",
            (OF_KEYS, OF_KEYS.replace(".sum(dim=0)", "[0]")),
            (OF_VALUES, OF_VALUES.replace(".sum(dim=0)", "[0]")),
        ),
        mistake(
            "the last P weights are read, which are those of words: the prefix stands before them",
            (FIRST, "weights[..., -P:]"),
        ),
        *(
            mistake(
                "the prefix stands behind the words here, so the first P weights are those of "
                "words: it stands before them, [P_k ; K]",
                *BEHIND,
                *edits,
            )
            for edits in ([], [(SCORES, SCORES.replace("prefix_values", "all_values[:, :, :P]"))])
        ),
        mistake(
            "the softmax runs over the queries: a query's weights over all keys add up to 1, so "
            "over the last axis",
            (SOFTMAX, SOFTMAX.replace("dim=-1", "dim=-2")),
        ),
        mistake(
            "the softmax runs over the queries: a query's weights over all keys add up to 1, so "
            "over the last axis",
            (SOFTMAX, SOFTMAX.replace("dim=-1", "dim=-2")),
            (SCORES, "((gap := upstream @ prefix_values.mT) - (to_prefix * gap).sum(-2, True))"),
        ),
        mistake(
            "only the last token counts: sum over all tokens, each of them reads the prefix",
            (OF_KEYS, "(of_scores.mT[..., -1:] @ query[:, :, -1:]).sum(dim=0) / math.sqrt(D)"),
            (OF_VALUES, "(to_prefix.mT[..., -1:] @ upstream[:, :, -1:]).sum(dim=0)"),
        ),
        mistake(
            "in dL/dP_v stands the output where dL/do belongs: o = a v, so that dL/dv is a times g",
            (OF_VALUES, "(to_prefix.mT @ output).sum(dim=0)"),
        ),
        mistake(
            "in dL/dP_k stands the key where the query belongs: the score is q . k / sqrt(D), and "
            "its derivative for k is q",
            (OF_KEYS, "(of_scores.sum(-2)[..., None] * prefix_keys).sum(dim=0) / math.sqrt(D)"),
        ),
        mistake("dL/dP_k and dL/dP_v have changed places", ("of_keys, of_values", SWAPPED)),
        mistake(
            "in dL/dP_k the factor 1 / sqrt(D) of the scores is missing",
            (OF_KEYS, "(of_scores.mT @ query).sum(dim=0)"),
        ),
        mistake(
            "dL/dP_k is divided by D, it should be sqrt(D)",
            (OF_KEYS, OF_KEYS.replace("math.sqrt(D)", "D")),
        ),
        mistake(
            "dL/dP_v is divided by sqrt(D): only the scores are, and values are not in them",
            (OF_VALUES, f"{OF_VALUES} / math.sqrt(D)"),
        ),
        mistake(
            "the scores are not divided by sqrt(D) before the softmax",
            (SOFTMAX, "(query @ all_keys.mT).softmax(dim=-1)"),
        ),
        mistake(
            "in dL/dP_k the softmax counts as a constant factor: when one weight rises the others "
            "fall, so it is g . (v - o), not g . v",
            (SCORES, "(upstream @ prefix_values.mT)"),
        ),
        mistake(
            "in dL/dP_k two things are missing: o, since it is g . (v - o) and not g . v, and the "
            "factor 1 / sqrt(D)",
            (SCORES, "(upstream @ prefix_values.mT)"),
            (OF_KEYS, "(of_scores.mT @ query).sum(dim=0)"),
        ),
        mistake(
            "in dL/dP_k g meets the keys: the output is made of values, so it is g . (v - o)",
            (SCORES, SCORES.replace("prefix_values", "prefix_keys")),
        ),
        mistake(
            "o is made of the words alone: the prefix is a part of the output of attention",
            ("output = weights @ all_values", "output = weights[..., P:] @ values"),
        ),
        mistake(
            "the factor 1 - a is one too many: o holds it, since dL/dscore = a (g . (v - o))",
            (f"to_prefix * {SCORES}", f"to_prefix * (1 - to_prefix) * {SCORES}"),
        ),
        mistake(
            "in dL/dP_v the weights are divided by their sum over the prefix: lambda is lost, and "
            "a prefix that nobody looks at would learn",
            (OF_VALUES, "((to_prefix / to_prefix.sum(-1, True)).mT @ upstream).sum(dim=0)"),
        ),
        mistake(
            "queries are hidden from words behind them: no query is hidden from any key",
            (SOFTMAX, MASKED),
        ),
        mistake(
            "the sign of g . (v - o) is turned round in dL/dP_k",
            (SCORES, f"-{SCORES}"),
        ),
        mistake(
            "o is made of the prefix alone: the output of attention is made of words, too",
            ("output = weights @ all_values", "output = weights[..., :P] @ prefix_values"),
        ),
        mistake(
            "the derivative of the softmax is a (1 - a) only for one entry: the other scores move "
            "too, so that dL/dscore = a (g . (v - o))",
            (SCORES, "((upstream @ prefix_values.mT) * (1 - to_prefix))"),
        ),
        mistake(
            "the factor a, the attention weight, is missing in dL/dP_k",
            (f"to_prefix * {SCORES}", f"{SCORES}"),
        ),
        mistake(
            "the softmax runs over the prefix alone: words compete for attention, too",
            (FIRST, "(query @ prefix_keys.mT / math.sqrt(D)).softmax(dim=-1)"),
        ),
        mistake(
            "the softmax runs over the prefix alone: words compete for attention, too",
            (FIRST, "(query @ prefix_keys.mT / math.sqrt(D)).softmax(dim=-1)"),
            (
                "output = weights @ all_values",
                "output = (query @ prefix_keys.mT / math.sqrt(D)).softmax(dim=-1) @ prefix_values",
            ),
        ),
        mistake(
            "these are the weights of the last P words: the prefix stands first",
            (FIRST, "weights[..., -P:]"),
        ),
        mistake(
            "the softmax runs over the queries: each query's weights sum to 1, dim=-1",
            (SOFTMAX, SOFTMAX.replace("dim=-1", "dim=-2")),
        ),
        mistake(
            "what comes from above is ignored: multiply by dL/do",
            (
                "B, P, D = len(query)",
                "upstream = torch.ones_like(upstream)\n    B, P, D = len(query)",
            ),
        ),
        mistake(
            "the tokens are averaged: every token's gradient is added",
            (OF_KEYS, f"{OF_KEYS} / query.shape[2]"),
            (OF_VALUES, f"{OF_VALUES} / query.shape[2]"),
        ),
        mistake(
            "a gradient was asked of autograd where it is off: work it out with the matrices",
            when=lambda view: view.error is not None and "grad" in str(view.error),
        ),
    ],
)
