"""LoRA in a batch whose rows belong to different adapters, or to none."""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

WHO = "adapted = who >= 0"
PICK = "A, B = A[who[adapted]], B[who[adapted]]"
DETOUR = "detour = scale * (x[adapted] @ A.mT) @ B.mT"
RESULT = "return y.index_put((adapted,), y[adapted] + detour)"


def inputs(case: Case, draw: Draw) -> dict:
    """x (R, T, in), y (R, T, out), A (N, r, in), B (N, out, r) and who (R,)."""
    R, N = case.R, case.N
    who = {
        "mixed": [(2 * row + N - 1) % (N + 1) - 1 for row in range(R)],  # in no order, -1 too
        "adapters only": [(N - 1 - row) % N for row in range(R)],
        "all the last": [N - 1] * R,
        "all the base": [-1] * R,
    }[case.who]
    return {
        "x": draw.normal(R, case.T, case.inside),
        "y": draw.normal(R, case.T, case.out),
        "A": draw.normal(N, case.r, case.inside),
        "B": draw.normal(N, case.out, case.r),
        "who": draw.whole(torch.tensor(who)),
    }


def run(mixed_lora, case: Case, given) -> Tensor:
    return mixed_lora(given.x, given.y, given.A, given.B, given.who, case.scale)


KEPT = (PICK, f"every = scale * (B @ A)  # (N, out, in)\n    {PICK}")
ALL = "torch.einsum('rti,noi->rtno', x, every)"
A_RESHAPED = "A.reshape(len(A), A.shape[2], A.shape[1])"
B_RESHAPED = "B.reshape(len(B), B.shape[2], B.shape[1])"
RESHAPED = "is reshaped where it is to be transposed: .mT turns the last two axes"


def one_row_of_each(others: str) -> tuple[str, str]:
    """An edit: of the rows with the same adapter only that one gets it which has no such others."""
    return (
        DETOUR,
        f"{DETOUR}\n    same = who[adapted].tolist()\n"
        f"    alone = [a not in same[{others}] for i, a in enumerate(same)]\n"
        "    detour = detour * torch.tensor(alone, dtype=torch.bool)[:, None, None]",
    )


