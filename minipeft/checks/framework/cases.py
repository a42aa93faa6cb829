"""Which cases are tried: few, and every pair of values of every two options together.

The options of a trial are axes, {"T": (3, 1, 4), "causal": (OMIT, True, False)}. A case takes one
value of each. Most mistakes need one or two options to show, so the cases cover every pair: some
ten to thirty cases instead of the product of all axes. The first value of an axis is the plain one.
Two options of the exercise meet where a mistake shows: in a precise dtype, with gradients.
"""

from __future__ import annotations

import functools
import itertools
import operator
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

LARGE = 264  # 8 times 33: heads can share it
EQUAL = 12  # of all sizes together
ADDED = ("dtype", "layout", "gradients", "phase", "magnitude")  # axes of the framework
COARSE = ("bfloat16", "float16")  # whose tolerance may hide a mistake


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

    @functools.cached_property
    def key(self) -> tuple:
        """What tells this case from all others."""
        return (self.seed, *map(repr, self.values()))

    @functools.cached_property
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
    alone = [
        _plainest(plain, {name: value}, axes, valid)
        for name, values in axes.items()
        for value in values[1:]
    ]
    cases = [case for case in (plain, *alone) if case is not None and valid(case)]
    missing = dict.fromkeys(_pairs_of(axes))
    for case in cases:
        for pair in _pairs_in(case):
            if _shows(case, pair, axes):
                missing.pop(pair, None)
    while missing:
        wanted = next(iter(missing))
        best, most = None, 0
        for _ in range(40):
            case = _random_case(axes, wanted, dice)
            if valid(case) and _shows(case, wanted, axes):
                new = sum(pair in missing for pair in _pairs_in(case) if _shows(case, pair, axes))
                if new > most:
                    best, most = case, new
        if best is None:  # no valid case was met that holds this pair
            best = _search(axes, wanted, valid)
            if best is None:
                missing.pop(wanted)
                continue
        cases.append(best)
        missing.pop(wanted)
        for pair in _pairs_in(best):
            if _shows(best, pair, axes):
                missing.pop(pair, None)
    if not cases:
        raise ValueError(f"No case of {', '.join(axes)} is valid.")
    return sorted(cases, key=lambda case: distance(case, axes))


def every_large(
    axes: Mapping[str, tuple], valid: Callable[[Case], bool], small: Sequence[str] = ()
) -> list[Case]:
    """Cases beyond the pairs: one size after the other large, all alike, and large numbers.

    A solution may hold a number that is as large as all sizes of the other cases ([:6], arange(8)),
    count in a type that ends at 127, tell two axes apart by their sizes, or clamp and overflow.
    small: options that are no sizes, or must stay small.
    """
    plain = {name: values[0] for name, values in axes.items()}
    sizes = [name for name, values in axes.items() if name not in small and _are_sizes(values)]
    changes: list[dict] = [{name: LARGE} for name in sizes]
    large = {"magnitude": "large"}
    if "float64" in axes["dtype"]:  # the rounding of float32 decides where two scores are near
        large["dtype"] = "float64"
    if len(sizes) > 1:
        options = [
            {name: value}
            for name, values in axes.items()
            if name not in ADDED
            for value in values
            if (type(value) is not int if name in sizes else value is not values[0])
        ]
        equal = dict.fromkeys(sizes, EQUAL)
        changes += [equal, *(equal | option | large for option in options)]
    changes.append(large)
    cases = [Case(plain | change) for change in changes]
    return [case for case in cases if valid(case)]


def _are_sizes(values: tuple) -> bool:
    numbers = [value for value in values if isinstance(value, int | float)]
    return len(numbers) > 1 and all(type(number) is int for number in numbers)


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


def _plainest(plain: Case, held: dict, axes: Mapping[str, tuple], valid) -> Case | None:
    """The valid case that holds a value and differs from the plain one in as little else."""
    others = [
        {name: value}
        for name, values in axes.items()
        if name not in held and name not in ADDED
        for value in values[1:]
    ]
    for size in range(3):  # a mask of the context needs a context, and a block that reads it
        for changes in itertools.combinations(others, size):
            case = Case(functools.reduce(operator.or_, changes, plain | held))
            if valid(case):
                return case
    return None


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


def _shows(case: Case, pair: tuple, axes: Mapping[str, tuple]) -> bool:
    """Would a mistake in these two options show, if both are the exercise's own?"""
    if any(name in ADDED for name, _ in pair):
        return True
    with_gradients = case.get("gradients", "on") == "on" or "on" not in axes["gradients"]
    precise = any(dtype not in COARSE for dtype in axes.get("dtype", ()))
    return with_gradients and not (precise and case.get("dtype") in COARSE)


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
