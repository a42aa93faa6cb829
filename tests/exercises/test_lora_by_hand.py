"""Gradients by hand, merging, the floor: right solutions, however written, and wrong ones."""

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minipeft import checks
from minipeft.analysis import spectra
from minipeft.course import lora
from minipeft.course.lora import Merge
from minipeft.methods.lora import LoRAPatch


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- lora_gradients --------------------------------------------------------------------------------


def by_autograd(x, A, B, scale, upstream):
    """Not by hand, and right all the same."""
    with torch.enable_grad():
        A, B = (part.detach().clone().requires_grad_() for part in (A, B))
        h = scale * F.linear(F.linear(x, A), B)
        return torch.autograd.grad((h * upstream).sum(), (A, B))


def by_einsum(x, A, B, scale, upstream):
    of_A = torch.einsum("nto,or,nti->ri", upstream, B, x)
    return scale * of_A, scale * torch.einsum("nto,ri,nti->or", upstream, A, x)


def through_the_whole_matrix(x, A, B, scale, upstream):
    """dL/dW first, as full fine-tuning has it; then the chain rule through W = s B A."""
    G = torch.einsum("nto,nti->oi", upstream, x)  # (out, in)
    return scale * B.T @ G, scale * G @ A.T


def token_by_token(x, A, B, scale, upstream):
    of_A, of_B = torch.zeros_like(A), torch.zeros_like(B)
    for n in range(len(x)):
        for t in range(x.shape[1]):
            of_A += scale * torch.outer(B.T @ upstream[n, t], x[n, t])
            of_B += scale * torch.outer(upstream[n, t], A @ x[n, t])
    return of_A, of_B


def row_by_row(x, A, B, scale, upstream):
    pairs = [
        (B.T @ g.T @ one, g.T @ (one @ A.T)) for one, g in zip(x, scale * upstream, strict=True)
    ]
    return tuple(torch.stack(part).sum(0) for part in zip(*pairs, strict=True))


def in_a_list(*given):
    return list(lora.lora_gradients(*given))


RIGHT = [lora.lora_gradients, by_autograd, by_einsum, through_the_whole_matrix, token_by_token]


