"""The vectors of a soft prompt in the embedded text: Lester et al. 2021, section 2."""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

WORDS = "its_words = (ids >= first) & (ids < first + len(vectors))"
RESULT = "return x.index_put((its_words,), vectors.to(x.dtype)[ids[its_words] - first])"


def inputs(case: Case, draw: Draw) -> dict:
    """x (B, T, C), ids (B, T), first, and vectors (n, C), which may have another dtype.

    "everywhere": in each row the words of this prompt and two neighbours on each side, in an order
    of its own, as many as there is room for; so every row shows where the prompt begins and ends.
    """
    x = draw.normal(case.B, case.T, case.C)
    first, end = case.first, case.first + case.n
    if case.words == "everywhere":
        rows = []
        for _ in range(case.B):
            order = [end - 1, first - 1, first, end, *range(first + 1, end - 1), first - 2, end + 1]
            row = torch.tensor((order * case.T)[: case.T])
            rows.append(row[torch.randperm(case.T, generator=draw.generator)])
        ids = draw.whole(torch.stack(rows))
    else:
        low, high = {"nowhere": (0, first), "only": (first, end), "above": (end, end + 3)}[
            case.words
        ]
        ids = draw.integers(low, high, case.B, case.T)
    if case.vectors_dtype != "same":
        draw.dtype = getattr(torch, case.vectors_dtype)
    return {"x": x, "ids": ids, "first": first, "vectors": draw.normal(case.n, case.C)}


def run(place_vectors, case: Case, given) -> Tensor:
    return place_vectors(given.x, given.ids, given.first, given.vectors)


