"""Checks for pretraining: the causal and the span-corruption objective, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minipeft.checks.framework import check, compare, expect
from tiny_transformer.tokenizer import GAPS, WordTokenizer

WORDS = [f"w{number}" for number in range(200)]


def _batch(batch, *names: str) -> list[Tensor]:
    """The named tensors of a batch, which must be there."""
    expect(isinstance(batch, dict), "the batch should be a dict (is a return missing?)")
    missing = [name for name in names if name not in batch]
    expect(not missing, f"the batch has no {', '.join(missing)}")
    return [batch[name] for name in names]


@check("inputs unchanged, labels the same words in the same places, -100 at padding")
def causal(function: Callable) -> None:
    """Radford et al. 2018. causal(ids, tokenizer) -> a batch; the model shifts the labels."""
    tokenizer = WordTokenizer(WORDS)
    ids = tokenizer.pad([[1, 20, 30, 40, 50, 2], [1, 60, 70, 2]])["input_ids"]  # (2, 6)
    before = ids.clone()
    inputs, mask, labels = _batch(function(ids, tokenizer), "input_ids", "attention_mask", "labels")
    expect(bool((ids == before).all()), "the ids that came in were changed: work on a copy")
    real = before != tokenizer.pad_token_id
    right = before.masked_fill(~real, -100)
    next_word = torch.nn.functional.pad(right[:, 1:], (0, 1), value=-100)
    twice = (
        "the labels are shifted here: the model shifts them again, and would learn the word after "
        "the next"
    )
    last_word = torch.nn.functional.pad(right[:, :-1], (1, 0), value=-100)
    compare(
        inputs,
        before,
        "input_ids",
        [("the last word is cut off: the model drops what it does not need", before[:, :-1])],
    )
    compare(
        labels,
        right,
        "labels",
        [
            (twice, next_word),
            (twice, before[:, 1:]),
            ("the labels are shifted to the right: label t is word t", last_word),
            ("padding is asked for: its labels should be -100", before),
            (
                "the end of a text is not asked for: the model must learn to stop, so <eos> counts",
                right.masked_fill(before == tokenizer.eos_token_id, -100),
            ),
            (
                "padding gets the label 0, which is a word of the vocabulary: use -100",
                before * real,
            ),
        ],
    )
    compare(
        mask,
        real.long(),
        "attention_mask",
        [
            (
                "attention_mask is 1 on padding too: it is 1 on real tokens only",
                real.long() * 0 + 1,
            ),
            ("attention_mask is upside down: 1 on real tokens, 0 on padding", (~real).long()),
        ],
    )


# -- span corruption -------------------------------------------------------------------------------


@check("every word in the source or behind its gap, gaps in order, short texts too, share obeyed")
def span_corruption(function: Callable) -> None:
    """Raffel et al. 2020, section 3.1.4. span_corruption(documents, tokenizer, generator, ...)."""
    tokenizer = WordTokenizer(WORDS)
    first = tokenizer.vocab["w0"]
    documents = [
        (first + torch.randint(200, (length,))).tolist()
        for length in [1, 2, 3, 3, 5, 8] + 40 * [40] + [120]
    ]
    copies = [list(document) for document in documents]
    random = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    batch = function(documents, tokenizer, random())
    expect(documents == copies, "the documents that came in were changed: work on copies")
    sources, targets = _rows(batch, tokenizer, len(documents))
    for document, source, target in zip(documents, sources, targets, strict=True):
        _one_document(document, source, target, tokenizer)
    _amount(function, documents[6:46], tokenizer)
    again = function(documents, tokenizer, random())
    same = again["input_ids"].shape == batch["input_ids"].shape
    expect(
        same and bool((again["input_ids"] == batch["input_ids"]).all()),
        "the same generator gives another result: draw every random number from `generator`",
    )


def _rows(batch, tokenizer, count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Sources and targets of a batch, without padding."""
    inputs, mask, labels = _batch(batch, "input_ids", "attention_mask", "labels")
    expect(len(inputs) == count, f"{count} documents should give {count} rows, not {len(inputs)}")
    expect(
        bool(((inputs != tokenizer.pad_token_id) == (mask != 0)).all()),
        "attention_mask is 1 on the tokens of a source and 0 on padding",
    )
    expect(
        not (labels == tokenizer.pad_token_id).any(),
        "padding of the targets has the label 0, which would be learnt: it should be -100",
    )
    sources = [row[keep != 0].tolist() for row, keep in zip(inputs, mask, strict=True)]
    return sources, [row[row != -100].tolist() for row in labels]


