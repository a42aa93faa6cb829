"""What a weight update looks like from inside: singular values, ranks, subspaces.

The tools of section 7 of LoRA (Hu et al. 2021, arXiv 2106.09685), the theorem of Eckart and Young
(1936) and the effective rank of Roy and Vetterli (2007). Everything is computed in fp64.
A matrix W (m, n) is U diag(s) V^T: it sends the direction V[:, i] to U[:, i], stretched by s[i].

| name                 | what it answers                                                          |
|----------------------|--------------------------------------------------------------------------|
| singular_values      | how strong is the update in each of its directions?                      |
| energy               | how much of it do the strongest r directions hold?                       |
| effective_rank       | how many directions does it use, as one number?                          |
| floor                | how near can any matrix of rank r come?                                  |
| similarity           | do two updates use the same directions? 0 no, 1 yes (eq. 4)              |
| chance               | what would `similarity` be for two random subspaces?                     |
| amplification        | how much larger is the update than the base where it acts? (section 7.3) |
| rotation_residual    | is it a rotation of the base? 0 yes, 1 not at all                        |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def singular_values(matrix: Tensor) -> Tensor:
    """(m, n) -> (min(m, n),), the largest first."""
    return torch.linalg.svdvals(matrix.detach().double())


def energy(matrix: Tensor) -> Tensor:
    """Share of ||matrix||^2 in the strongest 1, 2, 3, .. directions: (min(m, n),), the last is 1.

    Raises:
        ValueError: for a matrix of zeros, which has no directions.
    """
    squares = singular_values(matrix) ** 2
    if not squares.sum() > 0:
        raise ValueError("This update is zero everywhere: train it before you look at it.")
    return squares.cumsum(0) / squares.sum()


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of the normalised singular values: from 1 to min(m, n)."""
    s = singular_values(matrix)
    p = s[s > s[0] * 1e-12] / s.sum()
    return math.exp(-(p * p.log()).sum().item())


def floor(matrix: Tensor, rank: int) -> float:
    """min ||matrix - X||^2 over all X of that rank: the sum of the squared values that are left."""
    return (singular_values(matrix)[rank:] ** 2).sum().item()


def directions(matrix: Tensor, count: int, side: str = "in") -> Tensor:
    """The strongest `count` singular directions, as columns.

    side: "in" for directions of the input (n, count), "out" for those of the output (m, count).
    """
    u, _, vt = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    if side not in ("in", "out"):
        raise ValueError(f'side must be "in" or "out", not {side!r}.')
    return (vt.T if side == "in" else u)[:, :count]


def similarity(one: Tensor, other: Tensor, i: int, j: int, side: str = "in") -> float:
    """phi(i, j) of equation 4: how much of the smaller of two subspaces lies in the other one.

    phi = ||U_i^T V_j||_F^2 / min(i, j), with U_i (n, i) the strongest i directions of the first
    update and V_j (n, j) those of the second. 0: orthogonal. 1: one contains the other.
    """
    u, v = directions(one, i, side), directions(other, j, side)
    return ((u.T @ v) ** 2).sum().item() / min(i, j)  # (i, n) (n, j) -> (i, j)


def chance(i: int, j: int, n: int) -> float:
    """The mean of phi(i, j) for two random subspaces of an n-dimensional space: max(i, j) / n."""
    return max(i, j) / n


def amplification(update: Tensor, base: Tensor, rank: int) -> float:
    """Section 7.3: ||update|| / ||U^T W V||, with U, V the update's strongest `rank` directions.

    Large when the update lives in directions that the base hardly uses; both norms are Frobenius.
    """
    u, v = directions(update, rank, "out"), directions(update, rank, "in")
    part = u.T @ base.detach().double() @ v  # (r, m) (m, n) (n, r) -> (r, r)
    return (update.detach().double().norm() / part.norm()).item()


def rotation_residual(update: Tensor, base: Tensor) -> float:
    """How much of an update no rotation of the base explains: 0 all is rotation, 1 nothing is.

    The smaller of min_R ||R W - W'|| and min_R ||W R - W'|| over orthogonal R, divided by
    ||W' - W||, for W the base and W' = W + update. The best R is U V^T of the singular value
    decomposition of W' W^T, or of W^T W' (the orthogonal Procrustes problem, Schoenemann 1966).
    """
    before, change = base.detach().double(), update.detach().double()
    after = before + change
    rests = []
    for one, other in ((before, after), (before.T, after.T)):  # rotate the output, or the input
        u, _, vt = torch.linalg.svd(other @ one.T, full_matrices=False)
        rests.append((u @ vt @ one - other).norm())
    return (min(rests) / change.norm()).item()