MISTAKES = [
    mistake(
        "rows of the base get an adapter: -1 is no adapter, and as an index it counts from the end",
        (WHO, "adapted = who >= -1"),
    ),
    mistake(
        "rows of the base get adapter 0: -1 is no adapter, so they keep their y",
        (WHO, "adapted = who >= -1"),
        (PICK, "A, B = A[who.clamp(min=0)], B[who.clamp(min=0)]"),
    ),
    mistake(
        "rows of adapter 0 are left to the base: -1 alone means the base",
        (WHO, "adapted = who > 0"),
    ),
    mistake(
        "the sign of who is taken away: -1 means the base, not adapter 1",
        (WHO, "who = who.abs().clamp(max=len(A) - 1)\n    adapted = who >= 0"),
    ),
    mistake(
        "rows of the last adapter are left to the base: -1 alone means the base",
        (WHO, "adapted = (who >= 0) & (who < len(A) - 1)"),
    ),
    mistake(
        "a row gets every adapter up to its own: only adapter who[i] acts on it",
        (
            RESULT,
            "for a in range(len(everything_A)):\n        rows = (who >= a)[:, None, None]\n"
            "        y = y + rows * (scale * (x @ everything_A[a].mT) @ everything_B[a].mT)\n"
            "    return y",
        ),
        (WHO, "adapted = who >= 0\n    everything_A, everything_B = A, B"),
    ),
    mistake(
        "adapters are counted among those that the batch holds (unique): take A[a] and B[a] of the "
        "number itself",
        (
            PICK,
            "n = who[adapted].unique(return_inverse=True)[1]\n    A, B = A[n], B[n]",
        ),
    ),
    mistake(
        "a batch of one row is left to the base: it has its adapter, too",
        (WHO, "adapted = (who >= 0) & (len(who) > 1)"),
    ),
    mistake(
        "adapters are taken in the order of the rows: row i belongs to adapter who[i]",
        (PICK, "n = torch.arange(int(adapted.sum())) % len(A)\n    A, B = A[n], B[n]"),
    ),
    mistake(
        "every row gets the adapter of the first one: row i belongs to adapter who[i]",
        (PICK, "one = who[adapted][:1].expand(int(adapted.sum()))\n    A, B = A[one], B[one]"),
    ),
    mistake(
        "every row gets adapter 0: row i belongs to adapter who[i]",
        (PICK, "one = torch.zeros_like(who[adapted])\n    A, B = A[one], B[one]"),
    ),
    mistake(
        "adapters are counted from 1: who[i] = 0 is the first one",
        (PICK, "A, B = A[who[adapted] - 1], B[who[adapted] - 1]"),
    ),
    mistake(
        "A is the row's own, B is not: both belong to adapter who[i]",
        (PICK, "A, B = A[who[adapted]], B[:1].expand(int(adapted.sum()), -1, -1)"),
    ),
    mistake(
        "B is the row's own, A is not: both belong to adapter who[i]",
        (PICK, "A, B = A[:1].expand(int(adapted.sum()), -1, -1), B[who[adapted]]"),
    ),
    mistake(
        "the rows come out sorted by adapter: they keep the order in which they came",
        (RESULT, f"{RESULT}[who.argsort(stable=True)]"),
    ),
    mistake(
        "rows are read in the order of adapters and written in their old one: use the same order "
        "for x, y and the answer",
        (DETOUR, "detour = scale * (x[adapted][who[adapted].argsort(stable=True)] @ A.mT) @ B.mT"),
    ),
    mistake(
        "of the rows with the same adapter only the first one gets it: all of them do",
        one_row_of_each(":i"),
    ),
    mistake(
        "of the rows with the same adapter only the last one gets it: all of them do",
        one_row_of_each("i + 1 :"),
    ),
    mistake(
        "A and B are reshaped where they are to be transposed: .mT turns the last two axes",
        (DETOUR, f"detour = scale * (x[adapted] @ {A_RESHAPED}) @ {B_RESHAPED}"),
    ),
    mistake(f"A {RESHAPED}", (DETOUR, f"detour = scale * (x[adapted] @ {A_RESHAPED}) @ B.mT")),
    mistake(f"B {RESHAPED}", (DETOUR, f"detour = scale * (x[adapted] @ A.mT) @ {B_RESHAPED}")),
    mistake(
        "the scale multiplies y too: it belongs to B A x alone",
        (RESULT, RESULT.replace("y[adapted] +", "scale * y[adapted] +")),
    ),
    mistake("the scale is missing", (DETOUR, "detour = (x[adapted] @ A.mT) @ B.mT")),
    mistake(
        "the scale is there twice: once for B A together",
        (DETOUR, "detour = scale * (x[adapted] @ A.mT) @ (scale * B.mT)"),
    ),
    mistake(
        "the scale is divided by the rank: scale is alpha / r already",
        (DETOUR, "detour = scale / A.shape[1] * (x[adapted] @ A.mT) @ B.mT"),
    ),
    mistake(
        "the base's answer is gone: y + scale B A x, not scale B A x alone",
        (RESULT, "return y.index_put((adapted,), detour)"),
    ),
    mistake(
        "rows of the base are set to 0: they keep their y",
        (RESULT, "return torch.zeros_like(y).index_put((adapted,), y[adapted] + detour)"),
    ),
    mistake(
        "rows of the base are left out: every row comes back, in its place",
        (RESULT, "return y[adapted] + detour"),
    ),
    mistake(
        "the detour is given back without y, for all rows",
        (RESULT, "return torch.zeros_like(y).index_put((adapted,), detour)"),
    ),
    mistake(
        "every row gets the sum of all adapters: only its own acts on it",
        KEPT,
        (RESULT, f"return y + {ALL}.sum(2)"),
    ),
    mistake(
        "every row gets the mean of all adapters: only its own acts on it",
        KEPT,
        (RESULT, f"return y + {ALL}.mean(2)"),
    ),
    mistake(
        "only the last token gets the adapter: all T of a row do",
        (
            DETOUR,
            f"{DETOUR}\n    last = torch.arange(x.shape[1]) == x.shape[1] - 1\n"
            "    detour = detour * last[:, None]",
        ),
    ),
    mistake(
        "only the first token gets the adapter: all T of a row do",
        (DETOUR, f"{DETOUR}\n    detour = detour * (torch.arange(x.shape[1]) == 0)[:, None]"),
    ),
    mistake(
        "something non-linear stands between A and B: LoRA has nothing there",
        (DETOUR, "detour = scale * (x[adapted] @ A.mT).relu() @ B.mT"),
    ),
    mistake("the detour is subtracted", (RESULT, RESULT.replace("+ detour", "- detour"))),
    mistake(
        "A is cut off from the graph: nothing could train it",
        (PICK, "A, B = A.detach()[who[adapted]], B[who[adapted]]"),
    ),
    mistake(
        "B is cut off from the graph: nothing could train it",
        (PICK, "A, B = A[who[adapted]], B.detach()[who[adapted]]"),
    ),
    mistake(
        "x is cut off from the graph: layers below would get no gradient",
        (DETOUR, "detour = scale * (x.detach()[adapted] @ A.mT) @ B.mT"),
    ),
    mistake(
        "y is cut off from the graph: layers below would get no gradient",
        (RESULT, "y = y.detach()\n    " + RESULT),
    ),
    mistake(
        "the detour is cut off from the graph: nothing could train A and B",
        (RESULT, RESULT.replace("+ detour", "+ detour.detach()")),
    ),
]

mixed_lora = Check(
    "mixed_lora",
    "minipeft.course.serving:mixed_lora",
    "each row with its own B A, rows of the base with none, in the order in which they came",
    [
        Trial(
            "the answer of the rows",
            inputs,
            run,
            not_shared=("y",),
            axes={
                "who": ("mixed", "adapters only", "all the last", "all the base"),
                "R": (4, 1, 3, 6),
                "T": (3, 1, 2),
                "N": (3, 1, 2),
                "inside": (4, 1, 3),
                "out": (5, 1, 4),
                "r": (3, 1, 2),
                "scale": (0.5, 1.0, 2.0),
            },
        )
    ],
    MISTAKES,
)
