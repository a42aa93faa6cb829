"""Metrics against values worked out by hand and against what must hold for any input."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minipeft.tasks import metrics

symbols = st.lists(st.sampled_from("abc"), max_size=7)


def test_accuracy_and_exact():
    assert metrics.accuracy([1, 2, 3, 4], [1, 2, 0, 0]) == 0.5
    assert (
        metrics.exact(["Sun cat.", "sun cat", "sun"], ["sun cat .", "sun  cat .", "cat"]) == 2 / 3
    )
    assert metrics.exact(["a . b"], ["a b"]) == 0  # only the last full stop is dropped


def test_overlap_is_rouge_l():
    # Lin 2004: F1 of longest common subsequence; lcs(the cat sat, the sat cat) = 2, 2*2/(3+3)
    assert math.isclose(metrics.overlap(["the cat sat"], ["the sat cat"]), 2 / 3)
    assert math.isclose(metrics.overlap(["the cat", ""], ["the cat sat down", ""]), (4 / 6 + 1) / 2)


def test_entity_f1_counts_words_that_are_not_other():
    target = [["person", "other", "food"], ["other", "place"]]
    said = [["person", "food", "other"], ["other", "person"]]
    # right: 1 of 3 said, of 3 wanted
    assert math.isclose(metrics.entity_f1(said, target), 1 / 3)
    assert metrics.entity_f1(target, target) == 1
    assert metrics.entity_f1([["other"] * 3, ["other"] * 2], target) == 0


def test_span_f1_counts_whole_entities():
    target = [["B-x", "I-x", "O", "B-x"], ["O", "O"]]
    predicted = [["B-x", "I-x", "O", "O"], ["I-x", "O"]]  # one of two, and one that is none
    assert metrics.span_f1(predicted, target) == 2 * 1 / (2 + 2)
    assert metrics.span_f1([["O"]], [["O"]]) == 1.0
    assert metrics.spans(["I-x", "I-x", "I-y", "B-y"]) == [("x", 0, 1), ("y", 2, 2), ("y", 3, 3)]


def test_precision_recall_and_f1_of_every_label():
    rows = metrics.by_label("aab", "abb", ("a", "b", "c"))
    assert rows[0] == pytest.approx(("a", 1 / 2, 1, 2 / 3, 1))
    assert rows[1] == pytest.approx(("b", 1, 1 / 2, 2 / 3, 2))
    assert rows[2] == ("c", 0, 0, 0, 0)
    assert metrics.macro_f1("aab", "abb", ("a", "b", "c")) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_distance_of_known_pairs(a, b, steps):
    assert metrics.distance(a, b) == steps


@given(symbols, symbols, symbols)
def test_distance_is_a_metric(a, b, c):
    d = metrics.distance
    assert (d(a, b) == 0) == (a == b)
    assert d(a, b) == d(b, a)
    assert d(a, c) <= d(a, b) + d(b, c)
    assert abs(len(a) - len(b)) <= d(a, b) <= max(len(a), len(b))


@given(symbols, symbols)
def test_common_subsequence_agrees_with_all_subsequences(a, b):
    def every(x):
        rows = [()]
        for symbol in x:
            rows += [(*row, symbol) for row in rows]
        return set(rows)

    assert metrics.common(a, b) == max(len(row) for row in every(a) & every(b))


def test_error_rate_is_summed_over_rows():
    # one of 3 phonemes wrong in the first row, two of 1 in the second: 3 / 4, not a mean of rates
    assert metrics.error_rate([list("kat"), list("xyz")], [list("kæt"), list("x")]) == 3 / 4


def test_correlation_of_numbers_that_are_always_the_same_and_of_large_ones():
    same = ["0.1"] * 3  # their mean in floating point is not 0.1
    assert metrics.correlation(same, same) == 0
    assert metrics.correlation(["1", "2", "3"], same) == 0
    assert metrics.correlation(["1", "2", "3"], ["3", "2", "1"]) == pytest.approx(-1)
    assert metrics.correlation(["1e200", "3e200"], ["1e200", "2e200"]) == pytest.approx(1)


def test_nothing_and_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="one prediction for each target"):
        metrics.accuracy([1], [1, 2])
    with pytest.raises(ValueError, match="at least one example"):
        metrics.exact([], [])
    with pytest.raises(ValueError, match="at least one symbol"):
        metrics.error_rate([["a"]], [[]])
