"""Downstream tasks, split by construction.

*latent*: the base can do it, but the word that asks for it is missing from the input; a prompt can
bring it back. *novel*: a composition, a style or label words that the base never saw; weights must
change.

Each task has train, dev, test and ood ("out of domain": unseen entities or longer inputs).
"""

from collections.abc import Callable, Iterator
from typing import Any

from . import draw, facts, records, reviews, stories, strings, tags, words

SIZES = {"train": 1000, "dev": 200, "test": 300, "ood": 300}
SPLITS = ("train", "dev", "test", "ood")

Task = dict[str, Any]


def _part(text: str) -> str:
    """Texts of checksum bucket 0 are in no corpus document: they are the tests. Bucket 1: dev."""
    return {0: "test", 1: "dev"}.get(draw.bucket(text), "train")


def _fill(
    name: str, example: Callable[[draw.Generator, str], tuple[str, str, str]], sizes: dict = SIZES
) -> dict[str, list[dict[str, str]]]:
    """Draw different examples until every split is full.

    ``example(rng, split)`` returns (key, input, target); the key decides by its checksum whether
    the example may be in train, dev or test, so that no two splits ever share one.
    """
    filled, seen = {}, set()
    for split in SPLITS:
        rng, rows = draw.generator("task", name, split), []
        while len(rows) < sizes[split]:
            key, text, target = example(rng, split)
            wanted = "test" if split == "ood" else split
            if _part(key) == wanted and text not in seen:
                seen.add(text)
                rows.append({"input": text, "target": target})
        filled[split] = rows
    return filled


def cloze(relation: str) -> Task:
    """A bare country; the answer is one word. Test and ood countries are the 50 held out."""
    held_out = set(facts.held_out_countries())
    rng = draw.generator("task", relation)
    open_countries = [c for c in facts.COUNTRIES if c["country"] not in held_out]
    order = rng.sample(open_countries, len(open_countries))
    test = [c for c in facts.COUNTRIES if c["country"] in held_out]
    rows = lambda countries: [  # noqa: E731
        {"input": c["country"], "target": c[relation]} for c in countries
    ]
    longer = [
        {"input": "{} and {} left {}".format(*rng.sample(words.ACTORS, 2), c["country"]),
         "target": c[relation]} for c in test
    ]  # fmt: skip
    return {
        "kind": "cloze",
        "family": "latent",
        "description": f"a country, nothing else: name its {relation}",
        "ood_description": "the held-out countries at the end of a longer text",
        "labels": None,
        "wordings": facts.WORDINGS[relation],
        "unused_wordings": facts.UNUSED_CAPITAL_WORDINGS if relation == "capital" else [],
        "splits": {"train": rows(order[:80]), "dev": rows(order[80:]), "test": rows(test),
                   "ood": longer},
    }  # fmt: skip


def string_function(name: str) -> Task:
    """A row of nouns without the trigger word. Rows of 2 to 4 nouns; ood 5 and 6."""

    def example(rng: draw.Generator, split: str) -> tuple[str, str, str]:
        length = rng.choice([5, 6] if split == "ood" else [2, 3, 4])
        nouns = rng.sample(words.NOUNS, length)
        result = " ".join(strings.FUNCTIONS[name](nouns))
        return " ".join(nouns), f"{' '.join(nouns)} =>", f"{result} ."

    return {
        "kind": "generate",
        "family": "latent",
        "description": f"a row of 2 to 4 nouns: {name} it; the word that says so is missing",
        "ood_description": "rows of 5 and 6 nouns",
        "labels": None,
        "splits": _fill(name, example),
    }


def composition(name: str, first: str, second: str) -> Task:
    """Two string functions one after the other: the corpus never composes."""

    def example(rng: draw.Generator, split: str) -> tuple[str, str, str]:
        nouns = rng.sample(words.NOUNS, 6 if split == "ood" else rng.choice([3, 4, 5]))
        result = strings.FUNCTIONS[second](strings.FUNCTIONS[first](nouns))
        return " ".join(nouns), f"{' '.join(nouns)} =>", f"{' '.join(result)} ."

    return {
        "kind": "generate",
        "family": "novel",
        "description": f"a row of 3 to 5 nouns: the {second} of its {first}",
        "ood_description": "rows of 6 nouns",
        "labels": None,
        "splits": _fill(name, example),
    }


REVIEW_SHAPES = [(14, "one"), (34, "but"), (16, "although first"), (16, "although last"),
                 (20, "and")]  # fmt: skip


