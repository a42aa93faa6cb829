"""The vectors of a soft prompt in the embedded text: Lester et al. 2021, section 2."""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

WORDS = "its_words = (ids >= first) & (ids < first + len(vectors))"
RESULT = "return x.index_put((its_words,), vectors.to(x.dtype)[ids[its_words] - first])"


def inputs(case: Case, draw: Draw) -> dict:
    """x (B, T, C), ids (B, T), first, and vectors (n, C), which may have another dtype."""
    x = draw.normal(case.B, case.T, case.C)
    low, high = {
        "everywhere": (case.first - 3, case.first + case.n + 3),  # neighbours on both sides
        "nowhere": (0, case.first),
        "only": (case.first, case.first + case.n),
        "above": (case.first + case.n, case.first + case.n + 3),
    }[case.words]
    ids = draw.integers(low, high, case.B, case.T)
    if case.vectors_dtype != "same":
        draw.dtype = getattr(torch, case.vectors_dtype)
    return {"x": x, "ids": ids, "first": case.first, "vectors": draw.normal(case.n, case.C)}


def run(place_vectors, case: Case, given) -> Tensor:
    return place_vectors(given.x, given.ids, given.first, given.vectors)


def result(sentence: str, wrong: str):
    """A mistake in what is given back."""
    return mistake(sentence, (RESULT, f"return {wrong}"))


def words(sentence: str, wrong: str):
    """A mistake in where the prompt's words are seen."""
    return mistake(sentence, (WORDS, f"its_words = {wrong}"))


PICKED = "vectors.to(x.dtype)[ids[its_words] - first]"
NEAR = "vectors.to(x.dtype)[(ids - first).clamp(0, len(vectors) - 1)]"

MISTAKES = [
    words(
        "ids above those of this prompt belong to another one: they are left alone",
        "(ids >= first)\n    ids = ids.clamp(max=first + len(vectors) - 1)",
    ),
    words(
        "ids below those of this prompt are words of the text: they are left alone",
        "(ids < first + len(vectors))\n    ids = ids.clamp(min=first)",
    ),
    words(
        "the first word of the prompt is left out: ids from `first` on are its words, `first` too",
        "(ids > first) & (ids < first + len(vectors))",
    ),
    words(
        "the last word of the prompt is left out: the last id is first + n - 1, and it counts",
        "(ids >= first) & (ids < first + len(vectors) - 1)",
    ),
    words(
        "only the first word of the prompt is put in: there are n of them",
        "ids == first",
    ),
    result(
        "the prompt's vectors are put in by the order of places: take the row of each id, "
        "vectors[id - first]",
        "x.index_put((its_words,), vectors.to(x.dtype)"
        "[torch.arange(int(its_words.sum())) % len(vectors)])",
    ),
    result(
        "the prompt's vectors are in the wrong order: the id `first` is row 0",
        "x.index_put((its_words,), vectors.to(x.dtype)[first - 1 - ids[its_words]])",
    ),
    result(
        "every word of the prompt gets the same vector: its own is row id - first",
        "x.index_put((its_words,), vectors.to(x.dtype)[:1].expand(int(its_words.sum()), -1))",
    ),
    result(
        "the prompt's vectors are added to what stood there: they take its place",
        f"x.index_put((its_words,), {PICKED}, accumulate=True)",
    ),
    result(
        "the prompt's vectors are cut off from the graph (detached, or copied with .data): nothing "
        "could train them",
        f"x.index_put((its_words,), {PICKED}.detach())",
    ),
    result(
        "x is cut off from the graph: gradients must reach it too",
        f"x.detach().index_put((its_words,), {PICKED})",
    ),
    result(
        "the answer has the dtype of the vectors: it should have that of x",
        "x.to(vectors.dtype).index_put((its_words,), vectors[ids[its_words] - first])",
    ),
    result(
        "the prompt is put in front of the text, which makes the row longer: its ids stand in the "
        "row already, only their vectors are missing",
        "torch.cat([vectors.to(x.dtype).expand(len(x), -1, -1), x], dim=1)",
    ),
    result(
        "words of the text get vectors of the prompt: only places of its n ids do",
        NEAR,
    ),
    result(
        "nothing is put in: where the prompt's words stand, x should hold its vectors",
        "x.clone()",
    ),
    result(
        "the words of the text are gone: at every other place x stays what it was",
        f"torch.zeros_like(x).index_put((its_words,), {PICKED})",
    ),
]

place_vectors = Check(
    "place_vectors",
    "minipeft.doors.words:place_vectors",
    "vectors[id - first] where the id is one of the prompt's, x everywhere else, gradients to both",
    [
        Trial(
            "the embedded text with the prompt",
            inputs,
            run,
            axes={
                "B": (2, 1, 3),
                "T": (7, 1, 4),
                "C": (4, 3, 1),
                "n": (3, 1, 5),
                "first": (10, 7, 885),
                "words": ("everywhere", "only", "nowhere", "above"),
                "vectors_dtype": ("same", "float32", "bfloat16"),
            },
        )
    ],
    MISTAKES,
)
