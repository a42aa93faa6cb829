"""LoRA: the equation, its start, its count, its gradients, for many shapes."""

import math

import pytest
import torch
from closeness import close, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import minipeft as mp
from minipeft.doors.weights import WeightDoor
from minipeft.methods.lora import LoRAPatch

size = st.integers(1, 9)


@settings(deadline=None, max_examples=40)
@given(
    n_in=size,
    n_out=size,
    rank=st.integers(1, 5),
    alpha=st.floats(0.1, 64),
    rows=st.lists(st.integers(1, 3), min_size=0, max_size=3),
    stabilized=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_equation_3_for_any_shape(n_in, n_out, rank, alpha, rows, stabilized, dtype):
    torch.manual_seed(0)
    patch = LoRAPatch(n_in, n_out, rank, alpha, rank_stabilized=stabilized)
    patch.to(torch.promote_types(dtype, torch.float32))
    x = torch.randn(*rows, n_in).to(dtype)
    y = torch.randn(*rows, n_out).to(dtype)
    assert sum(p.numel() for p in patch.parameters()) == rank * (n_in + n_out)
    assert torch.equal(patch(x, y), y)  # B = 0: the model starts as it was
    with torch.no_grad():
        patch.B.normal_()
    scale = alpha / (rank**0.5 if stabilized else rank)
    low = torch.einsum("ri,...i->...r", patch.A.double(), x.double())
    expected = y.double() + scale * torch.einsum("or,...r->...o", patch.B.double(), low)
    out = patch(x, y)
    assert out.dtype == dtype and out.shape == y.shape
    # Rounded once to the dtype, and before that the terms of two sums in the patch's own.
    added = y.abs().max().item() + scale * (low.abs().max() * patch.B.abs().sum(1).max()).item()
    terms = scale * (patch.B.abs() @ patch.A.abs()).sum(1).max().item() * x.abs().max().item()
    wide = patch.A.dtype
    rounded = tolerance(added, dtype, 2) + tolerance(terms, wide, n_in + rank)
    assert (out.double() - expected).abs().max() <= rounded
    merged = y.double() + x.double() @ patch.delta().double().T
    close(merged, expected, dtype=wide, size=terms, roundings=n_in + rank)


def test_a_starts_uniform_within_one_over_root_in():
    """kaiming_uniform(a = sqrt 5): bound sqrt(6 / (6 in)) = 1 / sqrt in, variance 1 / (3 in)."""
    torch.manual_seed(0)
    patch = LoRAPatch(400, 7, 50, 1.0)
    bound = 1 / math.sqrt(400)
    assert patch.A.abs().max() <= bound and patch.A.abs().max() > 0.99 * bound
    assert patch.A.var().item() == pytest.approx(bound**2 / 3, rel=0.05)
    assert patch.B.abs().max() == 0


def test_at_the_start_only_b_gets_a_gradient():
    """dL/dA = scale B^T (dL/dh) x^T, and B = 0."""
    patch = LoRAPatch(4, 5, 2, 1.0)
    x, y = torch.randn(3, 4), torch.randn(3, 5)
    patch(x, y).square().sum().backward()
    assert patch.A.grad.abs().max() == 0 and patch.B.grad.abs().max() > 0


@pytest.mark.parametrize("stabilized", [False, True])
def test_gradients_in_double_precision(stabilized):
    torch.manual_seed(1)
    patch = LoRAPatch(3, 4, 2, 5.0, rank_stabilized=stabilized).double()
    with torch.no_grad():
        patch.B.normal_()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def run(x, y, A, B):
        return torch.func.functional_call(patch, {"A": A, "B": B}, (x, y))

    assert torch.autograd.gradcheck(run, (x, y, patch.A, patch.B))


def test_dropout_falls_on_the_input_of_a_and_keeps_its_mean():
    torch.manual_seed(0)
    patch = LoRAPatch(1, 1, 1, 1.0, dropout=0.25)
    with torch.no_grad():
        patch.A.fill_(1.0), patch.B.fill_(1.0)
    x, y = torch.ones(20_000, 1), torch.full((20_000, 1), 10.0)
    change = patch(x, y) - y
    assert set(change.unique().tolist()) <= {0.0, 10 + 4 / 3 - 10, change.max().item()}
    assert (change == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert change.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(patch.eval()(x, y), y + 1)


def test_a_half_precision_base_gets_fp32_patches():
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16))
    tuner = mp.attach(model, mp.LoRA(rank=2, targets="0"))
    assert {p.dtype for p in tuner.parameters()} == {torch.float32}
    assert model(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(rank=0), "rank must be a whole number of at least 1, not 0"),
        (dict(rank=2.5), "rank must be a whole number"),
        (dict(rank=True), "rank must be a whole number"),
        (dict(ranks={"query": -1}), "rank must be a whole number"),
        (dict(alpha=0), "alpha must be a positive number"),
        (dict(alpha=float("nan")), "alpha must be a positive number"),
        (dict(alphas={"query": -2}), "alpha must be a positive number"),
        (dict(dropout=1.0), "dropout must be at least 0 and below 1"),
        (dict(dropout=-0.1), "dropout must be at least 0 and below 1"),
        (dict(targets=()), "targets must be one or more names"),
        (dict(targets=(3,)), "targets must be one or more names"),
        (dict(layers=(-1,)), "layers must be None or layer numbers"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        mp.LoRA(**settings)


def test_unknown_settings_are_refused_and_settings_cannot_change():
    with pytest.raises(TypeError, match="rnak"):
        mp.LoRA(rnak=8)
    with pytest.raises(AttributeError):
        mp.LoRA().rank = 3


def test_one_target_may_be_a_plain_string():
    assert mp.LoRA(targets="query").targets == ("query",)


def test_ranks_per_target():
    model = nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.Linear(6, 4)})
    method = mp.LoRA(rank=2, alpha=8, targets=("a", "b"), ranks={"b": 4}, alphas={"a": 2})
    tuner = mp.attach(model, method)
    patches = {place.path: patch for place, patch in tuner.patches}
    assert [patches[k].A.shape[0] for k in "ab"] == [2, 4]
    assert [patches[k].scale for k in "ab"] == [1.0, 2.0]
    assert tuner.report().trainable == 2 * (4 + 6) + 4 * (6 + 4)
    tuner.detach()
    with pytest.raises(ValueError, match="'c' is none of the targets"):
        mp.attach(model, mp.LoRA(targets=("a", "b"), ranks={"c": 4}))
    assert not isinstance(model["a"], WeightDoor)


def test_a_known_difference_is_found_when_the_rank_suffices():
    """Teacher = base + rank 3. Rank 3 reaches it, rank 2 stops at the third singular value."""
    torch.manual_seed(0)
    base = nn.Linear(8, 8, bias=False)
    difference = torch.randn(8, 3) @ torch.randn(3, 8)
    best = torch.linalg.svdvals(difference)[2].item() ** 2  # Eckart & Young 1936
    x = torch.eye(8)
    errors = {}
    for rank in (2, 3):
        model = nn.Sequential(base)
        tuner = mp.attach(model, mp.LoRA(rank=rank, alpha=rank, targets="0"), seed=0)
        optimizer = torch.optim.Adam(tuner.parameters(), lr=0.05)
        for _ in range(600):
            optimizer.zero_grad()
            error = (model(x) - base(x) - x @ difference.T).square().sum()
            error.backward()
            optimizer.step()
        errors[rank] = error.item()
        tuner.detach()
    assert errors[3] < 1e-3 and errors[2] == pytest.approx(best, rel=0.01)