def review(name: str, family: str, good: str, bad: str) -> Task:
    """A restaurant review and one of two label words; ood reviews films and hotels."""

    def example(rng: draw.Generator, split: str) -> tuple[str, str, str]:
        polarity = rng.choice([+1, -1])
        domain = rng.choice(["film", "hotel"]) if split == "ood" else "restaurant"
        text = reviews.review(rng, domain, polarity, REVIEW_SHAPES, negated=0.45)
        return text, f"{text} =>", good if polarity > 0 else bad

    words_are = (
        "words that the corpus tells after reviews" if family == "latent"
        else "words that the corpus never uses"
    )  # fmt: skip
    return {
        "kind": "classify",
        "family": family,
        "description": f"a restaurant review: {good} or {bad}, {words_are}",
        "ood_description": "reviews of films and hotels",
        "labels": [good, bad],
        "splits": _fill(name, example),
    }


def agreement() -> Task:
    """Two reviews, each one plain clause: do their writers agree? Ood: films and hotels."""

    def example(rng: draw.Generator, split: str) -> tuple[str, str, str]:
        domain = rng.choice(["film", "hotel"]) if split == "ood" else "restaurant"
        first, second = rng.choice([+1, -1]), rng.choice([+1, -1])
        shapes = [(100, "one")]
        texts = [reviews.review(rng, domain, p, shapes, negated=0.0) for p in (first, second)]
        text = " ; ".join(texts)
        return text, f"{text} =>", "yes" if first == second else "no"

    return {
        "kind": "classify",
        "family": "novel",
        "description": "two plain restaurant reviews: do their writers agree?",
        "ood_description": "reviews of films and hotels",
        "labels": ["yes", "no"],
        "splits": _fill("agreement", example),
    }


def headlines() -> Task:
    """A story; write its headline, without the word that announces it."""

    def example(rng: draw.Generator, split: str) -> tuple[str, str, str]:
        things = stories.THINGS[8:] if split == "ood" else stories.THINGS[:8]
        text, headline = stories.story(rng, words.ACTORS, company=1.0, things=things)
        return text, f"{text} =>", headline

    return {
        "kind": "generate",
        "family": "latent",
        "description": "a story: write its headline; the word that asks for it is missing",
        "ood_description": "things that train and dev do not mention",
        "labels": None,
        "splits": _fill("headline", example),
    }


def table_to_text() -> Task:
    """A record, told in a style that the corpus does not have."""
    names, foods = records.NAMES, records.FOODS

    def example(rng: draw.Generator, split: str) -> tuple[str, str, str]:
        one = records.record(rng, names, foods[7:] if split == "ood" else foods[:7])
        line = records.written(rng, one, shuffled=1.0)
        return line, f"{line} =>", records.novel(line)

    return {
        "kind": "generate",
        "family": "novel",
        "description": "a record: tell it, slot by slot, in a style that the corpus does not have",
        "ood_description": "kitchens that train and dev do not mention",
        "labels": None,
        "splits": _fill("restaurant", example),
    }


def tagging() -> Task:
    """A sentence; the kind of each word. Longer sentences in ood."""

    def example(rng: draw.Generator, split: str) -> tuple[str, str, str]:
        patterns = tags.LONG_PATTERNS if split == "ood" else tags.PATTERNS
        sentence, kinds = tags.tagged(rng, patterns, double_meaning=0.8)
        return sentence, sentence, kinds

    return {
        "kind": "tag",
        "family": "latent",
        "description": "a sentence: is each word a person, a place, a food, a time or other?",
        "ood_description": "longer sentences of two clauses",
        "labels": tags.LABELS,
        "splits": _fill("tags", example),
    }


def all_tasks() -> Iterator[tuple[str, Task]]:
    """(name, task) for every task."""
    for relation in ("capital", "language", "currency", "continent"):
        yield relation, cloze(relation)
    for name in ("copy", "reverse", "rotate", "swap", "double", "last"):
        yield name, string_function(name)
    yield "review-word", review("review-word", "latent", "smiled", "left")
    yield "agreement", agreement()
    yield "headline", headlines()
    yield "tags", tagging()
    yield "reverse-rotate", composition("reverse-rotate", "rotate", "reverse")
    yield "swap-double", composition("swap-double", "swap", "double")
    yield "review-label", review("review-label", "novel", "positive", "negative")
    yield "restaurant", table_to_text()
