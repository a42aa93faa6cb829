"""Exercises in which every patient gets its cause: right answers, wrong ones, the hints for them.

The tests that are parametrized with these stand in tests/exercises, beside the exercise.
"""

from collections.abc import Collection, Mapping


def forms(causes: Mapping[str, str]) -> list:
    """The right answer as several people write it."""
    return [
        causes,
        {who: f" {cause.upper()} " for who, cause in causes.items()},
        {who: f"({cause})" for who, cause in reversed(causes.items())},
        lambda: dict(reversed(causes.items())),
    ]


def wrong(causes: Mapping[str, str], hints: Mapping[tuple[str, str], str]) -> list[tuple]:
    """(answer with one wrong cause, the hint for it) of every hint."""
    return [(causes | {who: cause}, f"{who} is not {cause!r}: {hint}")
            for (who, cause), hint in hints.items()]  # fmt: skip


def assert_complete(
    causes: Mapping[str, str], hints: Mapping[tuple[str, str], str], known: Collection[str]
) -> None:
    """Every wrong cause has its hint, and every known cause its patient."""
    every = {(who, cause) for who in causes for cause in known}
    assert set(hints) == every - set(causes.items())
    assert set(causes.values()) == set(known)
