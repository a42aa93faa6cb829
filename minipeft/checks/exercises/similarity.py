"""How much of the smaller of two subspaces lies in the other one: LoRA's equation 4."""

from __future__ import annotations

from minipeft.checks.framework import OMIT, Case, Check, Draw, NumberCheck, Trial, call, mistake

U = "directions(one, i, side)"
V = "directions(other, j, side)"
BOTH = f"u, v = {U}, {V}"
PHI = "((u.T @ v) ** 2).sum().item() / min(i, j)"


def inputs(case: Case, draw: Draw) -> dict:
    one, other = draw.normal(case.out, case.inside), draw.normal(case.out, case.inside)
    return {"one": one, "other": one if case.pair == "the same" else other}


def run(similarity, case: Case, given):
    return call(similarity, given.one, given.other, case.i, case.j, side=case.side)


similarity = Check(
    "similarity",
    "minipeft.analysis.spectra:similarity",
    "phi(i, j) of inputs and outputs, from 0 (orthogonal) to 1 (contained)",
    [
        Trial(
            "phi",
            inputs,
            run,
            axes={
                "pair": ("different", "the same"),
                "i": (2, 1, 3),
                "j": (3, 1, 2),
                "side": (OMIT, "in", "out"),
                "out": (6, 4),
                "inside": (5, 4),
            },
            small=("i", "j"),  # there are no more directions than sides
            dtypes=("float64", "float32"),
            layouts=("plain",),
            gradients=("frozen", "off"),
        )
    ],
    [
        mistake(
            "phi is divided by the larger of i and j: by the smaller, so that 1 means contained",
            (PHI, PHI.replace("min(", "max(")),
        ),
        mistake(
            "the division by min(i, j) is missing",
            (PHI, "((u.T @ v) ** 2).sum().item()"),
        ),
        mistake("phi is divided by i alone: by min(i, j)", (PHI, PHI.replace("min(i, j)", "i"))),
        mistake("phi is divided by j alone: by min(i, j)", (PHI, PHI.replace("min(i, j)", "j"))),
        mistake("phi is divided by i j: by min(i, j)", (PHI, PHI.replace("min(i, j)", "(i * j)"))),
        mistake(
            "that is the norm: its square is asked for",
            (PHI, "(u.T @ v).norm().item() / min(i, j)"),
        ),
        mistake(
            "that is the root of phi: leave the square root out",
            (PHI, f"({PHI}) ** 0.5"),
        ),
        mistake(
            "only the products on the diagonal are added: every direction of the one meets every "
            "direction of the other",
            (PHI, "(u.T @ v).trace().item() / min(i, j)"),
        ),
        mistake(
            "only the products on the diagonal are added: every direction of the one meets every "
            "direction of the other",
            (PHI, "(u.T @ v).diagonal().square().sum().item() / min(i, j)"),
        ),
        mistake(
            "one direction too many is taken of each: i of the first, j of the second",
            (BOTH, "u, v = directions(one, i + 1, side), directions(other, j + 1, side)"),
        ),
        mistake(
            "the updates themselves are multiplied: take their strongest directions first",
            (BOTH, 'u, v = (one.T, other.T) if side == "in" else (one, other)'),
        ),
        mistake(
            "the updates themselves are multiplied: take their strongest directions first",
            (BOTH, "u, v = one, other"),
        ),
        mistake(
            "the products are added without being squared",
            (PHI, "(u.T @ v).sum().item() / min(i, j)"),
        ),
        mistake(
            "the sizes of the products are added: add their squares",
            (PHI, "(u.T @ v).abs().sum().item() / min(i, j)"),
        ),
        mistake(
            "the sum is squared: square first, then add",
            (PHI, "(u.T @ v).sum().item() ** 2 / min(i, j)"),
        ),
        mistake(
            "the largest singular value of U^T V is taken: the squared length of the whole matrix "
            "is asked for",
            (PHI, "(u.T @ v).svd().S.max().item() ** 2 / min(i, j)"),
        ),
        mistake(
            'side is ignored: "out" asks for the directions that are written',
            (BOTH, "u, v = directions(one, i), directions(other, j)"),
        ),
        mistake(
            "the sides are exchanged: the default is the input",
            (
                BOTH,
                'side = {"in": "out", "out": "in"}[side]\n    ' + BOTH,
            ),
        ),
        mistake(
            "i and j are exchanged: i directions of the first update, j of the second",
            (BOTH, "u, v = directions(one, j, side), directions(other, i, side)"),
        ),
        mistake(
            "i directions are taken of both: j of the second",
            (BOTH, "u, v = directions(one, i, side), directions(other, i, side)"),
        ),
        mistake(
            "the first update is compared with itself",
            (BOTH, "u, v = directions(one, i, side), directions(one, j, side)"),
        ),
        mistake(
            "these are the weakest directions: the strongest ones are asked for",
            (
                BOTH,
                "u = directions(one, min(one.shape), side)[:, -i:]\n"
                "    v = directions(other, min(other.shape), side)[:, -j:]",
            ),
        ),
    ],
)

SPACE, FEW, MANY = 80, 2, 8

overlaps = NumberCheck(
    "overlaps",
    "1 where one contains the other, 1/2 where half of it is in there, max(i, j) / n by chance",
    {"contained": 1.0, "half": 0.5, "chance": MANY / SPACE},
    [
        (
            {"contained": FEW / MANY},
            "contained: the smaller one is divided by itself, min(i, j) = 2",
        ),
        ({"contained": FEW}, "contained: divide by min(i, j) = 2"),
        ({"contained": FEW / SPACE}, "contained: n does not matter where one contains the other"),
        ({"contained": 0.5}, "contained: both directions lie in the larger subspace"),
        ({"half": 1 / MANY}, "half: divide by min(i, j) = 2, not by the larger one"),
        ({"half": 1.0}, "half: divide by min(i, j) = 2"),
        ({"half": 0.25}, "half: one of two directions is half of them; nothing is squared twice"),
        ({"half": 0.5**0.5}, "half: phi is made of squares, there is no root"),
        ({"chance": 0.0}, "chance: random directions are not orthogonal, only nearly so"),
        ({"chance": FEW / SPACE}, "chance: one direction finds 8 of 80 dimensions taken, not 2"),
        (
            {"chance": FEW * MANY / SPACE},
            "chance: that is the sum over both directions: divide by 2",
        ),
        ({"chance": 1 - MANY / SPACE}, "chance: that is what lies outside of the eight"),
        ({"chance": 0.5}, "chance: the eight are a small part of the 80 dimensions, not half"),
        ({"chance": 1 / SPACE}, "chance: that is for two single directions"),
        ({"chance": FEW * MANY / SPACE**2}, "chance: a share of dimensions, not of pairs of them"),
        ({"chance": (MANY / SPACE) ** 0.5}, "chance: phi is made of squares, there is no root"),
        ({"chance": FEW / MANY}, "chance: the whole space has 80 dimensions"),
    ],
    tolerance=0.001,
)