def as_one_block(x: Tensor, ids: Tensor, first: int, vectors: Tensor) -> Tensor:
    """A wrong solution: it looks for the first word only."""
    y = x.clone()
    for row, place in (ids == first).nonzero().tolist():
        block = vectors.to(x.dtype)[: ids.shape[1] - place]
        y[row, place : place + len(block)] = block
    return y


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
        "the id first + n is taken for a word of this prompt: its last one is first + n - 1",
        "(ids >= first) & (ids <= first + len(vectors))\n"
        "    ids = ids.clamp(max=first + len(vectors) - 1)",
    ),
    words(
        "ids above those of this prompt belong to another one: they are left alone, also where "
        "id - first is taken modulo n",
        "ids >= first\n    ids = torch.where(its_words, first + (ids - first) % len(vectors), ids)",
    ),
    words(
        "the id first - 1 is taken for a word of this prompt: its first one is `first`",
        "(ids >= first - 1) & (ids < first + len(vectors))\n"
        "    ids = torch.where(ids < first, ids + len(vectors), ids)",
    ),
    words(
        "the places of one row are used for all rows: the words of the prompt stand elsewhere in "
        "each row",
        "(ids >= first) & (ids < first + len(vectors))\n"
        "    its_words, ids = its_words[:1].expand_as(ids), ids[:1].expand_as(ids)",
    ),
    words(
        "a place that holds the prompt in one row is filled in all rows: the words of the prompt "
        "stand elsewhere in each row",
        "(ids >= first) & (ids < first + len(vectors))\n"
        "    its_words = its_words.any(0, keepdim=True).expand_as(ids)\n"
        "    ids = ids.clamp(first, first + len(vectors) - 1)",
    ),
    mistake(
        "the prompt is put in as one block from the place of `first` on: its words may stand "
        "anywhere and in any order, each with the row of its id",
        wrong=as_one_block,
    ),
    words(
        "only one row of the batch gets the prompt: every row has its words",
        "(ids >= first) & (ids < first + len(vectors))\n"
        "    its_words = its_words & (torch.arange(len(ids)) == len(ids) - 1)[:, None]",
    ),
    words(
        "only one row of the batch gets the prompt: every row has its words",
        "(ids >= first) & (ids < first + len(vectors))\n"
        "    its_words = its_words & (torch.arange(len(ids)) == 0)[:, None]",
    ),
    words(
        "the first n places get the prompt, whatever their ids are: look where its ids stand",
        "torch.arange(ids.shape[1]).expand_as(ids) < len(vectors)\n"
        "    ids = first + torch.arange(ids.shape[1]).expand_as(ids)",
    ),
    words(
        "a word of the prompt that stands in a row twice is put in once: every place with its id "
        "gets its vector",
        "(ids >= first) & (ids < first + len(vectors))\n"
        "    twice = (ids[:, :, None] == ids[:, None, :]).tril(-1).any(-1)\n"
        "    its_words = its_words & ~twice",
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
        "the prompt's vectors are put in by the order of places: take the row of each id, "
        "vectors[id - first]",
        "x.index_put((its_words,), vectors.to(x.dtype))",
    ),
    result(
        "the prompt's vectors are in the wrong order: the id `first` is row 0",
        "x.index_put((its_words,), vectors.to(x.dtype)[first - 1 - ids[its_words]])",
    ),
    result(
        "the rows of the prompt are shifted: the id `first` is row 0, so the row is id - first",
        "x.index_put((its_words,), vectors.to(x.dtype)"
        "[(ids[its_words] - first + 1) % len(vectors)])",
    ),
    result(
        "the id itself is taken as the row of the prompt: the id `first` is row 0, so the row is "
        "id - first",
        "x.index_put((its_words,), vectors.to(x.dtype)[ids[its_words] % len(vectors)])",
    ),
    result(
        "the id itself is taken as the row of the prompt: the id `first` is row 0, so the row is "
        "id - first",
        "x.index_put((its_words,), vectors.to(x.dtype)[ids[its_words]])",
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
        "the numbers are put in where autograd does not look (.data, no_grad): x gets the gradient "
        "of places that hold the prompt, and the prompt gets none",
        f"x + (x.index_put((its_words,), {PICKED}) - x).detach()",
    ),
    result(
        "x gets a gradient where the prompt stands: its vectors are replaced there, so only the "
        "prompt has one",
        f"x.index_put((its_words,), {PICKED} + x[its_words] - x[its_words].detach())",
    ),
    result(
        "x went through the dtype of the vectors and is rounded: change the dtype of the vectors, "
        "not that of x",
        "x.to(vectors.dtype).index_put((its_words,), vectors[ids[its_words] - first]).to(x.dtype)",
    ),
    result(
        "the vectors are rounded on their way: take them to the dtype of x at once, by no other",
        "x.index_put((its_words,), vectors.half().to(x.dtype)[ids[its_words] - first])",
    ),
    result(
        "the vectors are rounded on their way: take them to the dtype of x at once, by no other",
        "x.index_put((its_words,), vectors.bfloat16().to(x.dtype)[ids[its_words] - first])",
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
    mistake(
        "a row of the prompt is looked up for words of the text too, and id - first is no row of "
        "it there: look up ids[its_words] only, or clamp id - first to 0 .. n - 1 for torch.where",
        (RESULT, "return torch.where(its_words[..., None], vectors.to(x.dtype)[ids - first], x)"),
    ),
    words(
        "ids above those of this prompt belong to another one: they are left alone",
        "ids >= first",
    ),
    words(
        "ids below those of this prompt are words of the text: they are left alone",
        "ids < first + len(vectors)",
    ),
    words(
        "the id first + n is taken for a word of this prompt: its last one is first + n - 1",
        "(ids >= first) & (ids <= first + len(vectors))",
    ),
    words(
        "the first place of every row is left out: the prompt's words may stand there too",
        "(ids >= first) & (ids < first + len(vectors)) & (torch.arange(ids.shape[1]) > 0)",
    ),
    words(
        "the last place of every row is left out: the prompt's words may stand there too",
        "(ids >= first) & (ids < first + len(vectors))\n"
        "    its_words = its_words & (torch.arange(ids.shape[1]) < ids.shape[1] - 1)",
    ),
    result(
        "words of other prompts are set to zero: they are left as they came",
        f"x.masked_fill((ids >= first)[..., None], 0.0).index_put((its_words,), {PICKED})",
    ),
    result(
        "the answer is a mean of the prompt and of what stood there: the prompt takes its place",
        f"(x + x.index_put((its_words,), {PICKED})) / 2",
    ),
    result(
        "the prompt's vectors are scaled: they stand there as they are",
        f"x.index_put((its_words,), {PICKED} * x.shape[-1] ** 0.5)",
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
            not_shared=("x",),
            axes={
                "B": (2, 1, 3),
                "T": (7, 1, 4),
                "C": (4, 3, 1),
                "n": (3, 1, 5),
                "first": (11, 7, 70_000),
                "words": ("everywhere", "only", "nowhere", "above"),
                "vectors_dtype": ("same", "float32", "bfloat16"),
            },
        )
    ],
    MISTAKES,
)
