"""The numbers that adapters train, and the four patients: right and wrong answers."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft import checks, tasks
from minipeft.course import adapters


def test_the_answer_is_what_the_package_counts():
    base, _ = tt.load("tiny-decoder-0.4m")
    tuner = mp.attach(base, mp.Adapter(bottleneck=16), name="counted", seed=0)
    assert checks.adapter_parameters.right == sum(p.numel() for p in tuner.parameters())


@pytest.mark.parametrize(
    "answer",
    [
        *(22688, 22688.0, torch.tensor(22688), Fraction(45376, 2), lambda: 8 * 2656 + 9 * 160),
        *(np.int64(22688), torch.tensor([22688]), np.array([[22688.0]])[0]),
    ],
)
def test_the_right_number_in_any_form_is_accepted(answer):
    checks.adapter_parameters(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (21248, "the layer norms are missing"),
        (12064, "one adapter per layer: there are two"),
        (10624, "and norms train too"),
        (2656, "that is one adapter"),
        (5312, "one layer without its norms"),
        (21920, "the biases are missing"),
        (20480, "W_down and W_up alone"),
        (22528, "behind the last layer"),
        (21968, "a weight and a bias"),
        (12448, "two matrices"),
        (23200, "b_down has m numbers"),
        (22176, "b_up has C numbers"),
        (22560, "b_down is missing"),
        (22048, "b_up or a norm"),
        (21888, "that makes nine"),
        (23456, "each map has one bias"),
        (1440, "the layer norms alone"),
        (6752, "adapters of one layer"),
        (4096, "one adapter beside the norms"),
        (33312, "three adapters per layer"),
        (53280, "goes through m numbers"),
        (45376, "2 times too large"),
        (22689, "off by one"),
        ("22688", "that is text"),
        ([22688], "a number, not a list"),
        (torch.tensor([22688, 0]), "a number, not a Tensor"),
        (torch.tensor([22689]), "off by one"),
        (True, "a number, not a bool"),
        (float("nan"), "that is no number"),
        (float("inf"), "that is infinite"),
        (-22688, "the sign is wrong"),
        (22688e3, "1000 times too large"),
        (None, "is a return missing"),
    ],
)
def test_a_wrong_number_is_told_where_it_comes_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.adapter_parameters(answer)


@pytest.mark.parametrize(
    "answer",
    [
        {"A": "c", "B": "d", "C": "b", "D": "a"},
        dict(A="C", B="D", C="B", D="A"),
        {"D": " a.", "C": "(b)", "B": "d", "A": "c", "healthy": "nothing"},
    ],
)
def test_the_right_diagnosis_is_accepted(answer):
    checks.adapter_faults(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"A": "a", "B": "d", "C": "b", "D": "c"}, "A has fewer"),
        ({"A": "e", "B": "e", "C": "e", "D": "e"}, "what one adapter per layer would do"),
        ({"A": "c", "B": "b", "C": "d", "D": "a"}, "which matrices moved"),
        ({"A": "c", "B": "a", "C": "b", "D": "d"}, "this fault takes some away"),
        ({"A": "c", "B": "d", "C": "e", "D": "a"}, "large weights make h longer"),
        ({"A": "c", "B": "d", "C": "d", "D": "a"}, "what is zero adds nothing to h"),
        ({"A": "c", "B": "d", "C": "b", "D": "c"}, "half of all adapters"),
        ({"A": "c", "B": "d", "C": "b", "D": "e"}, "the difference is 1,440"),
        ({"a": "c", "b": "d", "c": "b", "d": "a"}, "has no A, B, C, D"),
        ({"A": ["c"], "B": "d", "C": "b", "D": "a"}, "A should be one of a, b, c, d, e"),
        ({"A": "c", "B": "d", "C": "b"}, "has no D"),
        ({"A": "c", "B": "d", "C": "b", "D": "f"}, "D should be one of a, b, c, d, e"),
        ("cdba", "should be a dict"),
        (["c", "d", "b", "a"], "should be a dict"),
        (None, "is a return missing"),
    ],
)
def test_a_wrong_diagnosis_is_told_where_to_look(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.adapter_faults(answer)


def test_the_patients_show_what_the_lesson_says_of_them():
    """The table that learners read leads to the right answer, whatever the processor."""
    base, tokenizer = tt.load("tiny-decoder-0.4m")
    batch = tasks.load("reverse-rotate").batches("train", tokenizer, batch_size=4)(0)
    rows = {row[0]: row for row in adapters.symptoms(base, batch, steps=2).rows}
    trained = {name: int(row[1].replace(",", "")) for name, row in rows.items()}
    moved = {name: float(row[2]) for name, row in rows.items()}
    assert trained["healthy"] == trained["B"] == trained["C"] == 22_688
    assert trained["healthy"] - trained["D"] == 1_440 and trained["A"] == 12_064
    assert moved["B"] == 0 and moved["C"] > 20 * moved["healthy"] > 0
    length = {name: float(row[3]) for name, row in rows.items()}
    assert length["C"] < 0.1 and all(length[who] == 1 for who in ("healthy", "A", "B", "D"))
    large = adapters.at_the_start(base, mp.Adapter(bottleneck=16, sigma=1.0), batch)
    assert large["passed"] > 2, "fault e must look unlike b"
    assert rows["B"][4] == "16 of 16" and rows["healthy"][4] == "0 of 16"
    assert set(checks.adapter_faults.right.values()) < set(adapters.FAULTS)
