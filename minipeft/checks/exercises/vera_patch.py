"""VeRA's detour: Kopiczko et al. 2024, equation 2."""

from __future__ import annotations

from torch import nn

from minipeft.checks.exercises.weight_patches import detour_trials, in_its_mode
from minipeft.checks.framework import OMIT, Case, Check, call, mistake
from minipeft.methods.vera import SharedMatrices

DROP = "x = self.dropout(x.to(self.d.dtype))"
KEEP = "x = x.to(self.d.dtype)"
LOW = "self.d * F.linear(x, self.A)"
DETOUR = "self.b * F.linear(low, self.B)"
JOIN = "(y + detour).to(y.dtype)"
DELTA = "self.b[:, None] * self.B @ (self.d[:, None] * self.A)"


def build(VeRAPatch: type, case: Case) -> nn.Module:
    """VeRAPatch(in, out, matrices, initial, dropout); the matrices may be larger than the map."""
    matrices = SharedMatrices(case.inside + case.wider, case.out + case.wider, case.rank, seed=5)
    patch = call(
        VeRAPatch, case.inside, case.out, matrices, initial=case.initial, dropout=case.dropout
    )
    return in_its_mode(patch, case)


MADE = {"rank": (3, 5, 1), "wider": (0, 2), "initial": (OMIT, 0.4, 0.7)}

vera_patch = Check(
    "vera_patch",
    "minipeft.methods.vera:VeRAPatch",
    "h = W0 x + diag(b) B diag(d) A x, dropout on x, delta is the matrix that forward adds",
    detour_trials(build, MADE, {"rank": (2,), "wider": (0,), "initial": (OMIT,)}),
    [
        mistake(
            "delta lacks d: it is diag(b) B diag(d) A", (DELTA, "self.b[:, None] * self.B @ self.A")
        ),
        mistake(
            "delta lacks b: it is diag(b) B diag(d) A",
            (DELTA, "self.B @ (self.d[:, None] * self.A)"),
        ),
        mistake("delta is B A alone: d and b belong to it", (DELTA, "self.B @ self.A")),
        mistake(
            "delta is transposed: it is (out, in), like the weight it joins",
            (DELTA, f"({DELTA}).T"),
        ),
        mistake(
            "d is missing: A x is multiplied by d, number by number", (LOW, "F.linear(x, self.A)")
        ),
        mistake("b is missing: what B gives is multiplied by b", (DETOUR, "F.linear(low, self.B)")),
        mistake(
            "neither d nor b is used: they are all that is trained",
            (LOW, "F.linear(x, self.A)"),
            (DETOUR, "F.linear(low, self.B)"),
        ),
        mistake("d is added: it multiplies A x", (LOW, "self.d + F.linear(x, self.A)")),
        mistake(
            "b is added: it multiplies what B gives", (DETOUR, "self.b + F.linear(low, self.B)")
        ),
        mistake("d is used twice: once, on A x", (LOW, f"self.d * {LOW}")),
        mistake("d is divided by: multiply A x by it", (LOW, "F.linear(x, self.A) / self.d")),
        mistake(
            "that is LoRA's scale, one number: each row of A has its number of d",
            (LOW, "self.d.mean() * F.linear(x, self.A)"),
        ),
        mistake(
            "one number for all of b: each row of B has its own",
            (DETOUR, "self.b.mean() * F.linear(low, self.B)"),
        ),
        mistake("forward returns the detour only: y is dropped", ("y + detour", "detour")),
        mistake("the detour is subtracted: it is added to y", ("y + detour", "y - detour")),
        mistake("the detour is missing: forward gives y back as it came", ("y + detour", "y")),
        mistake(
            "b falls on y as well: only the detour is scaled",
            (DETOUR, "F.linear(low, self.B)"),
            ("y + detour", "self.b * (y + detour)"),
        ),
        mistake(
            "forward turns y into another dtype: give the sum back in y's dtype",
            when=lambda view: view.difference.kind == "dtype" and "y" in view.inputs,
        ),
        mistake(
            "A and B are rounded to the dtype of x: turn x into that of d instead",
            (DROP, "x = self.dropout(x)"),
            (LOW, "self.d.to(x.dtype) * F.linear(x, self.A.to(x.dtype))"),
            (DETOUR, "self.b.to(x.dtype) * F.linear(low, self.B.to(x.dtype))"),
        ),
        mistake(
            "the last columns of A or rows of B are read: a smaller map reads the first ones, "
            "self.A and self.B",
            (LOW, LOW.replace("self.A", "self.matrices.A[:, -self.in_features :].to(self.d)")),
            (DETOUR, DETOUR.replace("self.B", "self.matrices.B[-self.out_features :].to(self.d)")),
        ),
        mistake(
            "1 is added to b: b multiplies what B gives as it is, and starts at 0",
            (DETOUR, "(1 + self.b) * F.linear(low, self.B)"),
        ),
        mistake(
            "the detour is divided by the rank: VeRA has no such factor, d and b take its place",
            (LOW, f"{LOW} / len(self.d)"),
        ),
        mistake(
            "the whole of A or B is read: a map smaller than the largest reads its part, self.A "
            "and self.B",
            when=lambda view: view.error is not None and view.case.wider,
        ),
        mistake("dropout is never applied in training", (DROP, KEEP)),
        mistake(
            "dropout falls on A x: drop parts of x, before A",
            (DROP, KEEP),
            ("F.linear(low, self.B)", "F.linear(self.dropout(low), self.B)"),
        ),
        mistake(
            "dropout falls on the detour: drop parts of x, before A",
            (DROP, KEEP),
            (JOIN, "(y + self.dropout(detour)).to(y.dtype)"),
        ),
        mistake(
            "dropout falls on y too: only x on its way into A drops",
            (DROP, KEEP),
            (JOIN, "self.dropout(y + detour).to(y.dtype)"),
        ),
    ],
    blank=("forward", "delta"),
)
