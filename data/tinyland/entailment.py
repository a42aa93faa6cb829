"""Pairs of a premise and a claim, answered by yes, no or maybe.

    follows : anna has a ring and ben has a key ; ben has a key => yes .
    follows : anna has a ring and ben has a key ; ben has a ring => no .
    follows : anna has a ring and ben has a key ; tom has a ring => maybe .
    claim : anna has a ring and ben has a key ; ben has a key => ben has a key .

The same words make a "yes" and a "no" in another order, and negation turns answers round, so
that counting words does not answer.
"""

from . import draw, words

THINGS = "ring book key lamp coin cup hat bell".split()
PLACES = "rome oslo cairo tokyo lima quito athens dublin".split()
FOODS = "bread rice soup cheese apple honey fish cake".split()
JOBS = "baker farmer teacher doctor driver painter".split()
ANIMALS = "cat dog bird horse sheep".split()
COLOURS = "brown black white grey".split()
SCALES = [("older", "younger"), ("taller", "shorter"), ("richer", "poorer")]

# (weight, said, denied, values): what is told of people
TELLINGS = [
    (24, "{} has a {}", "{} has no {}", THINGS),
    (20, "{} is in {}", "{} is not in {}", PLACES),
    (20, "{} likes {}", "{} likes no {}", FOODS),
    (20, "{} is a {}", "{} is not a {}", JOBS),
]
ANIMAL = ("every {} is {}", "the {} is {}", "the {} is not {}", COLOURS)
NEGATED = 0.2  # share of the claims that deny

Pair = tuple[str, str, str]  # premise, claim, answer


def two_facts(rng: draw.Generator, people: list[str], answer: str, negated: float) -> Pair:
    """Two facts of one sort; the claim is one of them, a mixture of both, or of somebody else."""
    _, said, denied, values = rng.weighted([(telling[0], telling) for telling in TELLINGS])
    return _pair(rng, said, said, denied, people, values, answer, negated)


def every(rng: draw.Generator, people: list[str], answer: str, negated: float) -> Pair:
    """The same about animals: every cat is black; the cat is black."""
    fact, said, denied, values = ANIMAL
    return _pair(rng, fact, said, denied, ANIMALS, values, answer, negated)


def _pair(
    rng: draw.Generator, fact: str, said: str, denied: str, subjects: list, values: list,
    answer: str, negated: float,
) -> Pair:  # fmt: skip
    a, b, c = rng.sample(subjects, 3)
    of_a, of_b = rng.sample(values, 2)
    premise = f"{fact.format(a, of_a)} and {fact.format(b, of_b)}"
    denies = rng.chance(negated)
    if answer == "maybe":
        subject, value = c, rng.choice([of_a, of_b])
    else:
        subject, (true, others) = rng.choice([(a, (of_a, of_b)), (b, (of_b, of_a))])
        value = true if denies != (answer == "yes") else others
    return premise, (denied if denies else said).format(subject, value), answer


def compare(rng: draw.Generator, people: list[str], answer: str, negated: float) -> Pair:
    """a is older than b; the claim keeps or turns the word and the order."""
    a, b, c = rng.sample(people, 3)
    comparative, opposite = rng.sample(rng.choice(SCALES), 2)
    negation = "not " if rng.chance(negated) else ""
    if answer == "maybe":
        x, y = rng.sample([c, rng.choice([a, b])], 2)
        claim = (x, rng.choice([comparative, opposite]), y)
    else:
        claim = rng.choice([(a, comparative, b), (b, opposite, a)])
        if bool(negation) == (answer == "yes"):  # the same with its people exchanged is false
            claim = claim[::-1]
    return (
        f"{a} is {comparative} than {b}",
        f"{claim[0]} is {negation}{claim[1]} than {claim[2]}",
        answer,
    )


SHAPES = [(70, two_facts), (15, every), (15, compare)]


def pair(
    rng: draw.Generator, people: list[str], shapes: list = SHAPES, negated: float = NEGATED
) -> Pair:
    """A premise, a claim and its answer; the three answers are equally frequent."""
    return rng.weighted(shapes)(rng, people, rng.choice(["yes", "no", "maybe"]), negated)


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
