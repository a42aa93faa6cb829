"""What is worked out before it is measured: shares of work, of tasks, of attention; a fair pair."""

from decimal import Decimal
from fractions import Fraction
from itertools import product

import pytest
import torch
from closeness import close
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tiny_transformer as tt
from minipeft import checks

# -- adapter_work ----------------------------------------------------------------------------------


def test_the_work_of_frozen_maps_is_counted_by_torch():
    """Products of a step through six linear maps: trained, and frozen above what is trained."""
    counts = []
    for trained in (True, False):
        maps = nn.Sequential(*(nn.Linear(12, 12, bias=False) for _ in range(6)))
        maps.requires_grad_(trained)
        with FlopCounterMode(display=False) as counter:
            maps(torch.randn(5, 12, requires_grad=True)).sum().backward()
        counts.append(counter.get_total_flops())
    assert Fraction(counts[1], counts[0]) == Fraction(2, 3)
    close(checks.adapter_work.right, counts[1] / counts[0])


@pytest.mark.parametrize("answer", [2 / 3, 0.667, 0.67, Fraction(2, 3), torch.tensor(2 / 3)])
def test_right_work_passes(answer):
    checks.adapter_work(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (1 / 3, "the way back is missing"),
        (0.5, "adapters need two of them"),
        (1, "gradient of a frozen weight"),
        (1.5, "turned round"),
        (2, "divide by those of full"),
        (0.058, "share of the numbers trained"),
        (0.75, "three parts"),
        (66.67, "per cent"),
        ("2/3", "that is text"),
        (float("nan"), "no number"),
    ],
)
def test_wrong_work_is_told_where_it_comes_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.adapter_work(answer)


# -- one_prompt ------------------------------------------------------------------------------------


def test_no_assignment_of_answers_beats_the_ceiling():
    """Every way to answer three rows and two countries, each as one of the tasks of its kind."""
    means = []
    for rows in product(range(3), repeat=3):
        for countries in product(range(2), repeat=2):
            scores = [rows.count(task) / 3 for task in range(3)]
            scores += [countries.count(task) / 2 for task in range(2)]
            means.append(sum(scores) / 5)
    close(checks.one_prompt.right, max(means))


@pytest.mark.parametrize("answer", [0.4, 2 / 5, Fraction(2, 5), Decimal("0.4"), lambda: 0.4])
def test_the_right_ceiling_passes(answer):
    checks.one_prompt(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (1, "cannot be right for three"),
        (0.2, "different inputs"),
        (0.4167, "mean over the two kinds"),
        (0.5, "on countries alone"),
        (1 / 3, "on rows alone"),
        (2, "sum of the five scores"),
        (0.6, "what is lost"),
        (5 / 6, "adds the means"),
        (40, "per cent"),
        (0, "can be right"),
        (None, "is a return missing"),
    ],
)
def test_a_wrong_ceiling_is_told_where_it_comes_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.one_prompt(answer)


# -- prompt_share ----------------------------------------------------------------------------------

SHARES = {"flat": 0.5714, "low": 0.9079, "high": 0.0623}


@pytest.mark.parametrize(("name", "score"), [("flat", 0.0), ("low", -2.0), ("high", 3.0)])
def test_the_share_is_what_attention_gives(name, score):
    """8 keys of zeros and 6 keys whose product with the query is the score."""
    query = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)  # (B, H, T, D)
    keys = torch.zeros(1, 1, 14, 2, dtype=torch.float64)
    keys[..., 8:, 0] = score * 2**0.5
    _, weights = tt.attend(query, keys, keys)
    right = torch.tensor(checks.prompt_share.right[name], dtype=torch.float64)
    close(right, weights[..., :8].sum())


@pytest.mark.parametrize("form", [float, Decimal, torch.tensor, Fraction])
def test_right_shares_pass(form):
    checks.prompt_share({name: form(value) for name, value in SHARES.items()})


@pytest.mark.parametrize(
    ("part", "answer", "words"),
    [
        ("flat", 6 / 14, "share of the words"),
        ("flat", 1 / 14, "one of the 8 rows"),
        ("flat", 8 / 6, "rows and words together"),
        ("flat", 0, "not a weight of 0"),
        ("flat", 8 / 9, "beside one word"),
        ("low", 0.0921, "share of the words"),
        ("low", 0.1529, "sign of the score"),
        ("low", 1.0, "words have weights too"),
        ("low", 0.4, "to the power of the score"),
        ("high", 0.964, "sign of the score"),
        ("high", 0.5714, "words' score is not 0"),
        ("high", 0.9377, "share of the words"),
        ("high", 0.3077, "to the power of the score"),
    ],
)
def test_a_wrong_share_is_told_where_it_comes_from(part, answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.prompt_share(SHARES | {part: answer})


def test_shares_that_are_half_done_are_no_mistake():
    with pytest.raises(checks.NotFinished, match="low, high is still"):
        checks.prompt_share(SHARES | {"low": ..., "high": ...})


# -- fair_pair -------------------------------------------------------------------------------------

SIDES = {  # what is trained beside the prompt, and how one prompts, on both sides
    "a": (("model", "P-tuning"), ("", "prompt tuning")),
    "b": (("", "P-tuning"), ("model", "prompt tuning")),
    "c": (("model", "P-tuning"), ("model", "prompt tuning")),
    "d": (("", "P-tuning"), ("model", "")),
}


def test_the_fair_pair_differs_in_the_prompt_alone():
    fair = [name for name, (a, b) in SIDES.items() if a[0] == b[0] and a[1] and b[1]]
    assert fair == [checks.fair_pair.right]


@pytest.mark.parametrize("answer", ["c", "C", "(c)", " c."])
def test_the_fair_pair_in_any_form_passes(answer):
    checks.fair_pair(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("a", "on the left the model is tuned"),
        ("b", "on the right the model is tuned"),
        ("(d)", "nothing prompts"),
        ("e", "one of a, b, c, d"),
        (3, "one of a, b, c, d"),
    ],
)
def test_an_unfair_pair_is_told_what_differs(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.fair_pair(answer)