@pytest.mark.parametrize("right", [*RIGHT, row_by_row, in_a_list])
def test_right_gradients_pass(right, capsys):
    checks.lora_gradients(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def test_the_gradients_are_those_of_the_packages_patch():
    torch.manual_seed(0)
    patch = LoRAPatch(7, 5, rank=3, alpha=6).double()
    nn.init.normal_(patch.B)
    x, y, g = (torch.randn(2, 4, n, dtype=torch.float64) for n in (7, 5, 5))
    (patch(x, y) * g).sum().backward()
    by_hand = lora.lora_gradients(x, patch.A.detach(), patch.B.detach(), patch.scale, g)
    for mine, parameter in zip(by_hand, (patch.A, patch.B), strict=True):
        assert (mine - parameter.grad).abs().max() < 1e-10


def with_matrix(of_A=None, of_B=None):
    """(G, A, B, scale) -> one of the gradients, G the gradient of the whole matrix."""

    def lora_gradients(x, A, B, scale, upstream):
        G = torch.einsum("nto,nti->oi", upstream, x)
        right = through_the_whole_matrix(x, A, B, scale, upstream)
        return (
            of_A(G, A, B, scale) if of_A else right[0],
            of_B(G, A, B, scale) if of_B else right[1],
        )

    return lora_gradients


def on(change):
    """What goes in is changed first."""
    return lambda x, A, B, scale, g: through_the_whole_matrix(*change(x, A, B, scale, g))


def after(change):
    return lambda *given: change(*through_the_whole_matrix(*given))


def per_row(x, A, B, scale, g):
    return scale * (g @ B).mT @ x, scale * g.mT @ (x @ A.T)


def cut_anew(*parts):
    """A reshape where a transpose belongs, in the gradient of A, of B or both."""

    def lora_gradients(x, A, B, scale, upstream):
        x, g = x.flatten(0, 1), upstream.flatten(0, 1)
        low = (g @ B).reshape(len(A), -1) if "A" in parts else (g @ B).T
        high = g.reshape(len(B), -1) if "B" in parts else g.T
        return scale * low @ x, scale * high @ (x @ A.T)

    return lora_gradients


def one_gradient(*given):
    return lora.lora_gradients(*given)[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (with_matrix(lambda G, A, B, s: B.T @ G, lambda G, A, B, s: G @ A.T), "in both gradients"),
        (with_matrix(lambda G, A, B, s: B.T @ G), "missing in dL/dA"),
        (with_matrix(of_B=lambda G, A, B, s: G @ A.T), "missing in dL/dB"),
        (on(lambda x, A, B, s, g: (x, A, B, s * s, g)), "is there twice"),
        (on(lambda x, A, B, s, g: (x, A, B, 1 / s, g)), "divided by the scale"),
        (after(lambda a, b: (b, a)), "have changed places"),
        (after(lambda a, b: (a.T, b.T)), "both gradients are transposed"),
        (after(lambda a, b: (a.T, b)), "dL/dA is transposed"),
        (after(lambda a, b: (a, b.T)), "dL/dB is transposed"),
        (after(lambda a, b: (-a, -b)), "the signs are turned round"),
        (after(lambda a, b: (torch.zeros_like(a), b)), "only where B is zero"),
        (on(lambda x, A, B, s, g: (x, A, B, s, g / len(g))), "rows are averaged"),
        (lambda *given: (lora.lora_gradients(*given)[0], per_row(*given)[1].mean(0)), "in dL/dB"),
        (on(lambda x, A, B, s, g: (x, A, B, s, g.mean(1, True).expand_as(g))), "dL/dA"),
        (on(lambda x, A, B, s, g: (x[:1], A, B, s, g[:1])), "only the first row"),
        (on(lambda x, A, B, s, g: (x[:, -1:], A, B, s, g[:, -1:])), "only the last token"),
        (on(lambda x, A, B, s, g: (x, A, B, s, torch.ones_like(g))), "from above is ignored"),
        (with_matrix(lambda G, A, B, s: s * G), "has not come through B"),
        (with_matrix(of_B=lambda G, A, B, s: s * G), "B reads the r numbers"),
        (cut_anew("A"), "a reshape only cuts"),
        (cut_anew("B"), "a reshape only cuts"),
        (cut_anew("A", "B"), "a reshape only cuts"),
        (per_row, "an axis too many"),
        (one_gradient, "a tuple, not a Tensor"),
        (lambda *given: None, "is a return missing"),
    ],
)
def test_a_wrong_gradient_is_told_its_mistake(wrong, words):
    refused(checks.lora_gradients, wrong, words)


# -- merge and unmerge -----------------------------------------------------------------------------


class Whole(Merge):
    """The whole matrix is made beside, then copied."""

    @torch.no_grad()
    def merge(self):
        if self.original is not None:
            return
        weight = self.linear.weight
        self.original = torch.empty_like(weight).copy_(weight)
        weight.copy_(self.original + self.scale * torch.einsum("or,ri->oi", self.B, self.A))

    @torch.no_grad()
    def unmerge(self):
        if self.original is None:
            return
        self.linear.weight[:] = self.original
        self.original = None


class ThroughData(Merge):
    """By .data, without no_grad."""

    def merge(self):
        if self.original is None:
            self.original = self.linear.weight.data.clone()
            self.linear.weight.data.add_(self.B @ self.A, alpha=self.scale)

    def unmerge(self):
        if self.original is not None:
            self.linear.weight.data.copy_(self.original)
        self.original = None


class RowByRow(Merge):
    """Rows of the weight, one after the other; W0 is kept as a state_dict."""

    @torch.no_grad()
    def merge(self):
        if not self.original:
            self.original = {k: v.clone() for k, v in self.linear.state_dict().items()}
            for row, b in zip(self.linear.weight, self.B, strict=True):
                row += self.scale * (b @ self.A)

    @torch.no_grad()
    def unmerge(self):
        if self.original:
            self.linear.load_state_dict(self.original)
            self.original = None


