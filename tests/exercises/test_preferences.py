"""Checks of lesson 19: they take what is right, however it is written, and name what is wrong."""

import math

import diagnoses
import pytest
import torch
from torch.nn import functional as F

from minipeft import checks
from minipeft.checks.exercises.dpo_loss import HINTS
from minipeft.course import preferences as taste
from minipeft.training import preferences

# -- answer_log_probability ------------------------------------------------------------------------


def wide(logits):
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def by_cross_entropy(logits, labels):
    losses = F.cross_entropy(
        wide(logits)[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
    )
    return -losses.sum(1)


def by_one_hot(logits, labels):
    logs = wide(logits)[:, :-1] - wide(logits)[:, :-1].logsumexp(-1, keepdim=True)
    asked = (labels[:, 1:] >= 0).unsqueeze(-1)
    return (logs * F.one_hot(labels[:, 1:].clamp(min=0), logits.shape[-1]) * asked).sum((1, 2))


def row_by_row(logits, labels):
    sums = []
    for row, asked in zip(wide(logits), labels, strict=True):
        places = (asked[1:] != -100).nonzero()[:, 0]
        logs = row.log_softmax(-1)
        sums.append(logs[places, asked[places + 1]].sum())
    return torch.stack(sums)


@pytest.mark.parametrize(
    "right", [preferences.answer_log_probability, by_cross_entropy, by_one_hot, row_by_row]
)
def test_right_log_probabilities_pass(right, capsys):
    checks.answer_log_probability(right)
    assert "✓" in capsys.readouterr().out


def picked(logits, labels, shift=True):
    """(log p of every label, whether it counts), (B, T) each."""
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    logs = wide(logits).log_softmax(-1)
    return logs.gather(-1, labels.clamp(min=0)[..., None])[..., 0], labels != -100


def not_shifted(logits, labels):
    logs, asked = picked(logits, labels, shift=False)
    return (logs * asked).sum(1)


def everything(logits, labels):
    return picked(logits, labels)[0].sum(1)


def mean(logits, labels):
    logs, asked = picked(logits, labels)
    return (logs * asked).sum(1) / asked.sum(1).clamp(min=1)


def mean_of_all(logits, labels):
    logs, asked = picked(logits, labels)
    return (logs * asked).mean(1)


def one_number(logits, labels):
    logs, asked = picked(logits, labels)
    return (logs * asked).sum()


def of_logits(logits, labels):
    logits, labels = wide(logits)[:, :-1], labels[:, 1:]
    return (logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels != -100)).sum(1)


def probabilities(logits, labels):
    logs, asked = picked(logits, labels)
    return (logs.exp() * asked).sum(1)


def log_of_softmax(logits, labels):
    logits, labels = wide(logits)[:, :-1], labels[:, 1:]
    logs = logits.softmax(-1).log().gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return torch.where(labels != -100, logs, 0.0).sum(1)


def in_bfloat16(logits, labels):
    logits, labels = logits[:, :-1], labels[:, 1:]
    logs = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (logs * (labels != -100)).sum(1)


def counted(where):
    """A sum over those tokens of the answer for which `where(asked)` holds."""

    def summed(logits, labels):
        logs, asked = picked(logits, labels)
        return (logs * where(asked)).sum(1)

    return summed


def mask_not_shifted(logits, labels):
    return (picked(logits, labels)[0] * (labels[:, :-1] != -100)).sum(1)


def word_0_left_out(logits, labels):
    return (picked(logits, labels)[0] * (labels[:, 1:] > 0)).sum(1)


def likeliest_words(logits, labels):
    return (wide(logits)[:, :-1].log_softmax(-1).amax(-1) * (labels[:, 1:] != -100)).sum(1)


def zero_by_zero(logits, labels):
    """The mean over the answer, times its length."""
    logs, asked = picked(logits, labels)
    return (logs * asked).sum(1) / asked.sum(1) * asked.sum(1)


