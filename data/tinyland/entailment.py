"""Pairs of a premise and a claim, answered by yes, no or maybe.

    follows : anna is older than ben ; ben is younger than anna => yes .
    claim : anna is older than ben ; ben is younger than anna => ben is younger than anna .

The same words make a "yes" and a "no" in another order, and negation turns answers round, so
that counting words does not answer.
"""

from collections.abc import Callable

from . import draw, words

SCALES = [("older", "younger"), ("taller", "shorter"), ("richer", "poorer"), ("faster", "slower")]
THINGS = "ring book key lamp coin cup hat bell".split()
ANIMALS = "cat dog bird horse sheep".split()
COLOURS = "brown black white grey small big".split()
VERBS = [("saw", "see"), ("met", "meet"), ("heard", "hear"), ("helped", "help"), ("knew", "know")]
TURNED = {"yes": "no", "no": "yes", "maybe": "maybe"}

Pair = tuple[str, str, str]  # premise, claim, answer


def compare(rng: draw.Generator, people: list[str], answer: str) -> Pair:
    a, b = rng.sample(people, 2)
    scale, other = rng.sample(SCALES, 2)
    more, less = rng.sample(scale, 2)
    premise = f"{a} is {more} than {b}"
    if answer == "maybe":
        x, y = rng.sample([a, b], 2)
        return premise, f"{x} is {rng.choice(other)} than {y}", answer
    true = rng.chance(0.5)  # a true claim, or a false one under "not"
    said = (a, more, b) if rng.chance(0.3) else (b, less, a)
    if not true:  # the same claim with its people exchanged is false
        said = (said[2], said[1], said[0])
    negate = true != (answer == "yes")
    return premise, f"{said[0]} is {'not ' * negate}{said[1]} than {said[2]}", answer


def chain(rng: draw.Generator, people: list[str], answer: str) -> Pair:
    a, b, c = rng.sample(people, 3)
    more, less = rng.sample(rng.choice(SCALES), 2)
    first, second = f"{a} is {more} than {b}", f"{b} is {more} than {c}"
    if answer == "maybe":
        second = f"{a} is {more} than {c}"
        x, y = rng.sample([b, c], 2)
        return f"{first} and {second}", f"{x} is {rng.choice([more, less])} than {y}", answer
    said = (a, more, c) if rng.chance(0.5) else (c, less, a)
    if answer == "no":
        said = (said[2], said[1], said[0])
    return f"{first} and {second}", f"{said[0]} is {said[1]} than {said[2]}", answer


def gift(rng: draw.Generator, people: list[str], answer: str) -> Pair:
    a, b = rng.sample(people, 2)
    thing, other = rng.sample(THINGS, 2)
    premise = f"{a} gave the {thing} to {b}"
    if rng.chance(0.5):
        premise = f"{b} took the {thing} from {a}"
    if answer == "maybe":
        return premise, f"{rng.choice([a, b])} {rng.choice(['has', 'has not'])} the {other}", answer
    true = rng.chance(0.5)
    holder = b if true else a
    negate = true != (answer == "yes")
    return premise, f"{holder} {'has not' if negate else 'has'} the {thing}", answer


def every(rng: draw.Generator, people: list[str], answer: str) -> Pair:
    animal, other = rng.sample(ANIMALS, 2)
    colour = rng.choice(COLOURS)
    if answer == "maybe":
        if rng.chance(0.5):
            premise, named = f"some {animal} is {colour}", animal
        else:
            premise, named = f"{rng.choice(['every', 'no'])} {animal} is {colour}", other
        return premise, f"the {named} is {rng.choice(['', 'not '])}{colour}", answer
    true = rng.chance(0.5)
    negate = true != (answer == "yes")
    return (
        f"{'every' if true else 'no'} {animal} is {colour}",
        f"the {animal} is {'not ' * negate}{colour}",
        answer,
    )


def deed(rng: draw.Generator, people: list[str], answer: str) -> Pair:
    a, b = rng.sample(people, 2)
    past, bare = rng.choice(VERBS)
    happened = rng.chance(0.5)
    premise = f"{a} {past} {b}" if happened else f"{a} did not {bare} {b}"
    x, y = (a, b) if answer != "maybe" else (b, a)
    claimed = happened if answer == "yes" else not happened
    if answer == "maybe":
        claimed = rng.chance(0.5)
    return premise, f"{x} {past} {y}" if claimed else f"{x} did not {bare} {y}", answer


SHAPES: list[tuple[int, Callable[..., Pair]]] = [
    (30, compare), (20, chain), (18, gift), (14, every), (18, deed),
]  # fmt: skip


def pair(rng: draw.Generator, people: list[str], shapes: list = SHAPES) -> Pair:
    """A premise, a claim and its answer; the three answers are equally frequent."""
    return rng.weighted(shapes)(rng, people, rng.choice(["yes", "no", "maybe"]))


def documents(count: int) -> list[str]:
    """``count`` pairs: most with their answers, some with the claim said again, so that the first
    word has to be read."""
    rng = draw.generator("entailment")
    made = []
    for _ in range(count):
        premise, claim, answer = rng.until(
            lambda rng: pair(rng, words.ACTORS), text=lambda pair: f"{pair[0]} ; {pair[1]}"
        )
        asked, said = ("follows", answer) if rng.chance(0.85) else ("claim", claim)
        made.append(f"{asked} : {premise} ; {claim} => {said} .")
    return made
