"""What the checks look at: nothing stays unvaried, no change of behaviour is accepted."""

import pytest
from equivalent_mutants import EQUIVALENT

from build import HERE
from builder.lesson import read
from minipeft import checks
from minipeft.checks import coverage
from minipeft.checks.framework import Check, NumberCheck
from minipeft.checks.framework.naming import wrong_object

CHECKS = {check.name: check for check in checks.EXERCISES.values() if isinstance(check, Check)}
NUMBER_CHECKS = [check for check in checks.EXERCISES.values() if isinstance(check, NumberCheck)]


@pytest.mark.parametrize("name", CHECKS)
def test_every_parameter_and_every_pair_of_options_is_varied(name):
    coverage_of_check = coverage.report(CHECKS[name])
    assert coverage_of_check.never_varied == ()
    assert coverage_of_check.pairs_never_varied == ()


@pytest.mark.parametrize("check", NUMBER_CHECKS, ids=lambda check: check.name)
def test_wrong_numbers_are_explained_and_wrong(check):
    assert coverage.unexplained(check) == []
    for value, sentence in check.wrong:
        with pytest.raises(checks.CheckFailed) as caught:
            check(value)
        assert str(caught.value) == sentence


@pytest.mark.parametrize("name", CHECKS)
def test_a_mutant_is_rejected_unless_it_is_listed_as_equivalent(name):
    count, accepted = coverage.survivors(CHECKS[name])
    assert count >= 8
    assert sorted(map(bare, accepted)) == sorted(map(bare, EQUIVALENT.get(name, {})))


def bare(key):
    """Without brackets and spaces, which Python's versions write differently."""
    return "".join(c for c in key if c not in "() ")


@pytest.mark.parametrize("name", CHECKS)
def test_every_usual_mistake_is_rejected_with_the_sentence_of_one(name):
    """Of two mistakes in one object the one that shows first may be named."""
    check = CHECKS[name]
    sentences = {entry.sentence for entry in check.mistakes if isinstance(entry.sentence, str)}
    for entry in check.mistakes:
        wrong = wrong_object(check, entry)
        if wrong is None:
            continue
        with pytest.raises(checks.CheckFailed) as caught:
            check(wrong)
        assert str(caught.value) in sentences


def test_the_lessons_blank_what_the_checks_declare():
    for source in (HERE / "src").glob("*.py"):
        for exercise in read(source).exercises.values():
            check = checks.EXERCISES[exercise.cut.reference]
            for method in getattr(check, "blank", ()):
                assert f"{check.source.name}.{method} is yours to write" in exercise.cut.stub
