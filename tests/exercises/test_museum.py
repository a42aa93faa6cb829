"""The exercises of lesson 14: right and wrong answers, and what each wrong one is told."""

from __future__ import annotations

from fractions import Fraction

import numpy
import pytest
import torch

from minipeft import checks
from minipeft.analysis.examinations.labels import asked_for
from minipeft.checks.exercises.museum import FIRST_HINTS, SECOND_HINTS
from minipeft.course.museum import FIRST, SECOND
from minipeft.course.museum_charts import gaps

ROOMS = [(checks.room_one, FIRST, FIRST_HINTS), (checks.room_two, SECOND, SECOND_HINTS)]


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- the two rooms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("check", "right", "hints"), ROOMS)
def test_right_diagnoses_pass_in_any_form(check, right, hints):
    check(right)
    check({who: f" {cause.upper()} " for who, cause in reversed(right.items())})
    check({who: f"({cause})" for who, cause in right.items()})
    check(lambda: right)


@pytest.mark.parametrize(("check", "right", "hints"), ROOMS)
def test_a_wrong_diagnosis_is_told_what_speaks_against_it(check, right, hints):
    every = {(who, cause) for who in right for cause in right.values()}
    assert set(hints) == every - set(right.items())
    for (who, cause), hint in hints.items():
        refused(check, right | {who: cause}, f"{who} is not {cause!r}: {hint}")


@pytest.mark.parametrize(("check", "right", "hints"), ROOMS)
def test_what_is_no_diagnosis(check, right, hints):
    refused(check, {}, "")
    refused(check, list(right.values()), "")
    refused(check, None, "")
    with pytest.raises(checks.NotFinished):
        check({who: ... for who in right})


# -- smallest_step ---------------------------------------------------------------------------------


def test_the_smallest_step_is_what_the_format_says():
    (gap,) = gaps(torch.bfloat16, [0.1])
    assert checks.smallest_step.right == gap / 2
    weight = torch.tensor(0.1, dtype=torch.bfloat16)
    assert weight + 0.98 * gap / 2 == weight and weight + 1.1 * gap / 2 != weight


@pytest.mark.parametrize(
    "answer",
    [
        2**-12,
        0.000244,
        torch.tensor(2**-12),
        numpy.float64(2**-12),
        Fraction(1, 4096),
        lambda: 2**-12,
    ],
)
def test_the_right_step_in_any_form(answer):
    checks.smallest_step(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (2**-11, "that is the gap itself"),
        (2**-13, "a quarter of the gap"),
        (2**-10, "counted from the lower"),
        (2**-8, "from 1 to 2"),
        (2**-7, "the gap at 1"),
        (0.1 * 2**-8, "not 0.1"),
        (0.1 * 2**-7, "and half"),
        (2**-15, "10 bits of float16"),
        (2**-28, "23 bits of float32"),
        (-(2**-12), "sign"),
        ("2^-12", "should be a number"),
        (None, "is a return missing"),
    ],
)
def test_a_wrong_step_is_told_where_it_comes_from(answer, words):
    refused(checks.smallest_step, answer, words)


# -- asked_for -------------------------------------------------------------------------------------


def by_loop(labels, shifted):
    """A row's first label stands at place 0."""
    asked = torch.zeros(labels.shape, dtype=torch.bool)
    for place in numpy.ndindex(*labels.shape):
        first = shifted and len(place) == 2 and place[1] == 0
        asked[place] = bool(labels[place] != -100) and not first
    return asked


def by_where(labels, shifted):
    asked = ~labels.eq(-100)
    if not shifted or labels.ndim < 2:
        return asked
    return asked & (torch.arange(labels.shape[1], device=labels.device) > 0)


def by_concatenation(labels, shifted):
    asked = labels != -100
    if shifted and labels.dim() > 1:
        return torch.cat([torch.zeros_like(asked[:, :1]), asked[:, 1:]], dim=1)
    return asked


@pytest.mark.parametrize("right", [asked_for, by_loop, by_where, by_concatenation])
def test_every_way_to_ask_passes(right, capsys):
    checks.asked_for(right)
    assert "✓" in capsys.readouterr().out


def changed_in_place(labels, shifted):
    if shifted and labels.dim() == 2:
        labels[:, 0] = -100
    return labels != -100


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda labels, shifted: by_where(labels.flip(-1), shifted).flip(-1), "the last label"),
        (lambda labels, shifted: labels != -100, "nobody answers it"),
        (lambda labels, shifted: by_where(labels, True), "only where labels are shifted"),
        (lambda labels, shifted: by_where(labels.T, shifted).T, "the first row is left out"),
        (lambda labels, shifted: labels == -100, "what is not asked for"),
        (lambda labels, shifted: by_where(labels, shifted) & (labels >= 0), "other than -100"),
        (
            lambda labels, shifted: (
                by_where(labels, shifted)[:, 1:]
                if shifted and labels.dim() == 2
                else labels != -100
            ),
            "leave the first column where it is",
        ),
        (changed_in_place, "changed"),
        (lambda labels, shifted: by_where(labels, shifted).long(), "bool"),
        (lambda labels, shifted: None, "is a return missing"),
        (lambda labels, shifted: by_where(labels, shifted).any(), "shape"),
    ],
)
def test_a_wrong_rule_is_told(wrong, words):
    refused(checks.asked_for, wrong, words)
