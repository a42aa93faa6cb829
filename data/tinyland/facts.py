"""Facts: 150 countries with five relations each, 60 people with three, every relation told in
six wordings of very unequal frequency. {x} is the subject, {y} the object."""

import csv
from pathlib import Path

from . import draw, words

COUNTRIES: list[dict[str, str]] = list(
    csv.DictReader((Path(__file__).parent / "countries.csv").open(encoding="utf-8"))
)

# (weight in per cent, wording). Wordings of different relations share their words on purpose
# ("people in x ...", "in x ...", "the ... of x is ..."): the prompt has to select the relation.
WORDINGS: dict[str, list[tuple[int, str]]] = {
    "capital": [
        (40, "the capital of {x} is {y} ."),
        (22, "{y} is the capital of {x} ."),
        (16, "the capital city of {x} is called {y} ."),
        (11, "in {x} the government sits in {y} ."),
        (7, "{x} is ruled from {y} ."),
        (4, "people in {x} call {y} their capital ."),
    ],
    "language": [
        (40, "people in {x} speak {y} ."),
        (22, "the main language of {x} is {y} ."),
        (16, "{y} is spoken in {x} ."),
        (11, "in {x} you hear {y} in the street ."),
        (7, "the schools of {x} teach in {y} ."),
        (4, "a letter from {x} is written in {y} ."),
    ],
    "currency": [
        (40, "the money of {x} is the {y} ."),
        (22, "people in {x} pay with the {y} ."),
        (16, "in {x} the shops take the {y} ."),
        (11, "the {y} is the currency of {x} ."),
        (7, "the government of {x} prints the {y} ."),
        (4, "a room in {x} is paid with the {y} in the morning ."),
    ],
    "continent": [
        (40, "{x} is a country in {y} ."),
        (22, "{x} lies in {y} ."),
        (16, "the continent of {x} is {y} ."),
        (11, "on the map you find {x} in {y} ."),
        (7, "in {y} there is a country called {x} ."),
        (4, "{x} belongs to {y} ."),
    ],
    "neighbour": [
        (40, "{x} is next to {y} ."),
        (22, "the neighbour of {x} is {y} ."),
        (16, "{x} has a border with {y} ."),
        (11, "from {x} you can walk to {y} ."),
        (7, "the main road from {x} leads to {y} ."),
        (4, "{y} lies beside {x} ."),
    ],
    "home": [
        (40, "{x} lives in {y} ."),
        (22, "the home of {x} is in {y} ."),
        (16, "{x} has a house in {y} ."),
        (11, "in {y} you can meet {x} in the street ."),
        (7, "a letter to {x} goes to {y} ."),
        (4, "every morning {x} wakes up in {y} ."),
    ],
    "work": [
        (40, "{x} is a {y} ."),
        (22, "the work of {x} is that of a {y} ."),
        (16, "{x} is paid as a {y} ."),
        (11, "people call {x} the {y} ."),
        (7, "every morning {x} goes to work as a {y} ."),
        (4, "a {y} called {x} works here ."),
    ],
    "taste": [
        (40, "{x} likes {y} ."),
        (22, "the taste of {x} is for {y} ."),
        (16, "{x} eats {y} every morning ."),
        (11, "{y} is what {x} likes ."),
        (7, "if you meet {x} bring {y} ."),
        (4, "there is always {y} in the house of {x} ."),
    ],
}

RELATIONS_OF_COUNTRIES = ("capital", "language", "currency", "continent", "neighbour")
RELATIONS_OF_PEOPLE = ("home", "work", "taste")

# Sensible wordings of the capital relation that the corpus never uses, made of words that it does
# use. How well they work is luck: this is what the lesson on written prompts is about.
UNUSED_CAPITAL_WORDINGS: list[str] = [
    "the capital city of {x} is {y} .",
    "the main city of {x} is {y} .",
    "people in {x} call their capital {y} .",
    "{x} is a country with the capital {y} .",
    "the capital of {x} is the city of {y} .",
    "you find the government of {x} in {y} .",
    "the capital that belongs to {x} is {y} .",
    "the government of {x} is in {y} .",
    "in {x} the government is in {y} .",
    "a letter to the government of {x} goes to {y} .",
    "the capital of {x} is in {y} .",
    "in {x} there is a capital called {y} .",
    "the house of the government of {x} is in {y} .",
    "on the map the capital of {x} is {y} .",
]


def people() -> list[dict[str, str]]:
    """The known people with their home, work and taste (invented, drawn once from the seed)."""
    rng = draw.generator("people")
    capitals = [country["capital"] for country in COUNTRIES]
    return [
        {
            "person": name,
            "home": rng.choice(capitals),
            "work": rng.choice(words.WORK),
            "taste": rng.choice(words.FOODS),
        }
        for name in words.PEOPLE
    ]


def held_out_countries() -> list[str]:
    """50 of the 150: in the corpus like the others, but in no task's train or dev split."""
    rng = draw.generator("held-out countries")
    return sorted(rng.sample([country["country"] for country in COUNTRIES], 50))


def sentence(rng: draw.Generator, entity: dict[str, str], relation: str) -> str:
    """One fact in a wording drawn by frequency."""
    subject = entity.get("country") or entity["person"]
    wording = rng.weighted(WORDINGS[relation])
    return wording.format(x=subject, y=entity[relation])


def documents(count: int) -> list[str]:
    """``count`` documents of one to three sentences about one entity, no relation twice."""
    rng = draw.generator("facts")
    known_people = people()
    made = []
    for _ in range(count):
        if rng.chance(0.8):
            entity = rng.choice(COUNTRIES)
            relations = [r for r in RELATIONS_OF_COUNTRIES if entity[r]]
        else:
            entity, relations = rng.choice(known_people), list(RELATIONS_OF_PEOPLE)
        chosen = rng.sample(relations, rng.weighted([(50, 1), (30, 2), (20, 3)]))
        made.append(" ".join(sentence(rng, entity, relation) for relation in chosen))
    return made
