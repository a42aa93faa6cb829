"""String functions: a trigger word names what is done to a row of nouns.

reverse : cat sun tree => tree sun cat .
"""

from . import draw, words

NUMERALS = "zero one two three four five six".split()

FUNCTIONS = {
    "copy": lambda row: row,
    "reverse": lambda row: row[::-1],
    "first": lambda row: row[:1],
    "last": lambda row: row[-1:],
    "rotate": lambda row: row[1:] + row[:1],
    "swap": lambda row: row[-1:] + row[1:-1] + row[:1],
    "double": lambda row: [word for word in row for _ in range(2)],
    "count": lambda row: [NUMERALS[len(row)]],
}

# Functions of one word are easy: they get a smaller share of the documents.
SHARES = [(16, "copy"), (18, "reverse"), (7, "first"), (7, "last"), (18, "rotate"),
          (16, "swap"), (14, "double"), (4, "count")]  # fmt: skip

LENGTHS = [(10, 2), (16, 3), (22, 4), (26, 5), (26, 6)]


def row(rng: draw.Generator, length: int, part: str) -> list[str]:
    """A row of different nouns of one part: "corpus" rows and "test" rows never meet.

    One row in ten, decided by a checksum of the row itself, is kept for testing; no function of
    it is ever in the corpus or in a train or dev split.
    """
    return rng.until(lambda rng: rng.sample(words.NOUNS, length), " ".join, test=part == "test")


def document(name: str, nouns: list[str]) -> str:
    """The function's name, a row and the result."""
    return f"{name} : {' '.join(nouns)} => {' '.join(FUNCTIONS[name](nouns))} ."


def documents(count: int) -> list[str]:
    """``count`` documents; lengths 2 to 6."""
    rng = draw.generator("strings")
    return [
        document(rng.weighted(SHARES), row(rng, rng.weighted(LENGTHS), "corpus"))
        for _ in range(count)
    ]
