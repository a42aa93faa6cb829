"""VeRA: equation 2, what is shared, what is trained, and what the seed decides."""

import math

import pytest
import torch
import zoo
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import minipeft as mp
from minipeft.doors.weights import WeightDoor
from minipeft.methods.vera import SharedMatrices, VeRAPatch
from minipeft.model.fingerprint import identity

size = st.integers(1, 9)


@settings(deadline=None, max_examples=40)
@given(n_in=size, n_out=size, r=size, wider=st.integers(0, 2), bias=st.booleans())
def test_equation_2_for_any_shape(n_in, n_out, r, wider, bias):
    torch.manual_seed(0)
    base = nn.Linear(n_in, n_out, bias=bias, dtype=torch.float64)
    matrices = SharedMatrices(n_in + wider, n_out + wider, r, seed=3)
    patch = VeRAPatch(n_in, n_out, matrices, initial=0.1)
    assert torch.equal(patch.d, torch.full((r,), 0.1))
    patch.double()
    assert sum(p.numel() for p in patch.parameters()) == r + n_out
    door, x = WeightDoor(base), torch.randn(2, 3, n_in, dtype=torch.float64)
    door.add("a", patch)
    assert torch.equal(door(x), base(x))  # b = 0
    with torch.no_grad():
        patch.d.normal_(), patch.b.normal_()
    A, B = matrices.A[:, :n_in].double(), matrices.B[:n_out].double()
    W = base.weight + torch.diag(patch.b) @ B @ torch.diag(patch.d) @ A
    expected = torch.einsum("oi,...i->...o", W, x) + (base.bias if bias else 0)
    close(door(x), expected)
    door.merge("a")
    close(base(x), expected)


def test_gradients_by_hand_and_in_double_precision():
    """dL/db = sum of g * (B diag(d) A x), dL/dd = sum of (B^T (b * g)) * (A x)."""
    torch.manual_seed(1)
    matrices = SharedMatrices(3, 4, 5)
    patch = VeRAPatch(3, 4, matrices).double()
    x, y = torch.randn(2, 3).double(), torch.randn(2, 4).double()
    g = torch.randn(2, 4).double()
    (patch(x, y) * g).sum().backward()
    close(patch.b.grad, (g * (x @ patch.A.T * patch.d @ patch.B.T)).sum(0))
    assert patch.d.grad.abs().max() == 0 and patch.b.grad.abs().max() > 0
    with torch.no_grad():
        patch.b.normal_()
    patch.zero_grad()
    (patch(x, y) * g).sum().backward()
    close(patch.d.grad, (((patch.b * g) @ patch.B) * (x @ patch.A.T)).sum(0))
    assert not list(matrices.parameters())


def test_every_map_reads_its_part_of_the_same_two_matrices():
    """Grouped queries: the value map of a Llama is smaller than the query map."""
    model = zoo.build("llama")
    tuner = mp.attach(model, mp.VeRA(rank=6, targets=("query", "value", "down"), seed=4))
    matrices = {id(patch.matrices) for _, patch in tuner.patches}
    assert len(matrices) == 1
    shared = tuner.patches[0][1].matrices
    assert shared.A.shape == (6, 32) and shared.B.shape == (16, 6)
    for place, patch in tuner.patches:
        assert torch.equal(patch.A, shared.A[:, : place.in_features])
        assert torch.equal(patch.B, shared.B[: place.out_features])
    outs = [place.out_features for place, _ in tuner.patches]
    assert min(outs) < max(outs)
    report = tuner.report()
    assert report.trainable == sum(6 + n for n in outs)
    assert report.stored == report.trainable + 6 * 32 + 16 * 6


def test_the_seed_of_the_matrices_is_a_setting_and_no_other_random_number_is_drawn():
    def drawn(attach_seed, **settings):
        tuner = mp.attach(zoo.build("bert"), mp.VeRA(rank=5, **settings), seed=attach_seed)
        return tuner.patches[0][1].matrices.A

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = drawn(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, drawn(2)) and not torch.equal(first, drawn(1, seed=9))


