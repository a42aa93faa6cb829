"""What the checks look at: nothing stays unvaried, no change of behaviour is accepted."""

import pytest
from equivalent_mutants import EQUIVALENT

from build import HERE
from builder.lesson import read
from minipeft import checks
from minipeft.checks import coverage

CHECKS = {check.name: check for check in checks.EXERCISES.values()}


@pytest.mark.parametrize("name", CHECKS)
def test_every_parameter_and_every_pair_of_options_is_varied(name):
    found = coverage.report(CHECKS[name])
    assert found.never_varied == ()
    assert found.pairs_never_varied == ()


@pytest.mark.parametrize("name", CHECKS)
def test_a_mutant_is_rejected_unless_it_is_listed_as_equivalent(name):
    count, accepted = coverage.survivors(CHECKS[name])
    assert count >= 8
    assert sorted(accepted) == sorted(EQUIVALENT.get(name, {}))


@pytest.mark.parametrize("name", CHECKS)
def test_every_usual_mistake_is_rejected_with_its_own_sentence(name):
    check = CHECKS[name]
    for entry in check.mistakes:
        wrong = coverage.wrong_object(check, entry)
        if wrong is None:
            continue
        with pytest.raises(checks.CheckFailed) as caught:
            check(wrong)
        assert str(caught.value) == entry.sentence


def test_the_lessons_blank_what_the_checks_declare():
    for source in (HERE / "src").glob("*.py"):
        for exercise in read(source).exercises.values():
            check = checks.EXERCISES[exercise.cut.reference]
            for method in check.blank:
                assert f"{check.source.name}.{method} is yours to write" in exercise.cut.stub
