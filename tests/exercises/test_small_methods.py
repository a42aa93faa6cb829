"""The exercises of lesson 12: right and wrong answers, and what each wrong one is told."""

from __future__ import annotations

from fractions import Fraction

import diagnoses
import numpy
import pytest
import torch

import minipeft as mp
from minipeft import checks
from minipeft.checks.exercises.budget_faults import HINTS
from minipeft.checks.exercises.small_numbers import PARTS
from minipeft.course.small_methods import CAUSES, FAULTS
from minipeft.methods.ia3 import OutputScale
from minipeft.methods.parts.budget import update_averages


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "none of the usual mistakes" not in str(caught.value)
    assert "\n" not in str(caught.value)


# -- output_scale ----------------------------------------------------------------------------------


def scale(forward=OutputScale.forward, fold=OutputScale.fold):
    return type("OutputScale", (OutputScale,), {"forward": forward, "fold": fold})


def by_einsum(self, x, y):
    return torch.einsum("o,...o->...o", self.l.to(torch.promote_types(y.dtype, self.l.dtype)),
                        y.to(torch.promote_types(y.dtype, self.l.dtype))).to(y.dtype)  # fmt: skip


def by_broadcast(self, x, y):
    return torch.mul(y, self.l.expand(y.shape)).type_as(y)


def as_a_change(self, x, y):
    """y + (l - 1) y, in the wider dtype."""
    wide = y.to(torch.promote_types(y.dtype, self.l.dtype))
    return torch.lerp(torch.zeros_like(wide), wide, self.l.to(wide.dtype)).to(y.dtype)


def by_diagonal(self, weight, bias):
    D = torch.diag(self.l)
    return D @ weight, bias if bias is None else D @ bias


def by_columns(self, weight, bias):
    merged = (weight.T * self.l).T
    if bias is None:
        return [merged, None]
    return [merged, bias.mul(self.l)]


def by_rows(self, weight, bias):
    rows = torch.stack([number * row for number, row in zip(self.l, weight, strict=True)])
    return rows, None if bias is None else torch.einsum("o,o->o", self.l, bias)


@pytest.mark.parametrize(
    "right",
    [
        OutputScale,
        scale(by_einsum, by_diagonal),
        scale(by_broadcast, by_rows),
        scale(as_a_change),
        scale(fold=lambda self, weight, bias: tuple(by_columns(self, weight, bias))),
    ],
)
def test_every_way_to_rescale_passes(right, capsys):
    checks.output_scale(right)
    assert "✓" in capsys.readouterr().out


def unchanged_bias(self, weight, bias):
    return self.l[:, None] * weight, bias


def by_wrong_axis(self, weight, bias):
    return weight * self.l[: weight.shape[1]] if len(weight) == len(weight.T) else self.l[:, None] * weight, None if bias is None else self.l * bias  # fmt: skip  # noqa: E501


def without_none(self, weight, bias):
    return self.l[:, None] * weight, self.l * bias


def zeros_for_none(self, weight, bias):
    return self.l[:, None] * weight, self.l * (torch.zeros(len(self.l)) if bias is None else bias)


def in_place(self, weight, bias):
    weight.mul_(self.l[:, None])
    return weight, None if bias is None else self.l * bias


def resets(self, weight, bias):
    """l is 1 afterwards, so that nobody multiplies twice."""
    merged = by_diagonal(self, weight.detach(), bias)
    with torch.no_grad():
        self.l.fill_(1)
    return merged


def a_linear_map(self, weight, bias):
    out, inside = weight.shape
    merged = torch.nn.Linear(inside, out, bias is not None, dtype=weight.dtype)
    merged.weight.data = self.l.data[:, None] * weight
    return merged


