"""Labels as people write them."""

import math

import pytest

import minipeft as mp
from minipeft.tasks import conll, labels


@pytest.mark.parametrize(
    ("pair", "same"),
    [
        (("1", "1.0"), True),
        (("01", "1"), True),
        (("1e0", "1"), True),
        (("True", "true"), True),
        (("good", "good "), True),
        (("in  house", "in\u00a0house"), True),
        (("caf\u00e9", "cafe\u0301"), True),
        (("\ufeffgood", "good"), True),
        (("A", "a"), False),
        (("1", "11"), False),
        (("B-x", "I-x"), False),
        (("1_0", "10"), False),
        (("none", "None"), False),
    ],
)
def test_two_spellings_of_one_label(pair, same):
    if not same:
        labels.check(pair)
        return
    with pytest.raises(ValueError, match="one label written in two ways"):
        labels.check(pair)


@pytest.mark.parametrize("none", ["nan", "NaN", " <NA>"])
def test_a_label_that_is_none(none):
    with pytest.raises(ValueError, match="there is none"):
        labels.check(["good", none])


def test_labels_that_differ_in_capital_letters():
    assert labels.differ_in_capitals(["b", "A", "a"]) == ["A", "a"]
    assert labels.differ_in_capitals(["a", "b"]) == []


def test_rows_of_the_library_are_read_alike():
    rows = [{"input": "a", "target": "x "}, ("b", "x"), {"input": "c", "target": 3}]
    assert mp.tasks.make("t", "classify", train=rows).labels == ("x", "3")
    given = mp.tasks.make("t", "classify", [0, 1], train=[("a", 0), ("b", 1)])
    assert given.labels == ("0", "1") and [e.target for e in given.train] == ["0", "1"]
    tagged = mp.tasks.make("t", "tag", train=[{"input": ["a b", "c"], "target": ["O", "B-x"]}])
    assert tagged.train[0] == ("a␣b c", "O B-x") and tagged.labels == ("O", "B-x")
    row = {"input": ["a b", "c"], "target": ["first class"]}
    assert mp.tasks.make("t", "classify", train=[row]).train[0] == ("a b c", "first class")
    assert mp.tasks.make("t", "generate", train=[("a", "x ")]).train[0].target == "x "
    for bad in (None, math.nan):
        for row in ({"input": "a", "target": bad}, (bad, "x")):
            with pytest.raises(ValueError, match="fill it, or leave the row out"):
                mp.tasks.make("t", "classify", train=[row])
    with pytest.raises(ValueError, match="one label written in two ways"):
        mp.tasks.make("t", "classify", train=[("a", 1), ("b", 1.0)])


def test_numbers_that_measure_something():
    assert labels.are_measured(["0.5", "1", "1.5", "2.0", "3.7"])
    for names in (["0", "0.5", "1"], ["0", "1", "2", "3", "4.0"], ["1.5", "a", "b", "c", "d", "e"]):
        assert not labels.are_measured(names)
    assert labels.are_numbers([" 1", "2.5 "]) and not labels.are_numbers(["1", "one"])


def test_labels_that_may_be_none():
    assert labels.perhaps_none(["N/A", "a", "none", "?", "nothing", "NULL"]) == [
        "N/A", "none", "?", "NULL"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [(["a", "b c"], True), (["a", "b"], False), ("b c", False), (None, False), (5, False),
     ([1, None], False), ([None, "b c"], True), ([], False), ([" a "], False)],
)  # fmt: skip
def test_a_list_of_texts_is_told_from_a_list_of_words(value, expected):
    assert conll.are_sentences(value) == expected


def test_a_word_of_a_list_stays_one_word():
    words = ["a", "", " b  c\t", "\n", "d"]
    for inside in ("", "␣"):
        text = conll.spaced(words, inside)
        assert text == f"a _ b{inside}c _ d" and len(text.split()) == len(words)
