"""Which cases are tried: few, and every pair of values of every two options together.

The options of a trial are axes, {"T": (3, 1, 4), "causal": (OMIT, True, False)}. A case takes one
value of each. Most mistakes need one or two options to show, so the cases cover every pair: some
ten to thirty cases instead of the product of all axes. The first value of an axis is the plain one.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable, Iterator, Mapping


class _Omit:
    """Stands for an argument that is not given, so that its default is in force."""

    def __repr__(self) -> str:
        return "left out"


OMIT = _Omit()


class Case(dict):
    """One value of each option; `case.T` is `case["T"]`."""

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def given(self, name: str, default):
        """The value of an option, or its default where the option is left out."""
        return default if self[name] is OMIT else self[name]

    def changed(self, **options) -> Case:
        """The same case, with the same numbers, but for these options."""
        other = Case(self | options)
        other.__dict__["numbers_of"] = self.seed
        return other

    @property
    def key(self) -> tuple:
        """What tells this case from all others."""
        return (self.seed, *map(repr, self.values()))

    @property
    def seed(self) -> int:
        """The same case always gets the same numbers."""
        if "numbers_of" in self.__dict__:
            return self.__dict__["numbers_of"]
        return zlib.crc32(repr(sorted(self.items(), key=lambda item: item[0])).encode())


def call(function: Callable, *arguments, **options):
    """Call with the options that are not left out."""
    return function(*arguments, **{k: v for k, v in options.items() if v is not OMIT})


def every_pair(
    axes: Mapping[str, tuple], valid: Callable[[Case], bool] = lambda case: True
) -> list[Case]:
    """Cases that hold every pair of values that a valid case can hold, the plainest ones first.

    Raises:
        ValueError: no case is valid.
    """
    dice = random.Random(0)
    plain = Case({name: values[0] for name, values in axes.items()})
    alone = [Case(plain | {name: v}) for name, values in axes.items() for v in values[1:]]
    cases = [case for case in (plain, *alone) if valid(case)]
    missing = dict.fromkeys(_pairs_of(axes))
    for case in cases:
        for pair in _pairs_in(case):
            missing.pop(pair, None)
    while missing:
        wanted = next(iter(missing))
        best, most = None, 0
        for _ in range(40):
            case = _random_case(axes, wanted, dice)
            if valid(case):
                new = sum(pair in missing for pair in _pairs_in(case))
                if new > most:
                    best, most = case, new
        if best is None:  # no valid case was met that holds this pair
            best = _search(axes, wanted, valid)
            if best is None:
                missing.pop(wanted)
                continue
        cases.append(best)
        for pair in _pairs_in(best):
            missing.pop(pair, None)
    if not cases:
        raise ValueError(f"No case of {', '.join(axes)} is valid.")
    return sorted(cases, key=lambda case: distance(case, axes))


def distance(case: Case, axes: Mapping[str, tuple]) -> tuple[int, int]:
    """How many options of a case are not plain, and how far down their lists they stand."""
    places = [
        next(i for i, value in enumerate(values) if value is case[name])
        for name, values in axes.items()
    ]
    return sum(place > 0 for place in places), sum(places)


def plainer(case: Case, axes: Mapping[str, tuple], valid: Callable[[Case], bool]) -> Iterator[Case]:
    """Cases that differ in one option, which is plain in them."""
    for name, values in axes.items():
        changed = Case(case | {name: values[0]})
        if case[name] is not values[0] and valid(changed):
            yield changed


def smaller(case: Case, axes: Mapping[str, tuple], valid: Callable[[Case], bool]) -> Iterator[Case]:
    """Cases that differ in one size, which is smaller in them."""
    for name, values in axes.items():
        if type(case[name]) is int:
            for value in sorted(v for v in values if type(v) is int and v < case[name]):
                changed = Case(case | {name: value})
                if valid(changed):
                    yield changed


def _pairs_of(axes: Mapping[str, tuple]) -> Iterator[tuple]:
    if len(axes) == 1:
        ((name, values),) = axes.items()
        yield from (((name, id(v)),) for v in values)
    for (a, ones), (b, twos) in itertools.combinations(axes.items(), 2):
        for one, two in itertools.product(ones, twos):
            yield (a, id(one)), (b, id(two))


def _pairs_in(case: Case) -> Iterator[tuple]:
    held = [(name, id(value)) for name, value in case.items()]
    if len(held) == 1:
        yield (held[0],)
    yield from itertools.combinations(held, 2)


def _random_case(axes: Mapping[str, tuple], wanted: tuple, dice: random.Random) -> Case:
    fixed = dict(wanted)
    return Case(
        {
            name: next(v for v in values if id(v) == fixed[name])
            if name in fixed
            else dice.choice(values)
            for name, values in axes.items()
        }
    )


def _search(axes: Mapping[str, tuple], wanted: tuple, valid) -> Case | None:
    """The plainest valid case that holds the pair, if there is one."""
    fixed = dict(wanted)
    choices = [
        [v for v in values if name not in fixed or id(v) == fixed[name]]
        for name, values in axes.items()
    ]
    for values in itertools.islice(itertools.product(*choices), 20_000):
        case = Case(zip(axes, values, strict=True))
        if valid(case):
            return case
    return None