def first_answer(self, x, y):
    if not hasattr(self, "kept"):
        self.kept = (self.l * y).to(y.dtype)
    return self.kept


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (scale(lambda self, x, y: (self.l.float() * y.float()).to(y.dtype)), "to float32"),
        (scale(lambda self, x, y: (self.l * y.float()).to(y.dtype)), "to float32 on the way"),
        (scale(lambda self, x, y: (self.l.abs() * y).to(y.dtype)), "l has a sign"),
        (scale(lambda self, x, y: (self.l * y).to(x.dtype)), "dtype of y"),
        (scale(lambda self, x, y: y.mul_(self.l.to(y.dtype))), "the y that came in was changed"),
        (scale(first_answer), "kept from an earlier call"),
        (scale(fold=resets), "changes the layer itself"),
        (scale(fold=a_linear_map), "a tuple, not a Linear"),
        (scale(lambda self, x, y: (y + self.l * y).to(y.dtype)), "added once more"),
        (scale(lambda self, x, y: (y + self.l).to(y.dtype)), "it multiplies y"),
        (scale(lambda self, x, y: (y * (self.l + 1)).to(y.dtype)), "1 at the start already"),
        (scale(lambda self, x, y: (y / self.l).to(y.dtype)), "multiply"),
        (scale(lambda self, x, y: y), "not rescaled"),
        (scale(lambda self, x, y: self.l * y), "dtype of y"),
        (scale(lambda self, x, y: self.l.to(y.dtype) * y), "before it multiplies"),
        (scale(lambda self, x, y: (self.l.data * y).to(y.dtype)), "nothing could train it"),
        (scale(lambda self, x, y: (self.l * y.detach()).to(y.dtype)), "layers below"),
        (scale(lambda self, x, y: (self.l.mean() * y).to(y.dtype)), "for every feature"),
        (scale(lambda self, x, y: (self.l * x).to(y.dtype)), "x is rescaled"),
        (scale(lambda self, x, y: None), "is a return missing"),
        (scale(fold=lambda self, w, b: (self.l[:, None] * w, self.l * b if b else b)), "is None"),
        (scale(fold=unchanged_bias), "multiplies b as well"),
        (scale(fold=by_wrong_axis), "rows of W"),
        (scale(fold=without_none), "None"),
        (scale(fold=zeros_for_none), "stays without one"),
        (scale(fold=in_place), "weight"),
        (scale(fold=lambda self, w, b: (w + 0, b if b is None else self.l * b)), "its rows by l"),
        (scale(fold=lambda self, w, b: (self.l[:, None] * w, None)), "loses the bias"),
        (scale(fold=lambda self, w, b: by_rows(self, w, b)[::-1]), "changed places"),
        (scale(fold=lambda self, w, b: self.l[:, None] * w), ""),
        (OutputScale(3), "the class itself"),
    ],
)
def test_a_wrong_rescaling_is_told(wrong, words):
    refused(checks.output_scale, wrong, words)


# -- update_averages -------------------------------------------------------------------------------


def by_lerp(w, gradient, mean, uncertainty, b1, b2):
    I = (w.abs() * gradient.abs()).detach()  # noqa: E741
    mean = torch.lerp(I, mean, torch.full_like(I, b1))
    return mean, torch.lerp((mean - I).abs(), uncertainty, torch.full_like(I, b2))


def in_closed_form(w, gradient, mean, uncertainty, b1, b2):
    """I - new mean = b1 (I - old mean)."""
    I = torch.sqrt((w * gradient) ** 2)  # noqa: E741
    return I + b1 * (mean - I), uncertainty + (1 - b2) * (b1 * (I - mean).abs() - uncertainty)


def on_copies(w, gradient, mean, uncertainty, b1, b2):
    mean, uncertainty = mean.clone(), uncertainty.clone()
    with torch.no_grad():
        I = torch.maximum(w * gradient, -w * gradient)  # noqa: E741
        mean.mul_(b1).add_(I, alpha=1 - b1)
        uncertainty.mul_(b2).add_((I - mean).abs(), alpha=1 - b2)
    return mean, uncertainty


@pytest.mark.parametrize("right", [update_averages, by_lerp, in_closed_form, on_copies])
def test_every_way_to_update_passes(right, capsys):
    checks.update_averages(right)
    assert "✓" in capsys.readouterr().out


def made(sensitivity=lambda w, g: (w * g).abs(), mean=None, distance=None, swap=False):
    """An update with another sensitivity, mean(m, I, b1), or distance(I, old, new)."""

    def update_averages(w, gradient, m, u, b1, b2):
        if swap:
            b1, b2 = b2, b1
        s = sensitivity(w, gradient)
        new = b1 * m + (1 - b1) * s if mean is None else mean(m, s, b1)
        d = (s - new).abs() if distance is None else distance(s, m, new)
        return new, b2 * u + (1 - b2) * d

    return update_averages


def changed_in_place(w, gradient, mean, uncertainty, b1, b2):
    I = (w * gradient).abs()  # noqa: E741
    mean.mul_(b1).add_((1 - b1) * I)
    uncertainty.mul_(b2).add_((1 - b2) * (I - mean).abs())
    return mean, uncertainty


def at_fixed_rates(w, gradient, mean, uncertainty, b1, b2):
    return update_averages(w, gradient, mean, uncertainty, 0.85, 0.85)


