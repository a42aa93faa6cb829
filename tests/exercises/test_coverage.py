"""What the checks look at: nothing stays unvaried, no change of behaviour is accepted."""

import pytest
from equivalent_mutants import EQUIVALENT, bare
from whole import part_of

from build import HERE
from builder.lesson import read
from minipeft import checks
from minipeft.checks import coverage
from minipeft.checks.framework import Check, NumberCheck
from minipeft.checks.framework.mutants import mutants

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


@pytest.mark.parametrize("name", part_of(list(CHECKS), 8))
def test_a_mutant_is_rejected_unless_it_is_listed_as_equivalent(name):
    """Those that are listed pass every case, which takes long: equivalent_mutants.py tries them."""
    check, listed = CHECKS[name], set(map(bare, EQUIVALENT.get(name, {})))
    known = {m.key for m in mutants(check.source, check.blank) if bare(m.key) in listed}
    assert len(known) == len(listed), "mutants are listed that there are not any more"
    count, accepted = coverage.survivors(check, known)
    assert count >= 8
    assert accepted == []


@pytest.mark.parametrize("name", part_of(list(CHECKS), 8))
def test_every_usual_mistake_is_rejected_and_six_of_each_list_are_named(name):
    """`python -m minipeft.checks.coverage --mistakes` asks for every sentence."""
    assert coverage.misnamed(CHECKS[name], most=6) == []


def test_the_lessons_blank_what_the_checks_declare():
    for source in (HERE / "src").glob("*.py"):
        for exercise in read(source).exercises.values():
            check = checks.EXERCISES[exercise.cut.reference]
            for method in getattr(check, "blank", ()):
                assert f"{check.source.name}.{method} is yours to write" in exercise.cut.stub
