"""Wrong solutions that were new to the checks of several lessons, and unusual right ones.

They stand in the files more_of_*.py, in the tables WRONG and RIGHT.
"""

import pytest
from exercises import more_of_attention, more_of_methods, more_of_pretraining
from exercises.test_bank import refused

from minipeft import checks

FILES = (more_of_attention, more_of_pretraining, more_of_methods)
WRONG = [case for file in FILES for case in file.WRONG]
RIGHT = [case for file in FILES for case in file.RIGHT]


@pytest.mark.parametrize(("name", "wrong", "words"), WRONG)
def test_a_wrong_solution_is_told_its_mistake(name, wrong, words):
    said = refused(getattr(checks, name), wrong, words)
    assert "none of the usual mistakes" not in said


@pytest.mark.parametrize(("name", "right"), RIGHT)
def test_an_unusual_right_solution_passes(name, right):
    getattr(checks, name)(right)