def of_its_grad(w, gradient, mean, uncertainty, b1, b2):
    return update_averages(w, w.grad, mean, uncertainty, b1, b2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (at_fixed_rates, "0.85 stands where b1 and b2 belong"),
        (of_its_grad, "handed in as `gradient`"),
        (made(lambda w, g: w.abs() * g), "still has its sign"),
        (made(lambda w, g: (w * g).relu()), "a product below 0 counts"),
        (made(distance=lambda s, old, new: (new - old).abs()), "how far the mean has moved"),
        (made(mean=lambda m, s, b1: (b1 * m + (1 - b1) * s) / (1 - b1)), "a factor is wrong"),
        (made(lambda w, g: w * g), "without its sign"),
        (made(lambda w, g: g.abs()), "w is missing"),
        (made(lambda w, g: w.abs()), "the gradient is missing"),
        (made(lambda w, g: (w * g).square()), "not its square"),
        (made(lambda w, g: (w * g).abs().mean().expand_as(w)), "take no mean"),
        (made(distance=lambda s, old, new: (s - old).abs()), "new mean"),
        (made(distance=lambda s, old, new: s - new), "no sign"),
        (made(distance=lambda s, old, new: (s - new) ** 2), "not its square"),
        (made(distance=lambda s, old, new: s), "not the sensitivity"),
        (made(distance=lambda s, old, new: (s - new).abs().mean()), "take no mean"),
        (made(lambda w, g: (w * g).abs().sum()), "take no sum"),
        (lambda *given: (m := update_averages(*given)[0], m * update_averages(*given)[1]), "score"),
        (
            lambda w, g, m, u, b1, b2: (
                update_averages(w, g, m, u, b1, b2)[0],
                b2 * u + (1 - b2) * ((w * g).abs() - u).abs(),
            ),
            "old uncertainty",
        ),
        (made(swap=True), "b1 smooths the mean"),
        (made(mean=lambda m, s, b1: (1 - b1) * m + b1 * s), "weight of the past"),
        (made(mean=lambda m, s, b1: b1 * m + s), "1 - b1, not 1"),
        (made(mean=lambda m, s, b1: s), "forgets the past"),
        (lambda *given: update_averages(*given)[::-1], "changed places"),
        (lambda *given: torch.mul(*update_averages(*given)), "that is their product"),
        (lambda *given: update_averages(*given)[0], "the uncertainty is missing"),
        (changed_in_place, "mean"),
        (lambda *given: None, "is a return missing"),
    ],
)
def test_a_wrong_update_is_told(wrong, words):
    refused(checks.update_averages, wrong, words)


# -- small_numbers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    """BERT-base and SmolLM2's shape, without their numbers."""
    hf = pytest.importorskip("transformers")
    with torch.device("meta"):
        bert = hf.BertModel(hf.BertConfig(), add_pooling_layer=False)
        llama = hf.LlamaForCausalLM(
            hf.LlamaConfig(
                vocab_size=100,
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
            )
        )
    return bert, llama


def test_small_numbers_are_those_of_the_models(models):
    bert, llama = models
    biases = sum(
        p.numel() for n, p in bert.encoder.named_parameters() if n.rsplit(".")[-1] == "bias"
    )
    right = checks.small_numbers.right
    assert biases == right["bert_bitfit"]
    assert not [n for n, _ in llama.named_parameters() if "bias" in n]
    assert right["smollm_bitfit"] == 0

    def features(model, side, *ends):
        return sum(getattr(m, side) for n, m in model.named_modules() if n.endswith(ends))

    keys = features(bert, "out_features", "attention.self.key", "attention.self.value")
    hidden = sum(block.output.dense.in_features for block in bert.encoder.layer)
    assert keys + hidden == right["bert_ia3"]
    keys = features(llama, "out_features", "k_proj", "v_proj")
    assert keys + features(llama, "in_features", "down_proj") == right["smollm_ia3"]


@pytest.mark.parametrize("kind", [int, float, Fraction, numpy.int64, torch.tensor])
def test_small_numbers_in_any_form(kind):
    checks.small_numbers({part: kind(right) for part, (right, _) in PARTS.items()})
    checks.small_numbers(lambda: {part: kind(right) for part, (right, _) in PARTS.items()})


@pytest.mark.parametrize(
    ("part", "wrong", "sentence"),
    [(part, value, text) for part, (_, wrong) in PARTS.items() for value, text in wrong],
)
def test_a_wrong_small_number_is_told_where_it_comes_from(part, wrong, sentence):
    refused(checks.small_numbers, checks.small_numbers.right | {part: wrong}, sentence)


def test_what_is_no_small_number():
    refused(checks.small_numbers, None, "")
    refused(checks.small_numbers, 101376, "")
    refused(checks.small_numbers, {"bert_bitfit": 101376}, "")
    with pytest.raises(checks.NotFinished):
        checks.small_numbers(dict.fromkeys(PARTS, ...))


# -- budget_faults ---------------------------------------------------------------------------------


def test_the_right_diagnosis_passes_in_any_form():
    for answer in diagnoses.forms(FAULTS):
        checks.budget_faults(answer)


def test_a_wrong_diagnosis_is_told_what_speaks_against_it():
    diagnoses.assert_complete(FAULTS, HINTS, CAUSES)
    for answer, words in diagnoses.wrong(FAULTS, HINTS):
        refused(checks.budget_faults, answer, words)


def test_what_is_no_diagnosis():
    refused(checks.budget_faults, {}, "")
    refused(checks.budget_faults, list(FAULTS.values()), "")
    with pytest.raises(checks.NotFinished):
        checks.budget_faults(dict.fromkeys(FAULTS, ...))


def test_two_steps_of_adalora_are_two_updates():
    """The package's AdaLoRA keeps what the function gives."""
    patch = mp.methods.adalora.AdaLoRAPatch(3, 2, 2, 1.0)
    patch.begin()
    mean = uncertainty = torch.zeros(2, 3)
    for _ in range(2):
        for p in patch.parameters():
            p.grad = torch.randn_like(p)
        patch.update_importance(0.8, 0.7)
        mean, uncertainty = update_averages(patch.Q, patch.Q.grad, mean, uncertainty, 0.8, 0.7)
    assert torch.equal(patch.Q_mean, mean) and torch.equal(patch.Q_uncertainty, uncertainty)