class Stacked(Merge):
    """A list of what was there; no `original`."""

    @torch.no_grad()
    def merge(self):
        self.kept = getattr(self, "kept", [])
        if not self.kept:
            self.kept.append(self.linear.weight.detach().clone())
            self.linear.weight.addmm_(self.B, self.A, alpha=self.scale)

    @torch.no_grad()
    def unmerge(self):
        while getattr(self, "kept", []):
            self.linear.weight.copy_(self.kept.pop())


@pytest.mark.parametrize("right", [Merge, Whole, ThroughData, RowByRow, Stacked])
def test_right_merges_pass(right, capsys):
    checks.lora_merge(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def merging(merge=None, unmerge=None):
    """A class with one or both of the two methods replaced, under no_grad."""
    methods = {"merge": merge or Merge.merge, "unmerge": unmerge or Merge.unmerge}
    return type("Merge", (Merge,), {k: torch.no_grad()(method) for k, method in methods.items()})


def adding(delta):
    """merge that keeps W0 rightly and adds this."""

    def merge(self):
        if self.original is None:
            self.original = self.linear.weight.clone()
            self.linear.weight += delta(self)

    return merging(merge)


def subtracting(self):
    if self.original is not None:
        self.linear.weight -= self.scale * (self.B @ self.A)
        self.original = None


def keeping(kept):
    """merge that keeps this in place of a copy of W0."""

    def merge(self):
        if self.original is None:
            self.original = kept(self.linear.weight)
            self.linear.weight += self.scale * (self.B @ self.A)

    return merging(merge)


def kept_too_late(self):
    if self.original is None:
        self.linear.weight += self.scale * (self.B @ self.A)
        self.original = self.linear.weight.clone()


def again_and_again(self):
    if self.original is None:
        self.original = self.linear.weight.clone()
    self.linear.weight += self.scale * (self.B @ self.A)


def forgetting(self):
    self.original = self.linear.weight.clone()
    self.linear.weight += self.scale * (self.B @ self.A)


def new_parameter(self):
    if self.original is None:
        self.original = self.linear.weight.clone()
        self.linear.weight = nn.Parameter(self.original + self.scale * (self.B @ self.A))


def never_free(self):
    if self.original is not None:
        self.linear.weight.copy_(self.original)


def always(self):
    self.linear.weight.copy_(self.original)
    self.original = None


def to_zero(self):
    if self.original is not None:
        self.linear.weight.zero_()
        self.original = None


def bias_too(self):
    if self.original is None:
        self.original = self.linear.weight.clone()
        self.linear.weight += self.scale * (self.B @ self.A)
        if self.linear.bias is not None:
            self.linear.bias += self.scale


def out_again(self):
    if self.original is not None:
        self.unmerge()
    else:
        self.original = self.linear.weight.clone()
        self.linear.weight += self.scale * (self.B @ self.A)


def from_the_first(self):
    """W0 is kept over a step of training."""
    if self.original is None:
        self.first = getattr(self, "first", self.linear.weight.clone())
        self.original = self.first
        self.linear.weight.copy_(self.first + self.scale * (self.B @ self.A))


def back_to_the_first(self):
    """The merge is right after a step of training, and unmerge is not."""
    if self.original is None:
        self.first = getattr(self, "first", self.linear.weight.clone())
        self.original = self.first
        self.linear.weight += self.scale * (self.B @ self.A)


def same_detour(self):
    """The detour is kept over a step of training."""
    if self.original is None:
        self.original = self.linear.weight.clone()
        self.change = getattr(self, "change", self.scale * (self.B @ self.A))
        self.linear.weight += self.change


def alone(self):
    if self.original is None:
        self.original = self.linear.weight.clone()
        self.linear.weight.copy_(self.scale * (self.B @ self.A))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (merging(unmerge=subtracting), "is not W in floating point"),
        (keeping(lambda W: W.detach()), "keep a copy of W0"),
        (keeping(lambda W: W.data), "keep a copy of W0"),
        (merging(kept_too_late), "before the detour is added"),
        (adding(lambda m: m.B @ m.A), "the scale s is missing"),
        (adding(lambda m: (m.B @ m.A) / m.scale), "divided by s"),
        (adding(lambda m: -m.scale * (m.B @ m.A)), "subtracted"),
        (adding(lambda m: m.scale * (m.B @ m.A).T), "is transposed"),
        (adding(lambda m: m.scale * (m.A @ m.B)), "x meets A first"),
        (adding(lambda m: 0), "merge does nothing"),
        (merging(again_and_again), "adds the detour once more"),
        (merging(out_again), "takes the detour out again"),
        (merging(from_the_first), "W0 of an earlier merge"),
        (merging(back_to_the_first), "W0 of an earlier merge"),
        (merging(same_detour), "detour of an earlier merge"),
        (merging(forgetting), "and forgets W0"),
        (merging(new_parameter), "another parameter than before"),
        (merging(unmerge=never_free), "still counts as merged"),
        (merging(unmerge=always), "where nothing is merged"),
        (merging(unmerge=to_zero), "leaves zeros"),
        (merging(unmerge=lambda self: None), "unmerge does nothing"),
        (merging(bias_too), "the bias has changed"),
        (merging(alone), "the detour alone"),
    ],
)
def test_a_wrong_merge_is_told_its_mistake(wrong, words):
    refused(checks.lora_merge, wrong, words)


