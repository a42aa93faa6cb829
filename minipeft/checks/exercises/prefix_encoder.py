"""The MLP that makes the prefix: Li & Liang 2021, section 4.3."""

from __future__ import annotations

from torch import Tensor

from minipeft.checks.framework import Case, Check, Trial, call, mistake

HIDDEN = "torch.tanh(self.down(self.embedding))"
UP = "F.linear(hidden, self.up.weight[columns], self.up.bias[columns])"
FLAT = "self.table[:, columns]"
COLUMNS = {
    "all": slice(None),
    "first": slice(0, 4),
    "middle": slice(4, 8),
    "to the end": slice(8, None),
    "one": slice(5, 6),
    "every other": slice(1, None, 2),
    "the last": slice(-3, None),
}


def build(PrefixEncoder: type, case: Case):
    hidden = None if case.hidden == "none" else case.hidden
    return call(PrefixEncoder, case.P, case.numbers, case.C, hidden, case.std)


def run(encoder, case: Case, given):
    """R, or some columns of it; forward() alone gives all of them."""
    R = encoder() if case.columns == "left out" else encoder(COLUMNS[case.columns])
    return R + 0 if isinstance(R, Tensor) else R  # the parameter itself is an answer, too


def lacks_gradient(*names: str):
    return lambda view: (
        view.difference.kind == "gradient missing" and view.difference.where in names
    )


prefix_encoder = Check(
    "prefix_encoder",
    "minipeft.methods.prefix:PrefixEncoder",
    "tanh(P' W_down^T + b_down) W_up^T + b_up, all columns or some; flat: the numbers",
    [
        Trial(
            "R",
            lambda case, draw: {},
            run,
            build=build,
            axes={
                "columns": ("left out", *COLUMNS),
                "hidden": (5, 1, 12, "none"),
                "P": (3, 1, 12),
                "C": (4, 1, 5),
                "std": (0.5, 0.0, 2.0),
                "numbers": (12, 9),
            },
            layouts=("plain",),
            gradients=("on", "off"),
        ),
    ],
    [
        mistake(
            "the tanh between the two maps is missing: two linear maps in a row are one",
            (HIDDEN, "self.down(self.embedding)"),
        ),
        mistake(
            "the non-linearity is a ReLU, the paper has tanh",
            (HIDDEN, "torch.relu(self.down(self.embedding))"),
        ),
        mistake(
            "the non-linearity is a GELU, the paper has tanh",
            (HIDDEN, "F.gelu(self.down(self.embedding))"),
        ),
        mistake(
            "the non-linearity is a sigmoid, the paper has tanh",
            (HIDDEN, "torch.sigmoid(self.down(self.embedding))"),
        ),
        mistake(
            "the tanh comes before the first map: P' goes through down first",
            (HIDDEN, "self.down(torch.tanh(self.embedding))"),
        ),
        mistake(
            "tanh falls on R as well: keys and values may have any size",
            ("return F.linear(hidden", "return torch.tanh(F.linear(hidden"),
            ("self.up.bias[columns])  #", "self.up.bias[columns]))  #"),
        ),
        mistake(
            "the tanh comes after the second map, it should stand between the two",
            (HIDDEN, "self.down(self.embedding)"),
            ("return F.linear(hidden", "return torch.tanh(F.linear(hidden"),
            ("self.up.bias[columns])  #", "self.up.bias[columns]))  #"),
        ),
        mistake(
            "columns is ignored: each layer asks for its own columns of R",
            (UP, "self.up(hidden)"),
            (FLAT, "self.table"),
        ),
        mistake(
            "with the MLP columns is ignored: cut them out of R, or out of up's weight and bias",
            (UP, "self.up(hidden)"),
        ),
        mistake(
            "without MLP columns is ignored: it must cut the numbers as well", (FLAT, "self.table")
        ),
        mistake(
            "columns cuts the rows of R: rows are the P vectors, the layers stand in columns",
            (UP, "self.up(hidden)[columns]"),
            (FLAT, "self.table[columns]"),
        ),
        mistake(
            "with the MLP columns cuts the rows of R, it should cut its columns: R[:, columns]",
            (UP, "self.up(hidden)[columns]"),
        ),
        mistake(
            "without MLP columns cuts the rows of the table: table[:, columns]",
            (FLAT, "self.table[columns]"),
        ),
        mistake(
            "columns cuts the hidden features: it counts the columns of R, what comes out of up",
            when=lambda view: (
                "cannot be multiplied" in str(view.error) and view.case.columns != "left out"
            ),
        ),
        mistake(
            "the bias of up is cut otherwise than its weight: both have one entry for each column",
            (UP, UP.replace("bias[columns]", "bias[: len(self.up.weight[columns])]")),
        ),
        mistake(
            "the cases are exchanged: with an MLP self.table is None, without it self.embedding",
            when=lambda view: view.case.hidden != "none" and "NoneType" in str(view.error),
        ),
        mistake("the bias of up is missing", (UP, "F.linear(hidden, self.up.weight[columns])")),
        mistake(
            "the bias of down is missing",
            (HIDDEN, "torch.tanh(F.linear(self.embedding, self.down.weight))"),
        ),
        mistake(
            "P' is added to what the MLP gives: a prefix has no skip connection",
            (HIDDEN, "torch.tanh(self.down(self.embedding)) + self.embedding.mean()"),
        ),
        mistake(
            "the numbers of a prefix without MLP go through a tanh: they are free",
            (FLAT, f"torch.tanh({FLAT})"),
        ),
        mistake(
            "P' gets no gradient: is it detached, or read through .data?",
            when=lacks_gradient("embedding"),
        ),
        mistake(
            "the maps of the MLP get no gradient: they are trained, and thrown away afterwards",
            when=lacks_gradient("down.weight", "down.bias", "up.weight", "up.bias"),
        ),
        mistake(
            "the free numbers get no gradient: is something detached?",
            when=lacks_gradient("table"),
        ),
        mistake(
            "R gets no gradient, so nothing would learn: is self.table detached, or read as .data?",
            when=lambda view: (
                view.difference.kind == "gradient missing" and view.difference.where == "the result"
            ),
        ),
        mistake(
            "with hidden=None there is no MLP: the numbers in self.table are R itself",
            when=lambda view: view.case.hidden == "none" and view.error is not None,
        ),
    ],
    blank=("forward",),
)
