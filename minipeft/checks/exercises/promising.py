"""Which words a search should try: HotFlip's straight line."""

from __future__ import annotations

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

WHOLE = "(E @ gradient).topk(min(count, len(E)), largest=False).indices.tolist()"


def inputs(case: Case, draw: Draw) -> dict:
    return {
        "E": draw.normal(case.V, case.C),
        "gradient": draw.normal(case.C),
        "count": case.count,
    }


promising = Check(
    "promising",
    "minipeft.tasks.prompt_search:promising",
    "the words with the smallest E_w . g, the most promising first",
    [
        Trial(
            "the words to try",
            inputs,
            lambda promising, case, given: promising(given.E, given.gradient, given.count),
            axes={"V": (7, 3, 1, 300), "C": (4, 1, 3), "count": (3, 1, 5, 9, 200)},
            dtypes=("float32", "float64"),
            layouts=("plain", "strided"),  # rows that are all alike would have no order
        )
    ],
    [
        mistake(
            "these are the words with the largest E_w . g, which raise the loss: descend",
            (WHOLE, "(E @ gradient).topk(min(count, len(E))).indices.tolist()"),
        ),
        mistake(
            "the size of E_w . g is taken without its sign: a large positive one raises the loss",
            (WHOLE, "(E @ gradient).abs().topk(min(count, len(E))).indices.tolist()"),
        ),
        mistake(
            "the smallest sizes of E_w . g are taken: the sign decides, the most negative is best",
            (
                WHOLE,
                "(E @ gradient).abs().topk(min(count, len(E)), largest=False).indices.tolist()",
            ),
        ),
        mistake(
            "these are the last ones of the order, with the largest E_w . g: take the first",
            (WHOLE, "(E @ gradient).argsort()[-count:].tolist()"),
        ),
        mistake(
            "these are the ranks of the first words: argsort once gives the words in their order",
            (WHOLE, "(E @ gradient).argsort().argsort()[:count].tolist()"),
        ),
        mistake(
            "the last word of the vocabulary is left out: all rows of E are looked at",
            (WHOLE, "(E[:-1] @ gradient).argsort()[:count].tolist()"),
        ),
        mistake(
            "the first word of the vocabulary is left out: all rows of E are looked at",
            (WHOLE, "(E[1:] @ gradient).argsort().add(1)[:count].tolist()"),
        ),
        mistake(
            "words are counted from 1: a word's number is its row in E, from 0 on",
            (WHOLE, "(E @ gradient).argsort().add(1)[:count].tolist()"),
        ),
        mistake(
            "the numbers of a word are summed: multiply them with the gradient, E_w . g",
            (WHOLE, "E.sum(1).argsort()[:count].tolist()"),
        ),
        mistake(
            "the words are drawn at random: take those with the smallest E_w . g",
            when=lambda view: view.drawn and view.difference.kind == "value",
        ),
        mistake(
            "it is computed in half precision, where near values change places: keep the dtype",
            (WHOLE, "(E.half() @ gradient.half()).argsort()[:count].tolist()"),
        ),
        mistake(
            "these are values of E_w . g: give the numbers of the words, their rows in E",
            (WHOLE, "(E @ gradient).topk(min(count, len(E)), largest=False).values.tolist()"),
        ),
        mistake(
            "the words are divided by their lengths: the straight line takes E_w as it is",
            (
                WHOLE,
                "((E @ gradient) / E.norm(dim=1)).topk(min(count, len(E)), largest=False)"
                ".indices.tolist()",
            ),
        ),
        mistake(
            "these are the words nearest to the gradient: take the product with it, not the "
            "distance",
            (
                WHOLE,
                "(E - gradient).norm(dim=1).topk(min(count, len(E)), largest=False)"
                ".indices.tolist()",
            ),
        ),
        mistake(
            "these are the words nearest to minus the gradient: take the product with it, not the "
            "distance",
            (
                WHOLE,
                "(E + gradient).norm(dim=1).topk(min(count, len(E)), largest=False)"
                ".indices.tolist()",
            ),
        ),
        mistake(
            "the sum is over the words: each word has one number, E_w . g, a sum over its C",
            (WHOLE, "(E * gradient).sum(0).argsort()[:count].tolist()"),
        ),
        mistake(
            "E * gradient has C numbers for each word: sum over them, so that a word has one",
            (WHOLE, "(E * gradient).argsort()[:count].tolist()"),
        ),
        mistake(
            "the order is turned round: the most promising word comes first",
            (
                WHOLE,
                "(E @ gradient).topk(min(count, len(E)), largest=False).indices.tolist()[::-1]",
            ),
        ),
        mistake(
            "the words are sorted by their number: the most promising one comes first",
            (
                WHOLE,
                "sorted((E @ gradient).topk(min(count, len(E)), largest=False).indices.tolist())",
            ),
        ),
        mistake(
            "all words are given: only the first `count` of them are tried",
            (WHOLE, "(E @ gradient).argsort().tolist()"),
        ),
        mistake(
            "one word is missing: `count` of them are tried",
            (WHOLE, "(E @ gradient).argsort()[: max(1, count - 1)].tolist()"),
        ),
        mistake(
            "the most promising word is left out",
            (WHOLE, "(E @ gradient).argsort()[1 : count + 1].tolist()"),
        ),
        mistake(
            "that is a tensor: give a list of numbers, .tolist()",
            (WHOLE, "(E @ gradient).topk(min(count, len(E)), largest=False).indices"),
        ),
        mistake(
            "there may be fewer than `count` words: no word is given twice",
            when=lambda view: (
                view.case.count > view.case.V
                and isinstance(view.given, list)
                and len(view.given) > view.case.V
            ),
        ),
        mistake(
            "there may be fewer than `count` words: take min(count, V)",
            when=lambda view: (
                "out of range" in str(view.error) and "selected index" in str(view.error)
            ),
        ),
    ],
)
