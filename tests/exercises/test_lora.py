"""checks.lora: takes what is right, however it is written, and names what is wrong."""

import math

import pytest
import torch
from torch import nn

from minipeft import checks
from minipeft.methods.lora import LoRAPatch


class Plain(nn.Module):
    """A correct solution with matrices written out; the wrong ones below change one thing each."""

    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0, rank_stabilized=False):
        super().__init__()
        self.rank, self.alpha, self.stabilized = rank, alpha, rank_stabilized
        self.A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        self.drop = nn.Dropout(dropout)

    @property
    def scale(self):
        return self.alpha / (math.sqrt(self.rank) if self.stabilized else self.rank)

    def forward(self, x, y):
        x = self.drop(x.to(self.A.dtype))
        return (y + self.scale * (x @ self.A.T @ self.B.T)).to(y.dtype)

    def delta(self):
        return self.scale * self.B @ self.A


class Layers(nn.Module):
    """Another correct solution: two Linear layers without bias."""

    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0, rank_stabilized=False):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.A = nn.Linear(in_features, rank, bias=False)
        self.B = nn.Linear(rank, out_features, bias=False)
        nn.init.zeros_(self.B.weight)
        self.scale = alpha / rank**0.5 if rank_stabilized else alpha / rank

    def forward(self, x, y):
        low = self.A(self.dropout(x.float()))
        return torch.add(y.float(), self.B(low), alpha=self.scale).to(y.dtype)

    def delta(self):
        return torch.einsum("or,ri->oi", self.B.weight, self.A.weight) * self.scale


class ThroughDelta(Plain):
    """Another: the matrix is built first (slower, and right)."""

    def forward(self, x, y):
        return y + nn.functional.linear(self.drop(x.float()), self.delta()).to(y.dtype)


@pytest.mark.parametrize("candidate", [LoRAPatch, Plain, Layers, ThroughDelta])
def test_right_solutions_pass(candidate, capsys):
    checks.lora(candidate)
    assert f"✓ {candidate.__name__}" in capsys.readouterr().out


class AlphaNotDivided(Plain):
    scale = property(lambda self: self.alpha)


class NoScale(Plain):
    scale = 1.0


class AlwaysStabilized(Plain):
    scale = property(lambda self: self.alpha / math.sqrt(self.rank))


class NeverStabilized(Plain):
    scale = property(lambda self: self.alpha / self.rank)


class Swapped(Plain):
    """x meets B first."""

    def forward(self, x, y):
        if x.shape[-1] != y.shape[-1]:
            return y
        return y + self.scale * (x @ self.B @ self.A)


class SwappedShapes(Plain):
    def __init__(self, in_features, out_features, rank, alpha, **options):
        super().__init__(in_features, out_features, rank, alpha, **options)
        self.A = nn.Parameter(torch.randn(out_features, rank))
        self.B = nn.Parameter(torch.zeros(rank, in_features))


class RandomB(Plain):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        nn.init.normal_(self.B)


class BothZero(Plain):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        nn.init.zeros_(self.A)


class NotAParameter(Plain):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        A = self.A.data
        del self.A
        self.A = A


class WithBias(Plain):
    def __init__(self, in_features, out_features, *sizes, **options):
        super().__init__(in_features, out_features, *sizes, **options)
        self.bias = nn.Parameter(torch.zeros(out_features))


class DetourOnly(Plain):
    def forward(self, x, y):
        return super().forward(x, y) - y


class ScaledBase(Plain):
    """Right at the start only when alpha equals r."""

    def forward(self, x, y):
        detour = x @ self.A.T @ self.B.T
        return self.scale * (y + detour) if self.B.any() else y


class ReadsOutput(Plain):
    def forward(self, x, y):
        return super().forward(y if x.shape == y.shape else x, y)


class OutputDropout(Plain):
    def forward(self, x, y):
        return y + self.drop(self.scale * (x.float() @ self.A.T @ self.B.T)).to(y.dtype)


