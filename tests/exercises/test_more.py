"""Wrong solutions that were new to the checks of several lessons, and unusual right ones.

They stand in the files more_of_*.py, in the tables WRONG and RIGHT.
"""

import pytest
from exercises import (
    more_of_attention,
    more_of_lora,
    more_of_measures,
    more_of_methods,
    more_of_numbers,
    more_of_pretraining,
    more_of_transfer,
)
from exercises.test_bank import refused
from whole import part_of

from minipeft import checks

FILES = (
    *(more_of_attention, more_of_pretraining, more_of_methods),
    *(more_of_transfer, more_of_lora, more_of_measures),
)
WRONG = part_of([case for file in FILES for case in file.WRONG], 60)
RIGHT = part_of([case for file in FILES for case in file.RIGHT], 20)


@pytest.mark.parametrize(("name", "wrong", "words"), WRONG)
def test_a_wrong_solution_is_told_its_mistake(name, wrong, words):
    said = refused(getattr(checks, name), wrong, words)
    assert "none of the usual mistakes" not in said


@pytest.mark.parametrize(("name", "right"), RIGHT)
def test_an_unusual_right_solution_passes(name, right):
    getattr(checks, name)(right)


def test_a_wrong_number_is_told_where_it_comes_from():
    for name, answer, words in more_of_numbers.WRONG:
        refused(getattr(checks, name), answer, words)


def test_a_number_that_is_not_worked_out_yet_is_no_mistake():
    for name, answer, words in more_of_numbers.UNFINISHED:
        with pytest.raises(checks.NotFinished, match=words):
            getattr(checks, name)(answer)


def test_a_right_number_passes_in_every_form():
    for name, answer in more_of_numbers.RIGHT:
        getattr(checks, name)(answer)