def test_an_unwritten_merge_is_unfinished():
    def unwritten(self):
        raise NotImplementedError("Merge.merge is yours to write")

    with pytest.raises(checks.NotFinished, match="yours to write"):
        checks.lora_merge(merging(unwritten, unwritten))


# -- the floor -------------------------------------------------------------------------------------


def test_the_floor_is_what_the_package_computes():
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(6, 4, dtype=torch.float64))[0] for _ in range(2))
    delta = u @ torch.diag(torch.tensor([4.0, 3, 2, 1], dtype=torch.float64)) @ v.T
    right = checks.rank_floor.right
    assert spectra.floor(delta, 2) == pytest.approx(right["error"], abs=1e-10)
    left = 1 - spectra.energy(delta)
    assert left[1].item() == pytest.approx(right["share"], abs=1e-10)
    assert right["rank"] == 1 + next(i for i, share in enumerate(left.tolist()) if share <= 0.05)


@pytest.mark.parametrize(
    "answer",
    [
        {"error": 5, "share": 1 / 6, "rank": 3},
        {"error": torch.tensor(5.0), "share": 0.1667, "rank": torch.tensor(3)},
        {"rank": 3.0, "share": Fraction(5, 30), "error": 2**2 + 1**2, "note": "whatever"},
        lambda: {"error": 5.0, "share": 5 / 30, "rank": 3},
    ],
)
def test_the_right_floor_in_any_form_is_accepted(answer):
    checks.rank_floor(answer)


def but(**changes):
    return {"error": 5, "share": 1 / 6, "rank": 3} | changes


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (but(error=3), "squared before they are added"),
        (but(error=5**0.5), "that is the length"),
        (but(error=25), "what the student keeps"),
        (but(error=4), "the next one alone"),
        (but(error=2), "the largest value left"),
        (but(share=5 / 6), "what is kept"),
        (but(share=0.3), "not of the values"),
        (but(share=0.5), "the large ones weigh more"),
        (but(share=0.2), "not of what is kept"),
        (but(share=16.7), "not in per cent"),
        (but(rank=2), "more than 5 %"),
        (but(rank=4), "that is enough"),
        (but(error=6), "off by one"),
        ({"error": 5, "share": 1 / 6}, "has no rank"),
        (5, "should be a dict"),
        (None, "is a return missing"),
    ],
)
def test_a_wrong_floor_is_told_where_it_comes_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.rank_floor(answer)