def test_kaiming_numbers():
    matrices = SharedMatrices(400, 300, 200)
    for matrix, columns in ((matrices.A, 400), (matrices.B, 200)):
        assert matrix.shape[1] == columns
        assert matrix.abs().max() <= math.sqrt(6 / columns)
        assert matrix.var().item() == pytest.approx(2 / columns, rel=0.05)


def test_only_the_vectors_move_and_the_base_comes_back():
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    base, whole = zoo.logits(model, batch), identity(model)
    tuner = mp.attach(model, mp.VeRA(rank=8))
    assert torch.equal(zoo.logits(model, batch), base)
    A = tuner.patches[0][1].matrices.A.clone()
    mp.train(model, [batch], 5, 1e-2, progress=False)
    assert torch.equal(tuner.patches[0][1].matrices.A, A)
    assert all(patch.b.abs().max() > 0 and (patch.d != 0.1).any() for _, patch in tuner.patches)
    changed = zoo.logits(model, batch)
    assert (changed - base).abs().max() > 1e-4
    tuner.merge()
    close(zoo.logits(model, batch), changed)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base) and identity(model) == whole


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "llama", "t5"])
def test_a_file_gives_the_same_answers_with_and_without_the_matrices(tmp_path, name, store):
    model, batch = zoo.build(name), zoo.batch(name)
    tuner = mp.attach(model, mp.VeRA(rank=4, seed=7, store_matrices=store))
    zoo.shake(tuner, 0.5)
    tuner.save(tmp_path)
    stored = tuner.report().stored
    assert (stored > tuner.report().trainable) == store
    again = zoo.build(name)
    opened = mp.load(again, tmp_path)
    assert opened.method == tuner.method
    assert torch.equal(zoo.logits(again, batch), zoo.logits(model, batch))


def test_stored_matrices_win_over_the_seed(tmp_path):
    model, batch = zoo.build("bert"), zoo.batch("bert")
    tuner = mp.attach(model, mp.VeRA(rank=4))
    zoo.shake(tuner, 0.5)
    with torch.no_grad():  # as if another version of torch had drawn them
        tuner.patches[0][1].matrices.A.add_(0.25)
    tuner.save(tmp_path)
    again = zoo.build("bert")
    mp.load(again, tmp_path)
    assert torch.equal(zoo.logits(again, batch), zoo.logits(model, batch))


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "llama"])
def test_mixed_batches_equal_separate_runs(name):
    model, batch = zoo.build(name), zoo.batch(name, rows=4)
    methods = dict(a=mp.VeRA(rank=4), b=mp.VeRA(rank=6, seed=1), c=mp.LoRA(rank=2))
    zoo.mixed_equals_separate(model, batch, methods, ["b", "a", None, "c"], 0.4)


def test_dropout_falls_on_the_input_of_a_and_keeps_its_mean():
    torch.manual_seed(0)
    patch = VeRAPatch(1, 1, SharedMatrices(1, 1, 1), dropout=0.25)
    with torch.no_grad():
        patch.matrices.A.fill_(1.0), patch.matrices.B.fill_(1.0)
        patch.d.fill_(1.0), patch.b.fill_(1.0)
    x, y = torch.ones(20_000, 1), torch.full((20_000, 1), 10.0)
    change = patch(x, y) - y
    assert (change == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert change.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(patch.eval()(x, y), y + 1)


def test_a_half_precision_base_gets_fp32_vectors_and_matrices():
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16))
    tuner = mp.attach(model, mp.VeRA(rank=2, targets="0"))
    assert {p.dtype for p in tuner.parameters()} == {torch.float32}
    assert tuner.patches[0][1].matrices.A.dtype == torch.float32
    assert model(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(rank=0), "rank must be a whole number of at least 1, not 0"),
        (dict(rank=2.5), "rank must be a whole number"),
        (dict(rank=True), "rank must be a whole number"),
        (dict(seed=-1), "seed must be a whole number from 0"),
        (dict(initial=0), "initial must be a number other than 0"),
        (dict(initial=float("inf")), "initial must be a number other than 0"),
        (dict(dropout=1.0), "dropout must be a number of at least 0 and below 1"),
        (dict(store_matrices=1), "store_matrices must be True or False"),
        (dict(targets=()), "targets must be one or more names"),
        (dict(layers=(-1,)), "layers must be None or layer numbers"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        mp.VeRA(**settings)
