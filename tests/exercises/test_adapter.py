"""checks.adapter: takes what is right, however it is written, and names what is wrong."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minipeft import checks
from minipeft.methods.adapter import ACTIVATIONS, AdapterPatch


class Plain(nn.Module):
    """A correct solution with layers; the wrong ones below change one thing each."""

    def __init__(
        self, width, bottleneck, activation="gelu", sigma=0.01, scale=1.0, skip=True, dropout=0.0
    ):
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.drop, self.phi = nn.Dropout(dropout), ACTIVATIONS[activation]
        self.scale, self.skip = scale, skip

    def change(self, h):
        h = h.to(self.up.weight.dtype)
        return self.scale * self.up(self.drop(self.phi(self.down(h))))

    def forward(self, x, y):
        change = self.change(y)
        if self.skip:
            change = y + change
        return change.to(y.dtype)


class ByMatrices(Plain):
    """Another: matrices written out, the scale on W_up and b_up."""

    def change(self, h):
        low = self.phi(h.to(self.down.weight.dtype) @ self.down.weight.mT + self.down.bias)
        up = self.scale * self.up.weight
        return self.drop(low) @ up.mT + self.scale * self.up.bias


class ByEinsum(Plain):
    """Another: einsum, and the skip as a number."""

    def change(self, h):
        low = torch.einsum("btc,mc->btm", h.to(self.up.weight.dtype), self.down.weight)
        low = self.drop(self.phi(low + self.down.bias))
        return self.scale * (torch.einsum("btm,cm->btc", low, self.up.weight) + self.up.bias)

    def forward(self, x, y):
        return (float(self.skip) * y + self.change(y)).to(y.dtype)


class TokenByToken(Plain):
    """Another: one token after the other (slow, and right)."""

    def change(self, h):
        tokens = [self.phi(self.down(token)) for token in h.to(self.up.weight.dtype).unbind(1)]
        return self.up(self.drop(torch.stack(tokens, dim=1))) * self.scale


class RoundedFirst(Plain):
    """Another: the change comes to the dtype of y before the sum."""

    def forward(self, x, y):
        change = self.change(y).to(y.dtype)
        return y + change if self.skip else change


class ByConvolution(Plain):
    """Another: the two maps as convolutions of width 1 over the tokens."""

    def change(self, h):
        h = h.to(self.up.weight.dtype).mT  # (N, C, T)
        low = self.drop(self.phi(F.conv1d(h, self.down.weight[..., None], self.down.bias)))
        return self.scale * F.conv1d(low, self.up.weight[..., None], self.up.bias).mT


class InPlaceOnItsOwn(Plain):
    """Another: in-place steps, on tensors that it has made itself."""

    def change(self, h):
        up = self.up(self.drop(self.phi(self.down(h.to(self.up.weight.dtype)))))
        up *= self.scale
        return up

    def forward(self, x, y):
        out = self.change(y)
        if self.skip:
            out += y
        return out.type_as(y)


@pytest.mark.parametrize(
    "candidate",
    [AdapterPatch, Plain, ByMatrices, ByEinsum, TokenByToken, RoundedFirst]
    + [ByConvolution, InPlaceOnItsOwn],
)
def test_right_solutions_pass(candidate, capsys):
    checks.adapter(candidate)
    assert f"✓ {candidate.__name__}" in capsys.readouterr().out


class NoPhi(Plain):
    def change(self, h):
        return self.scale * self.up(self.drop(self.down(h.to(self.up.weight.dtype))))


class AlwaysGelu(Plain):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.phi = F.gelu


class PhiAtTheEnd(Plain):
    def change(self, h):
        low = self.down(h.to(self.up.weight.dtype))
        return self.scale * self.phi(self.up(self.drop(low)))


class PhiFirst(Plain):
    def change(self, h):
        low = self.down(self.phi(h.to(self.up.weight.dtype)))
        return self.scale * self.up(self.drop(low))


class NoBiasDown(Plain):
    def change(self, h):
        low = self.phi(h.to(self.up.weight.dtype) @ self.down.weight.T)
        return self.scale * self.up(self.drop(low))


class NoBiasUp(Plain):
    def change(self, h):
        low = self.phi(self.down(h.to(self.up.weight.dtype)))
        return self.scale * (self.drop(low) @ self.up.weight.T)


class NoScale(Plain):
    def change(self, h):
        return self.up(self.drop(self.phi(self.down(h.to(self.up.weight.dtype)))))


class ScaledSkip(NoScale):
    def forward(self, x, y):
        change = self.change(y)
        return (self.scale * (y + change if self.skip else change)).to(y.dtype)


class AlwaysSkips(Plain):
    def forward(self, x, y):
        return (y + self.change(y)).to(y.dtype)


class NeverSkips(Plain):
    def forward(self, x, y):
        return self.change(y).to(y.dtype)


class Inverted(Plain):
    def forward(self, x, y):
        return (self.change(y) if self.skip else y + self.change(y)).to(y.dtype)


class Subtracts(Plain):
    def forward(self, x, y):
        return (y - self.change(y) if self.skip else self.change(y)).to(y.dtype)


class ReadsInput(Plain):
    def forward(self, x, y):
        change = self.change(x if x.shape == y.shape else y)
        return (y + change if self.skip else change).to(y.dtype)


class SkipsTwice(Plain):
    def change(self, h):
        return h.to(self.up.weight.dtype) + super().change(h)


class KeepsItsDtype(Plain):
    def forward(self, x, y):
        return y + self.change(y) if self.skip else self.change(y)


class NoCast(Plain):
    def change(self, h):
        return self.scale * self.up(self.drop(self.phi(self.down(h))))


class DropsTheChange(Plain):
    def change(self, h):
        low = self.phi(self.down(h.to(self.up.weight.dtype)))
        return self.drop(self.scale * self.up(low))


class DropsTheInput(Plain):
    def change(self, h):
        return self.scale * self.up(self.phi(self.down(self.drop(h.to(self.up.weight.dtype)))))


class NeverDrops(Plain):
    def change(self, h):
        return self.scale * self.up(self.phi(self.down(h.to(self.up.weight.dtype))))


class AlwaysDrops(Plain):
    def change(self, h):
        low = self.phi(self.down(h.to(self.up.weight.dtype)))
        return self.scale * self.up(F.dropout(low, self.drop.p))


class DetachedChange(Plain):
    def forward(self, x, y):
        change = self.change(y.detach())
        return (y + change if self.skip else change).to(y.dtype)


class NoReturn(Plain):
    def forward(self, x, y):
        super().forward(x, y)


class OnlyOneArgument(Plain):
    def forward(self, y):
        return super().forward(y, y)


class AlwaysRelu(Plain):
    def change(self, h):
        return self.scale * self.up(self.drop(F.relu(self.down(h.to(self.up.weight.dtype)))))


class ReshapesDown(Plain):
    def change(self, h):
        h = h.to(self.up.weight.dtype)
        low = h @ self.down.weight.view(h.shape[-1], -1) + self.down.bias
        return self.scale * self.up(self.drop(self.phi(low)))


class SwapsTheMaps(Plain):
    def change(self, h):
        low = self.phi(h.to(self.up.weight.dtype) @ self.up.weight + self.down.bias)
        return self.scale * (self.drop(low) @ self.down.weight + self.up.bias)


class NormalizesFirst(Plain):
    def change(self, h):
        return super().change(F.layer_norm(h.to(self.up.weight.dtype), h.shape[-1:]))


class GatesWithPhi(Plain):
    def change(self, h):
        low = self.down(h.to(self.up.weight.dtype))
        return self.scale * self.up(self.drop(low * self.phi(low)))


class LastToken(Plain):
    def change(self, h):
        return super().change(h[:, -1:]).expand(h.shape)


class MeanOfTokens(Plain):
    def change(self, h):
        return super().change(h.mean(1, keepdim=True)).expand(h.shape)


class AddsNothing(Plain):
    def change(self, h):
        return torch.zeros_like(h, dtype=self.up.weight.dtype)


class ScalesTheSkip(Plain):
    def forward(self, x, y):
        change = self.change(y)
        return (self.scale * y + change if self.skip else change).to(y.dtype)


class AddsXAsWell(Plain):
    def forward(self, x, y):
        near = x + y if x.shape == y.shape else y
        return (near + self.change(y) if self.skip else self.change(y)).to(y.dtype)


class FixedShare(Plain):
    def change(self, h):
        low = self.phi(self.down(h.to(self.up.weight.dtype)))
        return self.scale * self.up(F.dropout(low, 0.5, self.training))


class DropsBeforePhi(Plain):
    def change(self, h):
        return self.scale * self.up(self.phi(self.drop(self.down(h.to(self.up.weight.dtype)))))


class DropsTokens(Plain):
    def change(self, h):
        low = self.phi(self.down(h.to(self.up.weight.dtype)))
        return self.scale * self.up(low * self.drop(torch.ones_like(low[..., :1])))


class NotDivided(Plain):
    def change(self, h):
        low = self.phi(self.down(h.to(self.up.weight.dtype)))
        if self.training:
            low = low * (torch.rand_like(low) > self.drop.p)
        return self.scale * self.up(low)


class DropsTwice(Plain):
    def forward(self, x, y):
        change = self.drop(self.change(y))
        return (y + change if self.skip else change).to(y.dtype)


class ChangesY(Plain):
    def forward(self, x, y):
        change = self.change(y)
        if not self.skip:
            return change.to(y.dtype)
        y += change
        return y


class Remembers(Plain):
    def forward(self, x, y):
        if not hasattr(self, "kept"):
            self.kept = self.change(y)
        return (y + self.kept if self.skip else self.kept).to(y.dtype)


class FewerLater(Plain):
    def forward(self, x, y):
        answer = super().forward(x, y)
        later, self.later = hasattr(self, "later"), True
        return (answer, answer) if later else answer


class NoGradInside(Plain):
    def forward(self, x, y):
        with torch.no_grad():
            change = self.change(y)
        return (y + change if self.skip else change).to(y.dtype)


class DetachedSkip(Plain):
    def forward(self, x, y):
        change = self.change(y)
        return (y.detach() + change if self.skip else change).to(y.dtype)


class WeightsToItsDtype(Plain):
    def change(self, h):
        return self.to(h.dtype) and self.scale * self.up(self.drop(self.phi(self.down(h))))


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (AlwaysRelu, "always ReLU"),
        (ReshapesDown, "reshaped where it should be transposed"),
        (SwapsTheMaps, "changed places"),
        (NormalizesFirst, "a layer norm stands before W_down"),
        (GatesWithPhi, "phi gates W_down h"),
        (LastToken, "along axis 1: the last is used for all"),
        (MeanOfTokens, "along axis 1: each place has an answer of its own"),
        (AddsNothing, "0 everywhere"),
        (ScalesTheSkip, "h is scaled as well"),
        (AddsXAsWell, "x is added beside y"),
        (FixedShare, "with a dropout of 0: use self.dropout"),
        (DropsBeforePhi, "dropout falls before phi"),
        (DropsTokens, "all hidden features of a token together"),
        (NotDivided, "not divided by 1 - p"),
        (DropsTwice, "dropout falls twice"),
        (ChangesY, "changed in place"),
        (Remembers, "what it has kept from the first call"),
        (FewerLater, "of another form when it is called again"),
        (NoGradInside, "runs under no_grad"),
        (DetachedSkip, "the gradient of y is not"),
        (WeightsToItsDtype, "changes the layer itself"),
        (NoPhi, "phi is missing"),
        (AlwaysGelu, "always GELU"),
        (PhiAtTheEnd, "phi comes after W_up"),
        (PhiFirst, "phi comes too early"),
        (NoBiasDown, "b_down is missing"),
        (NoBiasUp, "b_up is missing"),
        (NoScale, "s is missing"),
        (ScaledSkip, "s is missing"),
        (AlwaysSkips, "skip=False is ignored"),
        (NeverSkips, "the skip is missing"),
        (Inverted, "missing where skip is True"),
        (Subtracts, "subtracted"),
        (ReadsInput, "the adapter reads x"),
        (SkipsTwice, "change adds h"),
        (KeepsItsDtype, "y's dtype"),
        (NoCast, "turn it into theirs before W_down"),
        (DropsTheChange, "drop hidden features, before W_up"),
        (DropsTheInput, "drop hidden features, after phi"),
        (NeverDrops, "dropout is never applied"),
        (AlwaysDrops, "eval mode"),
        (DetachedChange, "h is detached"),
        (NoReturn, "is a return missing"),
        (OnlyOneArgument, "argument"),
    ],
)
def test_a_wrong_solution_is_told_its_mistake(candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.adapter(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unwritten_solution_is_unfinished_not_wrong():
    class Unwritten(Plain):
        def change(self, h):
            raise NotImplementedError("AdapterPatch.change is yours to write")

        def forward(self, x, y):
            raise NotImplementedError("AdapterPatch.forward is yours to write")

    with pytest.raises(checks.NotFinished, match="is yours to write"):
        checks.adapter(Unwritten)
