"""The entropy floor: how many nats per token the best possible model still pays.

A document is drawn by a chain of choices of known probability; -log p of the chain is what a model
that knew the rules and the facts by heart would pay for the document (the generator adds it up as
it draws, see draw.py). Where two chains lead to one text the true floor is lower; by design this
is rare. A few choices are made but leave no trace in the text; their mean cost is taken off.
"""

import math
import re
from types import ModuleType

from . import draw, entailment, records, reviews, words

PIECE = re.compile(r"\w+|[^\w\s]")


def entropy(weights: list[float]) -> float:
    """Entropy in nats of weights that need not sum to one."""
    total = sum(weights)
    return -sum(w / total * math.log(w / total) for w in weights if w)


def _share(choices: list, wanted: object) -> float:
    return sum(w for w, c in choices if c is wanted) / sum(w for w, _ in choices)


def untold(kind: ModuleType) -> float:
    """Mean nats per document of choices that the text does not show."""
    weights = lambda choices: [weight for weight, _ in choices]  # noqa: E731
    if kind is reviews:
        _, mood, about = (w / 100 for w in weights(reviews.FORMS))
        did = entropy(weights(reviews.CONSEQUENCES[+1]))
        strength = _share(reviews.SHAPES, "and") * entropy([15, 65, 20])
        return (mood + about) * entropy(weights(reviews.WHO)) + about * did + strength
    if kind is records:  # price, area and family are drawn, then left out of one record in four
        return 0.25 * sum(math.log(len(x)) for x in (records.PRICES, records.AREAS, records.FAMILY))
    if kind is entailment:  # a third person or animal is drawn, and named only by a "maybe"
        animals = _share(entailment.SHAPES, entailment.every)
        third = animals * math.log(len(entailment.ANIMALS) - 2)
        return 2 / 3 * (third + (1 - animals) * math.log(len(words.ACTORS) - 2))
    return 0.0


def of_kind(kind: ModuleType, count: int) -> tuple[float, float]:
    """(nats per document, tokens per document with <eos>), means over ``count`` documents."""
    rngs: list[draw.Generator] = []
    generator = draw.generator

    def remembered(*names: str) -> draw.Generator:
        rngs.append(generator(*names))
        return rngs[-1]

    draw.generator = remembered  # to read the account of the generator that documents() makes
    try:
        documents = kind.documents(count)
    finally:
        draw.generator = generator
    # the first generator is the documents' own; facts also draws its people, once and for all
    nats = rngs[0].nats / count - untold(kind)
    tokens = sum(len(PIECE.findall(text)) + 1 for text in documents) / count
    return nats, tokens


def floors(mixture: dict[ModuleType, int]) -> dict[str, float]:
    """Nats per token: for each kind alone, and "corpus" for the mixture with its choice of kind."""
    nats_per_token, nats, tokens = {}, 0.0, 0.0
    total = sum(mixture.values())
    for kind, count in mixture.items():
        per_document, length = of_kind(kind, count)
        nats_per_token[kind.__name__.rsplit(".")[-1]] = per_document / length
        nats += count / total * per_document
        tokens += count / total * length
    nats_per_token["corpus"] = (nats + entropy(list(mixture.values()))) / tokens
    return nats_per_token