def minus_infinity(logits, labels):
    logs, asked = picked(logits, labels)
    return logs.masked_fill(~asked, -torch.inf).sum(1)


def multiplied(form):
    def product(logits, labels):
        logs, asked = picked(logits, labels)
        return form(logs).masked_fill(~asked, 1).prod(1)

    return product


def squeezed(logits, labels):
    logs, labels = wide(logits)[:, :-1].log_softmax(-1), labels[:, 1:]
    return (logs.gather(-1, labels.clamp(min=0)[..., None]).squeeze() * (labels != -100)).sum(-1)


def shifted_twice(logits, labels):
    return by_cross_entropy(logits[:, :-1], labels[:, 1:])


def log_of_softmax_and_a_little(logits, labels):
    logits, labels = wide(logits)[:, :-1], labels[:, 1:]
    logs = (logits.softmax(-1) + 1e-9).log().gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return torch.where(labels != -100, logs, 0.0).sum(1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            counted(lambda asked: asked & (asked.cumsum(1) == 1)),
            "the first token of the answer alone",
        ),
        (
            counted(lambda asked: asked & (asked.cumsum(1) > 1)),
            "the first token of the answer is left",
        ),
        (
            counted(lambda asked: asked & (asked.flip(1).cumsum(1).flip(1) == 1)),
            "the last token of",
        ),
        (counted(lambda asked: asked & (asked.flip(1).cumsum(1).flip(1) > 1)), "the last token of"),
        (mask_not_shifted, "mask is not shifted"),
        (word_0_left_out, "word 0 is left out"),
        (likeliest_words, "likeliest word"),
        (log_of_softmax_and_a_little, "small number inside"),
        (zero_by_zero, "a row without an answer gets 0"),
        (minus_infinity, "a sum keeps"),
        (multiplied(lambda logs: logs), "logarithms are multiplied"),
        (multiplied(torch.exp), "probabilities are multiplied"),
        (squeezed, "name the axis"),
        (shifted_twice, "`2` in place of `1` in `labels[:, 1:]`"),
        (not_shifted, "not shifted"),
        (everything, "count as word 0"),
        (mean, "the mean over the answer's tokens"),
        (mean_of_all, "mean over all positions"),
        (one_number, "one number for the whole batch"),
        (lambda x, y: -by_cross_entropy(x, y), "the sign is wrong"),
        (of_logits, "a logit is no log-probability"),
        (probabilities, "logarithm is missing"),
        (log_of_softmax, "log_softmax"),
        (in_bfloat16, "bfloat16"),
        (lambda x, y: by_cross_entropy(x.detach(), y), "require grad"),
        (lambda x, y: None, ""),
    ],
)
def test_a_wrong_log_probability_is_told_its_mistake(wrong, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.answer_log_probability(wrong)
    assert words in str(caught.value) and "\n" not in str(caught.value)


# -- dpo_loss --------------------------------------------------------------------------------------


def by_softplus(better, worse, reference_better, reference_worse, beta=0.1):
    margin = (better - worse) - (reference_better - reference_worse)
    return F.softplus(-beta * margin).mean()


def as_a_classifier(better, worse, reference_better, reference_worse, beta=0.1):
    """Two logits for each pair; the first one is right."""
    rewards = torch.stack([better - reference_better, worse - reference_worse], dim=1)
    return F.cross_entropy(beta * rewards, torch.zeros(len(better), dtype=torch.long))


def in_a_loop(better, worse, reference_better, reference_worse, beta=0.1):
    total = 0.0
    for a, b, c, d in zip(better, worse, reference_better, reference_worse, strict=True):
        total = total - F.logsigmoid(beta * (a - c) - beta * (b - d))
    return total / len(better)


def with_a_detached_reference(better, worse, reference_better, reference_worse, beta=0.1):
    reference = (reference_better - reference_worse).detach()
    return -F.logsigmoid(beta * (better - worse - reference)).mean()


@pytest.mark.parametrize(
    "right",
    [preferences.dpo_loss, by_softplus, as_a_classifier, in_a_loop, with_a_detached_reference],
)
def test_right_losses_pass(right, capsys):
    checks.dpo_loss(right)
    assert "✓" in capsys.readouterr().out


def loss_with(compute):
    """A loss of (reward of the better, of the worse, beta)."""

    def loss(better, worse, reference_better, reference_worse, beta=0.1):
        return compute(beta * (better - reference_better), beta * (worse - reference_worse), beta)

    return loss


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (loss_with(lambda w, v, b: -F.logsigmoid(v - w).mean()), "changed places"),
        (loss_with(lambda w, v, b: -(w - v).sigmoid().mean()), "logarithm is missing"),
        (loss_with(lambda w, v, b: (1 - (w - v).sigmoid()).mean()), "logarithm is missing"),
        (loss_with(lambda w, v, b: F.logsigmoid(w - v).mean()), "sign is wrong"),
        (loss_with(lambda w, v, b: -(w - v).mean()), "sigmoid is missing"),
        (loss_with(lambda w, v, b: -F.logsigmoid((w - v) / b).mean()), "beta is missing"),
        (
            loss_with(lambda w, v, b: -b * F.logsigmoid((w - v) / b).mean()),
            "outside of the sigmoid",
        ),
        (loss_with(lambda w, v, b: -F.logsigmoid(w).mean()), "worse answer is not used"),
        (loss_with(lambda w, v, b: -F.logsigmoid(w + v).mean()), "take their difference"),
        (loss_with(lambda w, v, b: -F.logsigmoid(w - v).sum()), "sum over pairs"),
        (loss_with(lambda w, v, b: -F.logsigmoid(w - v)), "one number"),
        (loss_with(lambda w, v, b: -F.logsigmoid((w - v).mean())), "mean is inside"),
        (loss_with(lambda w, v, b: -(w - v).sigmoid().log().mean()), "F.logsigmoid"),
        (loss_with(lambda w, v, b: -(w - v).sigmoid().mean().log()), "inside of the logarithm"),
        (loss_with(lambda w, v, b: -F.logsigmoid(w - v).mean() / 2), "half of it"),
        (loss_with(lambda w, v, b: -F.logsigmoid(w - v).mean() / math.log(10)), "base is 10"),
        (loss_with(lambda w, v, b: (1 - w + v).relu().mean()), "hinge"),
        (
            loss_with(lambda w, v, b: -(w - v).sigmoid().clamp(min=1e-8).log().mean()),
            "it is cut off",
        ),
        (loss_with(lambda w, v, b: -F.logsigmoid((w - v) / b * 0.1).mean()), "always 0.1"),
        (loss_with(lambda w, v, b: -F.logsigmoid(w - v / b).mean()), "better one's reward alone"),
        (loss_with(lambda w, v, b: -F.logsigmoid(w / b - v).mean()), "worse one's reward alone"),
        (
            lambda w, v, rw, rl, beta=0.1: preferences.dpo_loss(w.detach(), v, rw, rl, beta),
            "better gets no gradient",
        ),
        (
            lambda w, v, rw, rl, beta=0.1: -F.logsigmoid(beta * (w - v)).mean(),
            "reference is missing",
        ),
        (
            lambda w, v, rw, rl, beta=0.1: -F.logsigmoid(beta * (w - rl) - beta * (v - rw)).mean(),
            "references have changed places",
        ),
        (
            lambda w, v, rw, rl, beta=0.1: -F.logsigmoid(beta * (w / rw) - beta * (v / rl)).mean(),
            "ratio of probabilities",
        ),
        (
            lambda w, v, rw, rl, beta=0.1: (
                -F.logsigmoid(beta * (w.exp() - rw.exp()) - beta * (v.exp() - rl.exp())).mean()
            ),
            "probabilities are subtracted",
        ),
        (  # near 0 wherever the references are far, as other mistakes are
            lambda w, v, rw, rl, beta=0.1: -F.logsigmoid(beta * (w - rw) - v - rl).mean(),
            "none of the usual",
        ),
        (
            lambda w, v, rw, rl, beta=0.5: preferences.dpo_loss(w, v, rw, rl, beta),
            "beta",
        ),
    ],
)
def test_a_wrong_loss_is_told_its_mistake(wrong, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.dpo_loss(wrong)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("check", [checks.dpo_loss, checks.answer_log_probability])
def test_what_is_unwritten_is_unfinished(check):
    def unwritten(*given, beta=0.1):
        raise NotImplementedError("it is yours to write")

    with pytest.raises(checks.NotFinished, match="yours to write"):
        check(unwritten)


# -- numbers ---------------------------------------------------------------------------------------

RIGHT = {"start": 0.6931, "apart": 0.3133, "both": 0.6931, "pull": 0.05}


def test_the_numbers_are_those_of_the_package():
    def at(better, worse):
        better = torch.tensor([better], dtype=torch.float64, requires_grad=True)
        loss = preferences.dpo_loss(better, torch.tensor([worse]), *torch.zeros(2, 1), beta=0.1)
        loss.backward()
        return loss.item(), better.grad.abs().item()

    assert at(0.0, 0.0) == pytest.approx((RIGHT["start"], RIGHT["pull"]), abs=1e-4)
    assert at(5.0, -5.0)[0] == pytest.approx(RIGHT["apart"], abs=1e-4)
    assert at(-20.0, -20.0)[0] == pytest.approx(RIGHT["both"], abs=1e-4)


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        {k: torch.tensor(v) for k, v in RIGHT.items()},
        lambda: RIGHT | {"start": math.log(2)},
        {k: float(f"{v:.2g}") for k, v in RIGHT.items()},  # two digits, as the exercise allows
    ],
)
def test_right_numbers_pass(answer):
    checks.dpo_numbers(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RIGHT | {"start": 0.0}, "not 0"),
        (RIGHT | {"start": 0.5}, "that is sigmoid"),
        (RIGHT | {"start": 1.0}, "a half"),
        (RIGHT | {"apart": 4.5e-5}, "beta multiplies"),
        (RIGHT | {"apart": 0.474}, "one rises by 5 and one falls"),
        (RIGHT | {"apart": 1.3133}, "better one has risen"),
        (RIGHT | {"apart": 0.693}, "not their sum"),
        (RIGHT | {"both": 0.313}, "both have fallen"),
        (RIGHT | {"apart": 0.731}, "that is sigmoid"),
        (RIGHT | {"both": 2.127}, "fallen just as far"),
        (RIGHT | {"both": 0.0}, "not 0"),
        (RIGHT | {"pull": 0.1}, "slope"),
        (RIGHT | {"pull": 0.5}, "chain rule"),
        (RIGHT | {"pull": -0.05}, "without the sign"),
        (RIGHT | {"pull": 0.0693}, "slope of the loss"),
        (RIGHT | {"start": -0.6931}, "positive"),
        (RIGHT | {"start": 0.301}, "base 10"),
        (RIGHT | {"apart": 1.0}, "difference of the rewards"),
        (RIGHT | {"apart": 0.3}, "rounded too far"),
        (RIGHT | {"apart": 0.28}, "too small"),
        (0.69, "should be a dict"),
    ],
)
def test_wrong_numbers_are_told_where_they_come_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.dpo_numbers(answer)


# -- patients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", diagnoses.forms(taste.PATIENTS))
def test_right_diagnoses_pass(answer):
    checks.dpo_patients(answer)


@pytest.mark.parametrize(("answer", "words"), diagnoses.wrong(taste.PATIENTS, HINTS))
def test_a_wrong_diagnosis_is_told_what_speaks_against_it(answer, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.dpo_patients(answer)
    assert words in str(caught.value)


def test_every_wrong_diagnosis_has_its_hint():
    diagnoses.assert_complete(taste.PATIENTS, HINTS, taste.CAUSES)
