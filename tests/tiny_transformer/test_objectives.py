"""Objectives as data: what is hidden, what is asked, and what the stream repeats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_transformer as tt
from tiny_transformer import objectives
from tiny_transformer.pretraining import Stream

WORDS = [f"w{number}" for number in range(30)]
tokenizer = tt.WordTokenizer([*WORDS, "=", ">"], ends=True)
PAD, BOS, EOS, FIRST = 0, 1, 2, 14
SENTINELS = list(range(6, 14))
documents = st.lists(
    st.lists(st.integers(FIRST, FIRST + 29), min_size=1, max_size=25), min_size=1, max_size=6
)
seeds = st.integers(0, 10_000)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Causal


@given(documents, st.integers(2, 20))
def test_pack_fills_a_row_with_whole_documents(rows, length):
    row, rest = objectives.pack(rows, length, tokenizer)
    assert len(row) == length
    stream = [BOS] + [word for document in rows for word in [*document, EOS]]
    stream = stream[:length]
    assert row.tolist() == stream + [PAD] * (length - len(stream))
    used = len(rows) - len(rest)
    assert rest == rows[used:]
    assert (
        sum(len(d) + 1 for d in rows[: used - 1]) + 1 < length or used == 1
    )  # no more than needed


@given(documents)
def test_causal_asks_for_every_word_and_no_padding(rows):
    ids = tokenizer.pad(rows, "right")["input_ids"]
    batch = objectives.causal(ids, tokenizer)
    real = ids != PAD
    assert torch.equal(batch["input_ids"], ids)
    assert torch.equal(batch["attention_mask"], real.long())
    assert torch.equal(batch["labels"][real], ids[real])
    assert (batch["labels"][~real] == -100).all()


# Masked


@given(documents, seeds, st.floats(0.05, 0.9))
def test_masked_asks_only_for_words_and_for_all_that_it_hides(rows, seed, corruption_rate):
    framed = [[BOS, *row, 6, EOS] for row in rows]  # with a <gap0>, a special token too
    ids = tokenizer.pad(framed, "right")["input_ids"]
    batch = objectives.masked(ids, tokenizer, seeded(seed), corruption_rate)
    asked = batch["labels"] != -100
    assert (ids[asked] >= FIRST).all()  # never a special token, never padding
    assert torch.equal(batch["labels"][asked], ids[asked])
    assert torch.equal(batch["input_ids"][~asked], ids[~asked])  # what is not asked is not touched
    changed = batch["input_ids"] != ids
    new = batch["input_ids"][changed]
    assert ((new == 4) | (new >= FIRST)).all()  # <mask> or a word
    assert torch.equal(batch["attention_mask"], (ids != PAD).long())


def within(count: int, corruption_rate: float, N: int) -> bool:
    """Inside 4.5 standard deviations of a binomial."""
    return (
        abs(count - N * corruption_rate)
        < 4.5 * (N * corruption_rate * (1 - corruption_rate)) ** 0.5
    )


@pytest.mark.parametrize("corruption_rate", [0.15, 0.3])
def test_masked_hides_the_share_that_it_states(corruption_rate):
    """Devlin et al. 2019, appendix A.1: of the chosen words 80 % <mask>, 10 % random, 10 % kept."""
    ids = torch.randint(FIRST, FIRST + 30, (200, 200), generator=seeded(0))
    batch = objectives.masked(ids, tokenizer, seeded(1), corruption_rate)
    asked = batch["labels"] != -100
    chosen = int(asked.sum())
    assert within(chosen, corruption_rate, ids.numel())
    seen = batch["input_ids"][asked]
    assert within(int((seen == 4).sum()), 0.8, chosen)
    random = (seen != 4) & (seen != ids[asked])
    V = len(tokenizer) - FIRST
    assert within(int(random.sum()), 0.1 * (1 - 1 / V), chosen)  # one in V is the word itself
    words = seen[random].bincount(minlength=len(tokenizer))[FIRST:]
    assert (words > 0).all()


# Span corruption


def reassemble(source: list[int], target: list[int]) -> list[int]:
    """Put each run back into its gap."""
    runs: dict[int, list[int]] = {}
    for word in target:
        if word in SENTINELS:
            runs[gap := word] = []
        else:
            runs[gap].append(word)
    return [word for token in source for word in (runs[token] if token in SENTINELS else [token])]


@given(documents, seeds, st.floats(0.05, 0.9), st.floats(1.0, 4.0))
def test_source_and_target_together_are_the_document(rows, seed, corruption_rate, mean_span):
    batch = objectives.span_corruption(rows, tokenizer, seeded(seed), corruption_rate, mean_span)
    for row, source, mask, labels in zip(
        rows, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        assert (source[mask == 0] == PAD).all()
        source = source[mask.bool()].tolist()
        target = labels[labels != -100].tolist()
        assert (labels[len(target) :] == -100).all()
        assert source[0] == BOS and source[-1] == EOS and target[-1] == EOS
        gaps = [token for token in source if token in SENTINELS]
        assert gaps == SENTINELS[: len(gaps)] and len(gaps) >= 1  # in order, the same in both
        assert [token for token in target if token in SENTINELS] == gaps
        runs = "".join("g" if token in SENTINELS else "w" for token in target)
        assert "gg" not in runs  # no empty gap
        assert reassemble(source[1:-1], target[:-1]) == row


def test_span_corruption_cuts_about_the_share_that_it_states():
    rows = torch.randint(FIRST, FIRST + 30, (400, 40), generator=seeded(0)).tolist()
    batch = objectives.span_corruption(rows, tokenizer, seeded(1), corruption_rate=0.25)
    words = (batch["labels"] >= FIRST).sum().item() / (400 * 40)
    assert 0.18 < words <= 0.25  # five runs of mean two in forty words; they may overlap


@given(documents)
def test_pairs(rows):
    batch = objectives.pairs([[BOS, *row, EOS] for row in rows], rows, tokenizer)
    for row, ids, mask, labels in zip(rows, *batch.values(), strict=True):
        assert ids[mask.bool()].tolist() == [BOS, *row, EOS]
        assert labels[labels != -100].tolist() == row


# The stream


TEXTS = [" ".join(WORDS[i : i + 3 + i % 7]) for i in range(20)]
TEXTS += [f"w{i} w{i + 1} = > w{i + 1} w{i}" for i in range(10)]


@settings(max_examples=25)
@given(st.sampled_from(["decoder", "encoder", "encoder-decoder"]), st.integers(0, 40), seeds)
def test_a_step_always_gives_the_same_batch(kind, step, seed):
    one = Stream(TEXTS, tokenizer, kind, 4, 24, seed)
    other = Stream(TEXTS, tokenizer, kind, 4, 24, seed)
    for earlier in (3, 1, 7):  # in whatever order the steps are asked for
        other(earlier)
    torch.rand(5)  # and whatever else is drawn
    a, b = one(step), other(step)
    assert a.keys() == b.keys() == {"input_ids", "attention_mask", "labels"}
    assert all(torch.equal(a[name], b[name]) for name in a)


@settings(max_examples=40)
@given(st.sampled_from(["decoder", "encoder", "encoder-decoder"]), st.integers(0, 60))
def test_padding_is_never_asked_for_and_rows_have_room(kind, step):
    stream = Stream(TEXTS, tokenizer, kind, 4, 24)
    batch = stream(step)
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
    assert torch.equal(mask == 0, ids == PAD)
    assert (mask.diff(dim=1) <= 0).all()  # padding stands on the right
    assert not (labels == PAD).any()
    if kind != "encoder-decoder":
        assert (labels[mask == 0] == -100).all()
    assert ids.shape[1] <= 24 and labels.shape[1] <= 24
    assert (labels != -100).any()


def test_other_steps_and_seeds_give_other_batches():
    for kind in ("decoder", "encoder", "encoder-decoder"):
        seen = set()
        for seed in (0, 1):
            stream = Stream(TEXTS, tokenizer, kind, 4, 24, seed)
            seen |= {str(stream(step)) for step in range(20)}
        assert len(seen) == 40


def test_the_encoder_decoder_answers_questions_at_every_fourth_step():
    stream = Stream(TEXTS, tokenizer, "encoder-decoder", 4, 24)
    for step in (1, 5, 9):
        batch = stream(step)
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            a, b = ids[1], ids[2]
            assert ids[:4] == [BOS, a, b, EOS] and labels[:3] == [b, a, EOS]
    for step in (0, 2, 3, 4, 6, 7):
        assert any(token in SENTINELS for token in stream(step)["input_ids"].flatten().tolist())


def test_a_decoder_reads_documents_between_end_tokens():
    batch = Stream(TEXTS, tokenizer, "decoder", 8, 24)(0)
    known = {text for text in TEXTS}
    for row in batch["input_ids"].tolist():
        assert row[0] == BOS and PAD not in row
        texts = tokenizer.decode(row, skip_special_tokens=False).split(" ", 1)[1].split(" <eos>")
        assert all(text.strip() in known for text in texts[:-1])  # the last may be cut
