"""Lesson 18: the questions that every method is asked find what is wrong with one that is ill."""

import pytest
import torch
from torch import nn

import minipeft as mp
from minipeft.course import capstone
from minipeft.doors.patch import Patch


@pytest.mark.parametrize(
    "method",
    [mp.VeRA(6), mp.VeRA(6, store_matrices=False), mp.LoRA(2), mp.DoRA(2), mp.IA3(), mp.BitFit()]
    + [capstone.Unshared(6), mp.LoRA(2, rank_stabilized=True)],
    ids=lambda method: method.describe(),
)
def test_sound_methods_have_no_fault(method):
    assert capstone.faults(method) == []
    assert all(row[2] == "✓" for row in capstone.examine(method).rows)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("zero", "no tensor has a gradient at the first step"),
        ("loud", "another one before training"),
        ("merge", "merging changes the answers"),
    ],
)
def test_ill_ones_are_told_what_is_wrong(cause, words):
    said = capstone.faults(capstone.ill(cause, 6))
    assert any(words in sentence for sentence in said), said


class Broken(mp.LoRA):
    """A method whose patch is made by a function of the class."""

    made = None

    def install(self, tuner):
        for place in tuner.find(self.targets, self.layers):
            tuner.add(place, type(self).made(place.in_features, place.out_features))


class Plain(Patch):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n_out, n_in))

    def forward(self, x, y):
        return y + x @ self.w.T.to(x)

    def delta(self):
        return self.w


class Unused(Plain):
    def forward(self, x, y):
        return y


class Frozen(Plain):
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.w.requires_grad_(False)


class HalfUsed(Plain):
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.extra = nn.Parameter(torch.zeros(3))


class Unseeded(Plain):
    """Random numbers that neither a seed nor the file brings back."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        generator = torch.Generator()
        generator.seed()
        noise = torch.randn(n_out, generator=generator).double()
        self.register_buffer("noise", noise, persistent=False)

    def forward(self, x, y):
        return y + self.noise * (x @ self.w.T.to(x))

    def delta(self):
        return self.noise[:, None] * self.w


class NoDelta(Plain):
    delta = Patch.delta


def test_a_plain_full_matrix_is_sound():
    assert capstone.faults(type("Mine", (Broken,), {"made": Plain})()) == []


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Unused, "forward does not use it"),
        (Frozen, "nothing is trained"),
        (HalfUsed, "extra has no gradient"),
        (Unseeded, "must come from a seed"),
        (NoDelta, "merge"),
    ],
)
def test_methods_of_ones_own_are_told_what_is_wrong(made, words):
    said = capstone.faults(type("Mine", (Broken,), {"made": made})())
    assert any(words in sentence for sentence in said), said


def test_variations_train_what_they_say():
    model, batch = capstone.small_model()
    for method, name in ((capstone.OnlyB(6), "b"), (capstone.OnlyD(6), "d")):
        tuner = mp.attach(model, method, seed=0)
        trained = {n for _, p in tuner.patches for n, q in p.named_parameters() if q.requires_grad}
        assert trained == {name}
        assert capstone.gradients(model, tuner, batch)
        tuner.detach()