def _one_document(
    document: list[int], source: list[int], target: list[int], tokenizer: WordTokenizer
) -> None:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    gaps = tokenizer.convert_tokens_to_ids(list(GAPS))
    expect(source[:1] == [bos], "a source begins with <bos>")
    expect(source[-1:] == [eos], "a source ends with <eos>")
    expect(target[:1] != [bos], "a target has no <bos>: the model puts its start token in front")
    expect(target[-1:] == [eos], "a target ends with <eos>, so that the model learns to stop")
    source, target = source[1:-1], target[:-1]
    expect(
        bos not in source + target and eos not in source + target,
        "<bos> or <eos> stands inside a text: once at the ends is enough",
    )
    expect(
        tokenizer.mask_token_id not in source,
        "words become <mask>: a whole run of words becomes one <gap>",
    )
    asked = [word for word in source if word in gaps]
    expect(
        asked or source != document,
        f"nothing was cut out of a text of {len(document)} words: at least one word is",
    )
    expect(asked, "no gap stands where words were cut out of a source")
    pairs = zip(source, source[1:], strict=False)
    expect(
        not any(a in gaps and b in gaps for a, b in pairs),
        "two gaps stand side by side: neighbours that are cut out are one run, with one gap",
    )
    expect(
        len(set(asked)) == len(asked),
        "a gap stands twice in a source: the first run is <gap0>, the next <gap1>, and so on",
    )
    expect(asked == gaps[: len(asked)], "gaps are counted from <gap0> on, in order")
    answered = [word for word in target if word in gaps]
    expect(answered, "the target holds no gaps: each run stands behind its gap")
    expect(
        target[0] in gaps,
        "the target begins with a word: the gap stands before its run, not behind it",
    )
    expect(answered == asked, "the target should hold the same gaps as the source, in order")
    runs: dict[int, list[int]] = {}
    for word in target:
        if word in gaps:
            gap = word
            runs[gap] = []
        else:
            runs[gap].append(word)
    expect(all(runs.values()), "a gap in the target has no words behind it")
    rebuilt = [w for word in source for w in (runs[word] if word in gaps else [word])]
    told, left = (sum(w not in gaps for w in text) for text in (target, source))
    expect(
        told < len(document) or not left,
        "the target holds the whole text: it holds what was cut out, nothing else",
    )
    expect(
        rebuilt == document,
        "putting the runs back into their gaps does not give the text: a word is lost, doubled or "
        "in the wrong gap",
    )


def _amount(function: Callable, documents: list[list[int]], tokenizer: WordTokenizer) -> None:
    """Share of words cut out and mean length of a run, on texts of 40 words."""
    gaps = set(tokenizer.convert_tokens_to_ids(list(GAPS)))
    generator = torch.Generator().manual_seed(0)

    def measure(**numbers) -> tuple[float, float]:
        batch = function(documents, tokenizer, generator, **numbers)
        _, targets = _rows(batch, tokenizer, len(documents))
        runs = sum(word in gaps for row in targets for word in row)
        cut = sum(word not in gaps for row in targets for word in row) - len(targets)  # no <eos>
        return cut / sum(map(len, documents)), cut / runs

    share, _ = measure(share=0.2)
    expect(0.12 < share < 0.28, f"with share=0.2 the model is asked for {share:.0%} of the words")
    more, _ = measure(share=0.4, mean_span=3.0)
    expect(more > 1.4 * share, "share changes nothing: it says how much is cut out")
    _, short = measure(share=0.15, mean_span=1.0)
    _, long = measure(share=0.3, mean_span=5.0)
    expect(long > 1.7 * short, "mean_span changes nothing: it says how long a run is on average")


# -- the learning rate -----------------------------------------------------------------------------


@check("rises in equal steps from peak / warmup to peak, then falls as half a cosine to the floor")
def learning_rate(function: Callable) -> None:
    """learning_rate(step, steps, peak, warmup, floor) -> the rate of that step."""
    at = torch.arange(101, dtype=torch.float64)
    rates = torch.tensor(
        [float(function(step, 100, 0.01, 20, floor=0.1)) for step in range(101)],
        dtype=torch.float64,
    )
    rise = ((at + 1) / 20).clamp(max=1)
    cosine = (1 + torch.cos(math.pi * at / 100)) / 2
    fall = 0.1 + 0.9 * cosine
    after = (at - 20).clamp(min=0) / 80
    upside_down = "the cosine is upside down: 1 + cos, not 1 - cos"
    mistakes = [
        ("the rate is not multiplied by peak", rise * fall),
        (
            "the warm-up begins at 0, so the first step does nothing: count step + 1",
            0.01 * (at / 20).clamp(max=1) * fall,
        ),
        ("the warm-up is missing", 0.01 * fall),
        ("the rise goes on beyond 1: it stays at 1 after the warm-up", 0.01 * (at + 1) / 20 * fall),
        ("there is no fall after the warm-up", 0.01 * rise),
        ("the floor is ignored: the fall ends at floor * peak", 0.01 * rise * cosine),
        ("the floor is added on top: the fall starts at 1", 0.01 * rise * (0.1 + cosine)),
        (
            "the floor cuts the cosine off: stretch the cosine between floor and 1",
            0.01 * rise * cosine.clamp(min=0.1),
        ),
        (
            "the fall is a straight line: it should be half a cosine",
            0.01 * rise * (0.1 + 0.9 * (1 - at / 100)),
        ),
        (
            "the cosine runs through a whole period, so the rate rises again: cos(pi s / steps)",
            0.01 * rise * (0.1 + 0.9 * (1 + torch.cos(2 * math.pi * at / 100)) / 2),
        ),
        (upside_down, 0.01 * rise * (0.1 + 0.9 * (1 - cosine))),
        (
            "the fall begins after the warm-up: here the cosine runs over all steps, from step 0",
            0.01 * rise * (0.1 + 0.9 * (1 + torch.cos(math.pi * after)) / 2),
        ),
        (
            "the division by 2 is missing: 1 + cos lies between 0 and 2",
            0.01 * rise * (0.1 + 0.9 * 2 * cosine),
        ),
    ]
    # In units of the peak: `compare` allows differences of 1e-4.
    compare(
        100 * rates,
        rise * fall,
        "the rate of steps 0 to 100",
        [(sentence, 100 * answer) for sentence, answer in mistakes],
    )
    expect(
        math.isfinite(float(function(0, 10, 1.0, 0))),
        "warmup=0 divides by zero: divide by max(1, warmup)",
    )
