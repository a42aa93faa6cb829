"""Masked words: Devlin et al. 2019, section 3.1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minipeft.checks.exercises.batches import tensors_of
from minipeft.checks.framework import OMIT, Case, Check, Draw, Trial, call, expect
from tiny_transformer.tokenizer import WordTokenizer

TOKENIZERS = {size: WordTokenizer([f"w{n}" for n in range(size)]) for size in (200, 3)}
other = TOKENIZERS[3]  # whose <pad>, <mask> and <unk> have other ids
other.pad_token_id, other.mask_token_id, other.unk_token_id = 3, 0, 4
FIRST = 14  # ids below are special tokens
ENOUGH = 400  # so many words tell a share


def inputs(case: Case, draw: Draw) -> dict:
    """ids (B, T): words, with <bos>, <eos>, <unk>, <mask>, <sep>, gaps and padding among them."""
    tokenizer = TOKENIZERS[case.words]
    ids = torch.randint(FIRST, len(tokenizer), (case.B, case.T), generator=draw.generator)
    if case.T > 20:
        ids[:, 0] = tokenizer.bos_token_id
        ids[:, 1:FIRST] = torch.arange(1, FIRST)  # every special token but padding
        ids[:, -5:] = tokenizer.pad_token_id
    generator = (
        torch.Generator().manual_seed(case.seed) if case.generator is True else case.generator
    )
    return {"ids": draw.whole(ids), "tokenizer": tokenizer, "generator": generator}


def run(masked, case: Case, given):
    """Two calls, one after the other, with one generator."""
    first = call(
        masked,
        given.ids,
        given.tokenizer,
        generator=given.generator,
        corruption_rate=case.corruption_rate,
    )
    second = call(
        masked,
        given.ids,
        given.tokenizer,
        generator=given.generator,
        corruption_rate=case.corruption_rate,
    )
    return first, second


def judge(case: Case, given: dict, answer) -> None:
    """Who is chosen, what becomes of them, what is asked."""
    batches = [one_batch(case, given, batch) for batch in answer]
    (first, inputs_first), (second, inputs_second) = batches
    words = (given["ids"] >= FIRST).sum().item()
    corruption_rate = case.given("corruption_rate", 0.15)
    if words > ENOUGH and 0 < corruption_rate < 1:
        expect(
            not torch.equal(first, second) and not torch.equal(inputs_first, inputs_second),
            "two calls hide the same words: draw anew from the generator each time",
        )


def one_batch(case: Case, given: dict, batch) -> tuple[Tensor, Tensor]:
    ids, tokenizer, corruption_rate = (
        given["ids"],
        given["tokenizer"],
        case.given("corruption_rate", 0.15),
    )
    inputs, mask, labels = tensors_of(batch, "input_ids", "attention_mask", "labels")
    for name, part in (("input_ids", inputs), ("labels", labels), ("attention_mask", mask)):
        expect(
            part.shape == ids.shape, f"{name} has shape {tuple(part.shape)}, not that of the ids"
        )
    for name, part in (("input_ids", inputs), ("labels", labels)):
        expect(
            part.dtype == torch.int64,
            f"{name} should be whole numbers like the ids, not {part.dtype}",
        )
    words = ids >= FIRST
    chosen = labels != -100
    rate = chosen[words].double().mean().item() if words.any() else 0.0
    if corruption_rate < 0.9 and words.sum() > ENOUGH:
        expect(rate < 0.9, "every word has a label: words that were not chosen get -100")
    if words.sum() > ENOUGH:
        _ids_of(tokenizer, inputs, mask, ids, chosen & words)
    _asked_for(inputs, ids, chosen, words, rate, corruption_rate, tokenizer)
    expect(not chosen[~words].any(), "special tokens (padding, <bos>) are chosen: only words are")
    expect(
        bool((labels[chosen] == ids[chosen]).all()),
        "the labels must be the words that stood there before they were hidden",
    )
    if words.sum() > ENOUGH:
        _shares(inputs, labels, ids, words, chosen, case, tokenizer)
    expect(
        bool((inputs[~chosen] == ids[~chosen]).all()),
        "words that were not chosen are changed: leave them as they are",
    )
    random = chosen & (inputs != tokenizer.mask_token_id)
    expect(
        bool((inputs[random] >= FIRST).all()),
        "a random word is drawn among the special tokens: draw among the words",
    )
    expect(
        bool((inputs < len(tokenizer)).all()),
        "a random word lies beyond the vocabulary: the largest id is len(tokenizer) - 1",
    )
    if words.sum() > ENOUGH:
        _actions(inputs, ids, chosen, case, tokenizer)
    expect(
        bool(((mask != 0) == (ids != tokenizer.pad_token_id)).all()),
        "attention_mask is 1 on every token but padding, <mask> included",
    )
    return labels, inputs


def _ids_of(tokenizer: WordTokenizer, inputs, mask, ids, chosen) -> None:
    """Is the tokenizer asked for its ids?"""
    usual = TOKENIZERS[200]
    if tokenizer is usual:
        return
    hidden = inputs == usual.mask_token_id
    expect(
        not (hidden & chosen).any(),
        f"<mask> has not always the id {usual.mask_token_id}: ask the tokenizer, "
        "tokenizer.mask_token_id",
    )
    expect(
        not torch.equal(mask != 0, ids != usual.pad_token_id),
        f"padding has not always the id {usual.pad_token_id}: ask the tokenizer, "
        "tokenizer.pad_token_id",
    )


def _asked_for(inputs, ids, chosen, words, rate, corruption_rate, tokenizer) -> None:
    """Are the labels read off the inputs, and not off the draw?"""
    if words.sum() <= ENOUGH or not 0 < corruption_rate < 1:
        return
    asked, hidden = chosen[words], (inputs == tokenizer.mask_token_id)[words]
    changed = (inputs != ids)[words]
    expect(
        not torch.equal(asked, hidden) or bool((changed == hidden).all()),
        "only words that became <mask> are asked for: chosen words that became another one, or "
        "stay, have a label too",
    )
    expect(
        not torch.equal(asked, changed) or rate > 0.95 * corruption_rate,
        "only words that were changed are asked for: chosen words that stay have a label too",
    )


def _near(probability: float, count: int, smallest: float = 0.0) -> float:
    """Five standard deviations of how often something of this probability comes in so many."""
    return max(smallest, 5 * math.sqrt(max(probability * (1 - probability), 1e-9) / max(1, count)))


def _shares(inputs, labels, ids, words, chosen, case, tokenizer) -> None:
    """The right share of words, wherever they stand, whatever they are."""
    corruption_rate, count = case.given("corruption_rate", 0.15), int(words.sum())
    rate = chosen[words].double().mean().item()
    expect(
        abs(rate - corruption_rate) < _near(corruption_rate, count, 0.001),
        f"{rate:.0%} of the words are chosen, it should be {corruption_rate:.0%}"
        if abs(rate - corruption_rate) > 0.01
        else f"{rate:.1%} of the words are chosen, it should be {corruption_rate:.1%}",
    )
    if not 0 < corruption_rate < 1:
        return
    B, T = ids.shape
    columns = words.sum(0) > 0
    for part, what in ((slice(0, T // 2), "first"), (slice(T // 2, T), "second")):
        inside = words[:, part]
        rate_of_half = chosen[:, part][inside].double().mean().item()
        expect(
            abs(rate_of_half - corruption_rate) < _near(corruption_rate, int(inside.sum())),
            f"{rate_of_half:.0%} of the words in the {what} half of the rows are chosen: every "
            "place is as likely as any other",
        )
    if B > 20:
        per_column = chosen.double().sum(0)[columns] / words.double().sum(0)[columns]
        expect(
            bool((per_column < 1).all()),
            "the same places are chosen in every row: draw for each word of each row",
        )
        spread = chosen.double().sum(1).var().item()  # words chosen in a row
        usual = corruption_rate * (1 - corruption_rate) * count / B
        expect(
            spread > 0.2 * usual,
            "every row has the same number of chosen words: each word is drawn by itself",
        )
        expect(
            spread < 5 * usual,
            "whole rows are chosen or left together: each word is drawn by itself",
        )
    beside = (chosen[:, 1:] & chosen[:, :-1])[words[:, 1:] & words[:, :-1]].double().mean().item()
    expect(
        abs(beside - corruption_rate**2) < _near(corruption_rate**2, count) * 2,
        f"of neighbours {beside:.1%} are chosen together, by chance it is "
        f"{corruption_rate**2:.1%}: each word is drawn by itself",
    )


def _actions(inputs, ids, chosen, case, tokenizer) -> None:
    """Of the chosen: 80 % <mask>, 10 % a random word, 10 % kept."""
    count = int(chosen.sum())
    if count < 200:
        return
    words = len(tokenizer) - FIRST
    hidden = (inputs[chosen] == tokenizer.mask_token_id).double().mean().item()
    kept = (inputs[chosen] == ids[chosen]).double().mean().item()
    pairs = chosen[:, 1:] & chosen[:, :-1]
    if pairs.sum() > 100:
        rows = (inputs == tokenizer.mask_token_id).double()
        together = (rows[:, 1:] * rows[:, :-1])[pairs].mean().item()
        expect(
            abs(together - hidden**2) < 1.5 * _near(0.64, int(pairs.sum())),
            "what becomes of a chosen word goes along with its neighbour: draw for each word",
        )
    expect(hidden < 0.97, "all chosen words become <mask>: 10 % become a random word, 10 % stay")
    expect(
        abs(hidden - 0.8) < _near(0.8, count),
        f"{hidden:.0%} of the chosen become <mask>: it should be 80 %",
    )
    by_chance = 0.1 / words  # a random word may be the word itself
    expect(
        abs(kept - 0.1 - by_chance) < _near(0.1 + by_chance, count),
        f"{kept:.0%} of the chosen words stay: it should be 10 %",
    )
    random = inputs[chosen & (inputs != tokenizer.mask_token_id) & (inputs != ids)]
    if len(random) < 100:
        return
    kinds = random.unique()
    if words <= 10:
        expect(
            len(kinds) == words,
            f"the random words are only {len(kinds)} of {words} kinds: draw from {FIRST} to "
            "len(tokenizer) - 1, each as likely as any other",
        )
    else:
        middle = random.double().mean().item() - (FIRST + (words - 1) / 2)
        expect(
            len(kinds) > 20 and abs(middle) < 5 * words / math.sqrt(12 * len(random)),
            "the random words are not drawn evenly from the words of the vocabulary",
        )


masked = Check(
    "masked",
    "tiny_transformer.objectives:masked",
    "15 % of the words chosen; of these 80 % <mask>, 10 % random, 10 % kept; other labels -100",
    [
        Trial(
            "the batch",
            inputs,
            run,
            axes={
                "corruption_rate": (OMIT, 0.15, 0.5, 0.0, 1.0),
                "T": (400, 1, 7),
                "B": (60, 1, 2),
                "words": (200, 3),
                "generator": (True, OMIT, None),
            },
            valid=lambda case: (case.T > 20) == (case.B > 20),
            dtypes=("float32",),
            gradients=("on",),
            judge=judge,
            draws=True,
            fresh=lambda case: case.T > 20 and case.corruption_rate not in (0.0, 1.0),
        )
    ],
)