class BaseDropout(Plain):
    def forward(self, x, y):
        return self.drop(y + self.scale * (x.float() @ self.A.T @ self.B.T)).to(y.dtype)


class NoDropout(Plain):
    def __init__(self, *sizes, dropout=0.0, **options):
        super().__init__(*sizes, **options)


class DropoutInEval(Plain):
    def forward(self, x, y):
        x = nn.functional.dropout(x.float(), self.drop.p)
        return (y + self.scale * (x @ self.A.T @ self.B.T)).to(y.dtype)


class DetachedA(Plain):
    def forward(self, x, y):
        x = self.drop(x.to(self.A.dtype))
        return (y + self.scale * (x @ self.A.detach().T @ self.B.T)).to(y.dtype)


class DetachedInput(Plain):
    def forward(self, x, y):
        return super().forward(x.detach(), y.detach())


class TransposedDelta(Plain):
    def delta(self):
        return (self.scale * self.B @ self.A).T


class UnscaledDelta(Plain):
    def delta(self):
        return self.B @ self.A


class DroppedDelta(Plain):
    def delta(self):
        return self.scale * self.B @ self.drop(self.A)


class RoundedMatrices(Plain):
    def forward(self, x, y):
        low = self.drop(x) @ self.A.to(x.dtype).T
        return (y + self.scale * (low @ self.B.to(x.dtype).T)).to(y.dtype)


class RoundedDetour(Plain):
    def forward(self, x, y):
        low = (self.scale * self.drop(x.float()) @ self.A.T).to(y.dtype)
        return (y + low.float() @ self.B.T).to(y.dtype)


class BothDrop(Plain):
    """y and x drop."""

    def forward(self, x, y):
        return super().forward(x, self.drop(y))


class WrongDtype(Plain):
    def forward(self, x, y):
        return super().forward(x.float(), y.float())


class NoReturn(Plain):
    def forward(self, x, y):
        super().forward(x, y)


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (AlphaNotDivided, "scale is alpha, it should be alpha / r"),
        (NoScale, "scale is missing"),
        (AlwaysStabilized, "rsLoRA"),
        (NeverStabilized, "rank_stabilized is ignored"),
        (Swapped, "transposed: x meets A"),
        (SwappedShapes, "changed places"),
        (RandomB, "B is not zero"),
        (BothZero, "A and B are both zero"),
        (NotAParameter, "nn.Parameter"),
        (WithBias, "no bias"),
        (DetourOnly, "base path y is dropped"),
        (ScaledBase, "falls on y as well"),
        (ReadsOutput, "it should read x"),
        (OutputDropout, "before A"),
        (BaseDropout, "dropout falls on the base path"),
        (NoDropout, "dropout is never applied"),
        (DropoutInEval, "eval mode"),
        (DetachedA, "A gets no gradient"),
        (DetachedInput, "x gets no gradient"),
        (TransposedDelta, "delta is transposed"),
        (UnscaledDelta, "delta lacks the scale"),
        (DroppedDelta, "delta has no dropout"),
        (RoundedMatrices, "rounded to the dtype of x"),
        (RoundedDetour, "rounded to the dtype of y"),
        (BothDrop, "base path y as well"),
        (WrongDtype, "y's dtype"),
        (NoReturn, "is a return missing"),
    ],
)
def test_a_wrong_solution_is_told_its_mistake(candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.lora(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unwritten_solution_is_unfinished_not_wrong():
    class Unwritten(Plain):
        def forward(self, x, y):
            raise NotImplementedError("LoRAPatch.forward is yours to write")

    with pytest.raises(checks.NotFinished, match="forward is yours to write"):
        checks.lora(Unwritten)


def test_a_shape_error_is_put_in_words():
    class Mismatched(Plain):
        def forward(self, x, y):
            return y + self.scale * (x @ self.A @ self.B)

    with pytest.raises(checks.CheckFailed, match="RuntimeError: mat1 and mat2.*write the shape"):
        checks.lora(Mismatched)


def test_a_check_leaves_the_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    checks.lora(LoRAPatch)
    assert torch.equal(before, torch.get_rng_state())
