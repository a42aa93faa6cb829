"""Reviews with negation, contrast and intensity, and what came of them.

    the soup was not good but the waiter was nice , so she smiled .
    mood : the soup was not good but the waiter was nice => smiled .
    about : the soup was not good but the waiter was nice => soup .

The rules, from which the polarity of a review is computed:
- "not" and "never" turn an adjective round;
- "a but b": b counts. "although a , b" and "b although a": b counts;
- "a and b": the stronger one counts ("very", "really" against "a little").
"""

from . import draw

DOMAINS: dict[str, tuple[list[str], list[str], list[str]]] = {
    # domain: (what is judged, good words of its own, bad words of its own)
    "restaurant": (
        "food soup service waiter table wine coffee menu".split(),
        "fresh tasty warm".split(),
        "stale slow cold".split(),
    ),
    "film": (
        "film story actor ending music picture song scene".split(),
        "funny clever exciting".split(),
        "boring silly dull".split(),
    ),
    "hotel": (
        "room bed view breakfast pool garden bath hotel".split(),
        "clean quiet pretty".split(),
        "dirty noisy dark".split(),
    ),
}
GOOD = "good great fine nice lovely".split()
BAD = "bad poor awful ugly horrible".split()

CONSEQUENCES = {
    +1: [(60, "smiled"), (40, "stayed")],
    -1: [(60, "left"), (40, "frowned")],
}
WHO = [(30, "she"), (30, "he"), (20, "they"), (20, "we")]

FORMS = [
    (45, "{0} , so {1} {2} ."),
    (47, "mood : {0} => {2} ."),
    (8, "about : {0} => {3} ."),
]

# (weight, shape). A clause is (polarity, strength).
SHAPES = [(45, "one"), (23, "but"), (8, "although first"), (8, "although last"), (16, "and")]
NEGATED = 0.25  # share of the clauses of plain strength


def clause(
    rng: draw.Generator, domain: str, polarity: int, strength: int, negated: float, taken: str = ""
) -> str:
    """A judgement of ``polarity`` (+1, -1) and ``strength`` 1, 2 or 3, not about ``taken``."""
    nouns, domain_good, domain_bad = DOMAINS[domain]
    noun = rng.choice([n for n in nouns if n != taken])
    turned = rng.chance(negated if strength == 2 else 0.0)
    adjective = rng.choice(GOOD + domain_good if (polarity > 0) != turned else BAD + domain_bad)
    if turned:
        middle = rng.weighted([(70, "not"), (30, "never")])
    else:
        degrees = {1: ["a little", "a little"], 2: ["", ""], 3: ["very", "really"]}
        middle = rng.choice(degrees[strength])
    return " ".join(f"the {noun} was {middle} {adjective}".split())


def review(
    rng: draw.Generator,
    domain: str,
    polarity: int,
    shapes: list = SHAPES,
    negated: float = NEGATED,
) -> str:
    """A review whose polarity is ``polarity``, without its consequence."""
    shape = rng.weighted(shapes)
    strength = rng.weighted([(15, 1), (65, 2), (20, 3)])
    if shape == "one":
        return clause(rng, domain, polarity, strength, negated)
    if shape == "and":
        deciding = clause(rng, domain, polarity, 3, negated)
        # the weak half agrees in one review of four
        other = polarity if rng.chance(0.25) else -polarity
        weak = clause(rng, domain, other, 1, negated, taken=deciding.split()[1])
        first, second = rng.sample([deciding, weak], 2)
        return f"{first} and {second}"
    deciding = clause(rng, domain, polarity, strength, negated)
    against = rng.choice([1, 2, 2, 3])
    contrast = clause(rng, domain, -polarity, against, negated, deciding.split()[1])
    if shape == "but":
        return f"{contrast} but {deciding}"
    if shape == "although first":
        return f"although {contrast} , {deciding}"
    return f"{deciding} although {contrast}"


def any_review(rng: draw.Generator) -> tuple[int, str]:
    """The polarity and text of a review of any domain."""
    polarity = rng.choice([+1, -1])
    return polarity, review(rng, rng.choice(list(DOMAINS)), polarity)


def documents(count: int) -> list[str]:
    """``count`` reviews: most with their consequences, some with a question in front."""
    rng = draw.generator("reviews")
    made = []
    for _ in range(count):
        polarity, text = rng.until(any_review, text=lambda pair: pair[1])
        who, did = rng.weighted(WHO), rng.weighted(CONSEQUENCES[polarity])
        noun = text.removeprefix("although ").split()[1]
        form = rng.weighted(FORMS)
        made.append(form.format(text, who, did, noun))
    return made
