"""Subspace similarity and the numbers it gives: right and wrong solutions."""

import pytest
import torch

from minipeft import checks
from minipeft.analysis import spectra
from minipeft.analysis.spectra import directions


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def by_svd(one, other, i, j, side="in"):
    """Without `directions`."""

    def strongest(matrix, count):
        u, _, vt = torch.linalg.svd(matrix.detach().double())
        return u[:, :count] if side == "out" else vt[:count].T

    return float((strongest(one, i).T @ strongest(other, j)).norm() ** 2 / min(i, j))


def by_projectors(one, other, i, j, side="in"):
    u, v = directions(one, i, side), directions(other, j, side)
    return torch.trace(u @ u.T @ v @ v.T).item() / min(i, j)


def by_loops(one, other, i, j, side="in"):
    u, v = directions(one, i, side), directions(other, j, side)
    return sum(float(u[:, a] @ v[:, b]) ** 2 for a in range(i) for b in range(j)) / min(i, j)


def by_angles(one, other, i, j, side="in"):
    """The mean squared cosine of the principal angles."""
    u, v = directions(one, i, side), directions(other, j, side)
    return (torch.linalg.svdvals(u.T @ v) ** 2).mean()


@pytest.mark.parametrize("right", [spectra.similarity, by_svd, by_projectors, by_loops, by_angles])
def test_right_similarities_pass(right, capsys):
    checks.similarity(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def made(value, default="in"):
    """value(u, v, i, j) of the right directions."""

    def similarity(one, other, i, j, side=default):
        return value(directions(one, i, side), directions(other, j, side), i, j)

    return similarity


def squares(u, v):
    return ((u.T @ v) ** 2).sum().item()


def no_side(one, other, i, j, side="in"):
    return squares(directions(one, i), directions(other, j)) / min(i, j)


def exchanged(one, other, i, j, side="in"):
    return squares(directions(one, j, side), directions(other, i, side)) / min(i, j)


def itself(one, other, i, j, side="in"):
    return squares(directions(one, i, side), directions(one, j, side)) / min(i, j)


def only_i(one, other, i, j, side="in"):
    return squares(directions(one, i, side), directions(other, i, side)) / min(i, j)


def no_return(one, other, i, j, side="in"):
    squares(directions(one, i, side), directions(other, j, side))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (made(lambda u, v, i, j: squares(u, v) / max(i, j)), "by the smaller"),
        (made(lambda u, v, i, j: squares(u, v)), "min(i, j) is missing"),
        (made(lambda u, v, i, j: squares(u, v) / i), "divided by i alone"),
        (made(lambda u, v, i, j: squares(u, v) / j), "divided by j alone"),
        (made(lambda u, v, i, j: squares(u, v) / (i * j)), "divided by i j"),
        (made(lambda u, v, i, j: (u.T @ v).norm().item() / min(i, j)), "its square is asked"),
        (made(lambda u, v, i, j: (squares(u, v) / min(i, j)) ** 0.5), "leave the square root"),
        (made(lambda u, v, i, j: (u.T @ v).sum().item() / min(i, j)), "without being squared"),
        (made(lambda u, v, i, j: (u.T @ v).abs().sum().item() / min(i, j)), "add their squares"),
        (made(lambda u, v, i, j: (u.T @ v).sum().item() ** 2 / min(i, j)), "square first"),
        (no_side, "side is ignored"),
        (exchanged, "i and j are exchanged"),
        (itself, "compared with itself"),
        (only_i, "j of the second"),
        (made(lambda u, v, i, j: squares(u, v) / min(i, j), default="out"), "default"),
        (no_return, "is a return missing"),
    ],
)
def test_a_wrong_similarity_is_told_its_mistake(wrong, words):
    refused(checks.similarity, wrong, words)


def test_the_overlaps_are_what_the_package_computes():
    right = checks.overlaps.right
    axes = torch.eye(80, dtype=torch.float64)

    def using(columns):
        """An update that reads these directions."""
        strengths = torch.arange(len(columns), 0, -1, dtype=torch.float64)
        return axes[: len(columns)].T @ (strengths[:, None] * axes[columns])

    eight = using(list(range(8)))
    assert spectra.similarity(using([3, 5]), eight, 2, 8) == pytest.approx(right["contained"])
    assert spectra.similarity(using([3, 50]), eight, 2, 8) == pytest.approx(right["half"])
    assert spectra.chance(2, 8, 80) == pytest.approx(right["chance"])


@pytest.mark.parametrize(
    "answer",
    [
        {"contained": 1, "half": 0.5, "chance": 0.1},
        {"contained": 1.0, "half": torch.tensor(0.5), "chance": 8 / 80, "note": ""},
        lambda: dict(chance=1 / 10, half=1 / 2, contained=2 / 2),
    ],
)
def test_the_right_overlaps_in_any_form_are_accepted(answer):
    checks.overlaps(answer)


def but(**changes):
    return {"contained": 1, "half": 0.5, "chance": 0.1} | changes


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (but(contained=0.25), "divided by itself"),
        (but(contained=2), "contained: divide by min"),
        (but(half=1 / 8), "not by the larger one"),
        (but(half=1), "half: divide by min"),
        (but(half=0.25), "nothing is squared twice"),
        (but(chance=0), "not orthogonal"),
        (but(chance=2 / 80), "finds 8 of 80"),
        (but(chance=16 / 80), "divide by 2"),
        (but(chance=1 / 80), "two single directions"),
        (but(chance=0.25), "80 dimensions"),
        ({"contained": 1, "half": 0.5}, "has no chance"),
        (0.1, "should be a dict"),
        (None, "is a return missing"),
    ],
)
def test_wrong_overlaps_are_told_where_they_come_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.overlaps(answer)
