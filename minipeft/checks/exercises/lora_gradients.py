"""The gradients of LoRA's two matrices, by hand."""

from __future__ import annotations

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

OF_A, OF_B = "scale * (g @ B).T @ x", "scale * g.T @ (x @ A.T)"
BOTH = "x, g = x.flatten(0, 1), upstream.flatten(0, 1)"
CUT_A = (OF_A, "scale * (g @ B).reshape(B.shape[1], -1) @ x")
CUT_B = (OF_B, "scale * g.reshape(len(B), -1) @ (x @ A.T)")
GIVEN = "return of_A, of_B"


def inputs(case: Case, draw: Draw) -> dict:
    return {
        "x": draw.normal(case.N, case.T, case.inside),
        "A": draw.normal(case.r, case.inside),
        "B": draw.normal(case.out, case.r) * (0 if case.start == "B = 0" else 1),
        "upstream": draw.normal(case.N, case.T, case.out),
    }


def run(lora_gradients, case: Case, given):
    return lora_gradients(given.x, given.A, given.B, case.scale, given.upstream)


def axes_of(view) -> set[int]:
    given = view.given if isinstance(view.given, tuple | list) else ()
    return {part.dim() for part in given if hasattr(part, "dim")}


lora_gradients = Check(
    "lora_gradients",
    "minipeft.course.lora:lora_gradients",
    "dL/dA and dL/dB, summed over tokens and rows; at B = 0 the first one is zero",
    [
        Trial(
            "the gradients",
            inputs,
            run,
            axes={
                "N": (2, 1, 3),
                "T": (3, 1, 2),
                "inside": (5, 1, 4),
                "out": (4, 1, 6),
                "r": (2, 1, 3),
                "scale": (0.5, 4.0, 1.0),
                "start": ("both random", "B = 0"),
            },
            dtypes=("float64", "float32"),
            gradients=("frozen", "off"),
            names={"[0]": "dL/dA", "[1]": "dL/dB"},
        ),
    ],
    [
        mistake(
            "the gradients have an axis too many: all tokens of all rows meet the same A and B, so "
            "sum over them",
            when=lambda view: bool(axes_of(view) - {2}),
        ),
        mistake(
            "the scale s is missing in both gradients",
            (OF_A, "(g @ B).T @ x"),
            (OF_B, "g.T @ (x @ A.T)"),
        ),
        mistake("the scale s is missing in dL/dA", (OF_A, "(g @ B).T @ x")),
        mistake("the scale s is missing in dL/dB", (OF_B, "g.T @ (x @ A.T)")),
        mistake(
            "the scale is there twice: it stands once in h, so once in each gradient",
            (OF_A, f"scale * {OF_A}"),
            (OF_B, f"scale * {OF_B}"),
        ),
        mistake(
            "the gradients are divided by the rank: s holds it already, s = alpha / r",
            (OF_A, f"{OF_A} / len(A)"),
            (OF_B, f"{OF_B} / len(A)"),
        ),
        mistake(
            "the gradients are divided by the scale: multiply by it",
            (OF_A, "(g @ B).T @ x / scale"),
            (OF_B, "g.T @ (x @ A.T) / scale"),
        ),
        mistake("dL/dA and dL/dB have changed places", (GIVEN, "return of_B, of_A")),
        mistake(
            "both gradients are transposed: each has the shape of its matrix",
            (GIVEN, "return of_A.T, of_B.T"),
        ),
        mistake("dL/dA is transposed: it is (r, in), like A", (OF_A, f"({OF_A}).T")),
        mistake("dL/dB is transposed: it is (out, r), like B", (OF_B, f"({OF_B}).T")),
        mistake(
            "rows are averaged: every row's gradient is added (a mean is the affair of the loss)",
            (BOTH, BOTH.replace("upstream", "(upstream / len(upstream))")),
        ),
        mistake(
            "in dL/dA rows are averaged: every row's gradient is added",
            (OF_A, f"{OF_A} / len(upstream)"),
        ),
        mistake(
            "in dL/dB rows are averaged: every row's gradient is added",
            (OF_B, f"{OF_B} / len(upstream)"),
        ),
        mistake(
            "tokens are averaged: every token's gradient is added",
            (BOTH, BOTH.replace("upstream", "(upstream / upstream.shape[1])")),
        ),
        mistake(
            "tokens and rows are averaged: their gradients are added (a mean is the affair of the "
            "loss)",
            (BOTH, BOTH.replace("upstream", "(upstream / upstream[..., 0].numel())")),
        ),
        mistake(
            "only the first row of the batch counts: sum over all of them",
            (BOTH, BOTH.replace("x.fl", "x[:1].fl").replace("upstream", "upstream[:1]")),
        ),
        mistake(
            "only the last token counts: sum over all of them",
            (BOTH, BOTH.replace("x.fl", "x[:, -1:].fl").replace("upstream", "upstream[:, -1:]")),
        ),
        mistake(
            "only the first token counts: sum over all of them",
            (BOTH, BOTH.replace("x.fl", "x[:, :1].fl").replace("upstream", "upstream[:, :1]")),
        ),
        mistake(
            "x and g are summed over tokens before they meet: sum the products instead",
            (BOTH, "x, g = x.sum((0, 1))[None], upstream.sum((0, 1))[None]"),
        ),
        mistake(
            "in dL/dB stands x where A x belongs: B reads the r numbers that A makes",
            (OF_B, "scale * g.T @ x"),
        ),
        mistake(
            "in dL/dB x stands cut off where A x belongs: B reads the r numbers that A makes",
            (OF_B, "scale * g.T @ x[:, : len(A)]"),
        ),
        mistake(
            "in dL/dA g has not come through B: what A makes is read by B, so multiply with it",
            (OF_A, "scale * g.T @ x"),
        ),
        mistake(
            "in both gradients the other matrix is missing: g reaches A through B, and B reads A x",
            (OF_A, "scale * g.T @ x"),
            (OF_B, "scale * g.T @ x"),
        ),
        *(
            mistake(
                "a reshape only cuts the numbers anew: transpose what comes from above (.T)", *edits
            )
            for edits in ([CUT_A], [CUT_B], [CUT_A, CUT_B])
        ),
        mistake("the sign is turned round in dL/dA", (OF_A, f"-{OF_A}")),
        mistake("the sign is turned round in dL/dB", (OF_B, f"-{OF_B}")),
        mistake(
            "the signs are turned round: that is the direction of the step, not the gradient",
            (GIVEN, "return -of_A, -of_B"),
        ),
        mistake(
            "what comes from above is ignored: multiply by dL/dh",
            (BOTH, BOTH.replace("upstream", "torch.ones_like(upstream)")),
        ),
        mistake(
            "dL/dA is zero, and it is so only where B is zero",
            (OF_A, "torch.zeros_like(A)"),
        ),
        mistake(
            "a gradient was asked of autograd where it is off: work it out with the matrices",
            when=lambda view: view.error is not None and "grad" in str(view.error),
        ),
    ],
)
