"""The usual mistakes of `LoRAPatch`."""

from __future__ import annotations

from minipeft.checks.framework import OMIT, mistake

JOIN = "(y + detour).to(y.dtype)"
DROP = "x = self.dropout(x.to(self.A.dtype))"
KEEP = "x = x.to(self.A.dtype)"
LOW = "self.scale * F.linear(x, self.A)"
SCALE = "alpha / (math.sqrt(rank) if rank_stabilized else rank)"
DELTA = "self.scale * (self.B @ self.A)"
FLIPPED = ("detour = F.linear(low, self.B)", "detour = self.scale * (x @ self.B @ self.A)")
TRANSPOSED = "x goes through B A transposed: x meets A (r, in) first, then B (out, r)"


def gradient_of(name: str):
    return lambda view: view.difference.kind == "gradient missing" and view.difference.where == name


MISTAKES = [
    mistake(
        "delta is transposed: it is (out, in), like the weight it joins", (DELTA, f"({DELTA}).T")
    ),
    mistake(
        "delta is transposed: it is (out, in), like the weight it joins",
        (DELTA, "self.scale * (self.A.T @ self.B.T)"),
    ),
    mistake(
        "delta lacks the scale alpha / r, so merging changes the answer", (DELTA, "self.B @ self.A")
    ),
    mistake(
        "delta is scaled by alpha, it should be alpha / r",
        (DELTA, "self.scale * len(self.A) * (self.B @ self.A)"),
    ),
    mistake(
        "the scale is missing: the detour is multiplied by alpha / r",
        (LOW, "F.linear(x, self.A)"),
    ),
    mistake("the scale is missing: the detour is multiplied by alpha / r", (SCALE, "1.0")),
    mistake("the scale is alpha, it should be alpha / r", (SCALE, "alpha")),
    mistake("the scale is r / alpha, it should be alpha / r", (SCALE, "rank / alpha")),
    mistake(
        "the scale is applied twice: multiply the detour by alpha / r once",
        ("y + detour", "y + self.scale * detour"),
    ),
    mistake(
        "rank_stabilized is ignored: with it the scale is alpha / sqrt(r)", (SCALE, "alpha / rank")
    ),
    mistake(
        "the scale is alpha / sqrt(r), which is rsLoRA's: it should be alpha / r",
        (SCALE, "alpha / math.sqrt(rank)"),
    ),
    mistake(
        "forward returns the detour only: the base path y is dropped", ("y + detour", "detour")
    ),
    mistake(
        "the scale falls on y as well: only the detour is scaled",
        (LOW, "F.linear(x, self.A)"),
        ("y + detour", "self.scale * (y + detour)"),
    ),
    mistake(
        "the detour is divided by the rank once more: self.scale is alpha / r already",
        (LOW, f"{LOW} / len(self.A)"),
    ),
    mistake("the detour is subtracted: it is added to y", ("y + detour", "y - detour")),
    mistake("the detour is missing: forward gives y back as it came", ("y + detour", "y")),
    mistake("x is added as well: the detour is added to y only", ("y + detour", "y + x + detour")),
    mistake(TRANSPOSED, FLIPPED),
    mistake(TRANSPOSED, (FLIPPED[0], "detour = 1.0 * (x @ self.B @ self.A)")),
    mistake(
        "the detour reads y, it should read x",
        (DROP, f"x = y if x.shape == y.shape else x\n{' ' * 8}{DROP}"),
    ),
    mistake(
        "forward turns y into another dtype: give the sum back in y's dtype",
        when=lambda view: view.difference.kind == "dtype" and "y" in view.inputs,
    ),
    *(
        mistake(
            "A and B are rounded to the dtype of x: turn x into their dtype instead",
            (DROP, "x = self.dropout(x)"),
            (LOW, first + "F.linear(x, self.A.to(x.dtype))"),
            ("F.linear(low, self.B)", last + "F.linear(low, self.B.to(x.dtype))"),
        )
        for first, last in (("self.scale * ", ""), ("", "self.scale * "))
    ),
    mistake(
        "the detour is rounded to the dtype of y on its way: only the sum is turned into it",
        (LOW, f"({LOW}).to(y.dtype).to(self.A.dtype)"),
    ),
    mistake(
        "dropout falls on the base path y as well: only x on its way into A drops",
        (JOIN, "(self.dropout(y) + detour).to(y.dtype)"),
    ),
    mistake(
        "delta has no dropout: it is the detour that is merged after training",
        when=lambda view: (
            view.trial.what == "delta"
            and view.case.dropout not in (OMIT, 0.0)
            and view.case.training
            and view.difference.kind == "value"
        ),
    ),
    mistake(
        "B gets no gradient: is something detached, or made a plain tensor?",
        when=gradient_of("B"),
    ),
    mistake(
        "A gets no gradient even when B is not zero: is something detached?", when=gradient_of("A")
    ),
    mistake(
        "x gets no gradient through the detour, so the layers below would not learn: do not detach",
        when=gradient_of("x"),
    ),
    mistake(
        "y gets no gradient, so what made it would not learn: do not detach", when=gradient_of("y")
    ),
    mistake(
        "dropout falls on x twice: once is enough",
        (DROP, f"{DROP}\n{' ' * 8}x = self.dropout(x)"),
    ),
    mistake(
        "dropout is never applied in training",
        (DROP, KEEP),
    ),
    mistake(
        "dropout falls on the base path y: only x on its way into A drops",
        (DROP, KEEP),
        (JOIN, "self.dropout(y + detour).to(y.dtype)"),
    ),
    mistake(
        "dropout falls on the base path y: only x on its way into A drops",
        (JOIN, "(self.dropout(y) + detour).to(y.dtype)"),
        (DROP, KEEP),
    ),
    mistake(
        "dropout falls on the output of B: drop parts of x, before A",
        (DROP, KEEP),
        (JOIN, "(y + self.dropout(detour)).to(y.dtype)"),
    ),
    mistake(
        "dropout falls on the output of A: drop parts of x, before A",
        (DROP, KEEP),
        ("F.linear(low, self.B)", "F.linear(self.dropout(low), self.B)"),
    ),
    mistake(
        "dropout stays on in eval mode: use self.dropout, which knows the mode",
        when=lambda view: (
            view.case.dropout not in (OMIT, 0.0)
            and not view.case.training
            and view.difference.kind == "value"
        ),
    ),
]
