"""Spectra against matrices whose singular values and subspaces are known by construction."""

import math

import pytest
import torch

from minipeft.analysis import spectra


def orthogonal(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]


def built(values, seed=0, m=9, n=7):
    """A matrix (m, n) with these singular values, and its right singular vectors (n, n)."""
    u, v = orthogonal(m, seed), orthogonal(n, seed + 1)
    s = torch.tensor(values, dtype=torch.float64)
    return u[:, : len(s)] @ torch.diag(s) @ v[:, : len(s)].T, u, v


def test_values_energy_and_floor_of_a_matrix_built_from_them():
    matrix, _, _ = built([4.0, 3.0, 1.0])
    assert torch.allclose(
        spectra.singular_values(matrix)[:3], torch.tensor([4.0, 3.0, 1.0]).double()
    )
    assert torch.allclose(
        spectra.energy(matrix)[:3], torch.tensor([16 / 26, 25 / 26, 1.0]).double()
    )
    assert spectra.floor(matrix, 1) == pytest.approx(10.0)
    assert spectra.floor(matrix, 3) == pytest.approx(0.0, abs=1e-12)


def test_the_floor_is_a_floor():
    """Eckart-Young: the best matrix of rank 2 that an optimizer finds is as near, not nearer."""
    matrix, _, _ = built([4.0, 3.0, 2.0, 1.0])
    torch.manual_seed(0)
    B, A = torch.randn(9, 2).double().requires_grad_(), torch.randn(2, 7).double().requires_grad_()
    optimizer = torch.optim.LBFGS([A, B], max_iter=300, tolerance_change=1e-14)

    def loss():
        optimizer.zero_grad()
        distance = ((matrix - B @ A) ** 2).sum()
        distance.backward()
        return distance

    optimizer.step(loss)
    assert loss().item() >= spectra.floor(matrix, 2) - 1e-9
    assert loss().item() == pytest.approx(spectra.floor(matrix, 2), rel=1e-4)


def test_effective_rank_counts_equal_directions():
    for rank in (1, 3, 5):
        assert spectra.effective_rank(built([2.0] * rank)[0]) == pytest.approx(rank)
    assert 1 < spectra.effective_rank(built([2.0, 0.1])[0]) < 2


def test_similarity_of_equal_and_of_orthogonal_subspaces():
    one, u, v = built([3.0, 2.0])
    other = u[:, 2:4] @ torch.diag(torch.tensor([3.0, 2.0]).double()) @ v[:, 2:4].T
    for side in ("in", "out"):
        assert spectra.similarity(one, one, 2, 2, side) == pytest.approx(1)
        assert spectra.similarity(one, 5 * one, 1, 2, side) == pytest.approx(1)  # contained
        assert spectra.similarity(one, other, 2, 2, side) == pytest.approx(0, abs=1e-12)


def test_similarity_tells_the_sides_apart():
    _, u, v = built([1.0])
    one, other = torch.outer(u[:, 0], v[:, 0]), torch.outer(u[:, 1], v[:, 0])
    assert spectra.similarity(one, other, 1, 1, "in") == pytest.approx(1)
    assert spectra.similarity(one, other, 1, 1, "out") == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="in.*out"):
        spectra.similarity(one, other, 1, 1, "left")


def test_similarity_of_lines_is_the_squared_cosine():
    angle = 0.3
    one = torch.tensor([[1.0, 0.0]])
    other = torch.tensor([[math.cos(angle), math.sin(angle)]])
    assert spectra.similarity(one, other, 1, 1) == pytest.approx(math.cos(angle) ** 2)


def test_chance_is_the_mean_over_random_subspaces():
    torch.manual_seed(0)
    n, i, j = 12, 2, 5
    seen = [
        spectra.similarity(torch.randn(i, n), torch.randn(j, n), i, j) for _ in range(400)
    ]  # rank i and j: these are whole row spaces
    assert sum(seen) / len(seen) == pytest.approx(spectra.chance(i, j, n), rel=0.05)


def test_amplification_where_the_base_is_known():
    update, u, v = built([2.0, 1.0], m=7)
    base = 0.1 * u[:, :2] @ v[:, :2].T + 50 * u[:, 2:] @ v[:, 2:].T  # large, but elsewhere
    expected = math.sqrt(5) / (0.1 * math.sqrt(2))
    assert spectra.amplification(update, base, 2) == pytest.approx(expected)


def test_a_rotation_leaves_no_rest():
    base, rotation = built([3.0, 2.0, 1.0], n=6, m=6)[0], orthogonal(6, 5)
    for after in (rotation @ base, base @ rotation):
        assert spectra.rotation_residual(after - base, base) == pytest.approx(0, abs=1e-9)


def test_stretching_is_no_rotation():
    """The nearest rotation of c W to W is W itself, so the whole change is left over."""
    base = built([3.0, 2.0, 1.0], n=6, m=6)[0]
    assert spectra.rotation_residual(0.5 * base, base) == pytest.approx(1)


def test_no_rotation_in_a_plane_does_better_than_the_procrustes_one():
    torch.manual_seed(0)
    base, update = torch.randn(2, 2).double(), torch.randn(2, 2).double()
    tried = []
    for angle in torch.linspace(0, 2 * math.pi, 721).double():
        c, s = angle.cos(), angle.sin()
        for flip in (1, -1):
            rotation = torch.stack([torch.stack([c, -s * flip]), torch.stack([s, c * flip])])
            tried += [
                (rotation @ base - base - update).norm(),
                (base @ rotation - base - update).norm(),
            ]
    expected = (min(tried) / update.norm()).item()
    assert spectra.rotation_residual(update, base) == pytest.approx(expected, rel=1e-3)


def test_an_untrained_update_is_refused():
    with pytest.raises(ValueError, match="train it"):
        spectra.energy(torch.zeros(3, 3))
