"""The three models against invariances: causality, padding, caching, recomputing, counting."""

from __future__ import annotations

import math

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FIRST, fresh, padded, scrambled, words
from torch import Tensor

import tiny_transformer as tt

LAYOUTS = ("gpt2", "bert", "bart")
KINDS = [  # every model with every head that it can have
    *(("gpt2", head) for head in ("language", "classification", "tagging")),
    *(("bert", head) for head in ("language", "classification", "tagging")),
    *(("bart", head) for head in ("language", "classification")),
]


def labels_for(head: str, rows: list[Tensor], seed: int = 5) -> list[Tensor]:
    """One class per row, or one tag or word per token."""
    generator = torch.Generator().manual_seed(seed)
    if head == "classification":
        return [torch.randint(3, (1,), generator=generator) for _ in rows]
    low, high = (0, 3) if head == "tagging" else (FIRST, 50)
    return [torch.randint(low, high, (len(row),), generator=generator) for row in rows]


def batch_of(layout: str, head: str, rows: list[Tensor], side: str, room: int = 0) -> dict:
    """Rows as one padded batch with labels; the targets of an encoder-decoder are padded right."""
    ids, mask = padded(rows, side, room)
    labels = labels_for(head, rows)
    if head == "classification":
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.cat(labels)}
    label_side = "right" if layout == "bart" else side
    ids_of_labels, kept = padded(labels, label_side, room)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids_of_labels.masked_fill(kept == 0, -100),
    }


def gradients(model, loss: Tensor) -> list[Tensor]:
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


# Causality


def test_a_decoder_never_sees_the_future():
    model, ids = scrambled("gpt2"), words(2, 8)
    with torch.no_grad():
        before = model(ids).logits
        for t in range(8):
            changed = ids.clone()
            changed[:, t] = FIRST + (changed[:, t] - FIRST + 1) % 36
            after = model(changed).logits
            assert torch.equal(after[:, :t], before[:, :t])
            assert not torch.allclose(after[:, t:], before[:, t:], atol=1e-2)


def test_the_decoder_of_an_encoder_decoder_never_sees_the_future():
    model, source, target = scrambled("bart"), words(2, 6), words(2, 8, seed=1)
    with torch.no_grad():
        before = model(source, decoder_input_ids=target).logits
        for t in range(8):
            changed = target.clone()
            changed[:, t] = FIRST + (changed[:, t] - FIRST + 1) % 36
            after = model(source, decoder_input_ids=changed).logits
            assert torch.equal(after[:, :t], before[:, :t])
            assert not torch.allclose(after[:, t:], before[:, t:], atol=1e-2)


def test_a_cache_does_not_leak_the_future():
    """The first four tokens give the same logits, whatever is fed later with the same cache."""
    model, ids = scrambled("gpt2"), words(2, 8)
    with torch.no_grad():
        whole = model(ids).logits
        cache: list = []
        first = model(ids[:, :4], cache=cache).logits
        model(words(2, 1, seed=3), cache=cache)
        close(first, whole[:, :4])


def test_an_encoder_sees_both_sides():
    model, ids = scrambled("bert"), words(1, 6)
    changed = ids.clone()
    changed[0, -1] = FIRST + (changed[0, -1] - FIRST + 1) % 36
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits[:, 0], model(changed).logits[:, 0], atol=1e-3)


def test_the_first_target_word_sees_the_whole_source():
    model, source, target = scrambled("bart"), words(1, 6), words(1, 4, seed=1)
    changed = source.clone()
    changed[0, -1] = FIRST + (changed[0, -1] - FIRST + 1) % 36
    with torch.no_grad():
        one, two = (model(x, decoder_input_ids=target).logits[:, 0] for x in (source, changed))
    assert not torch.allclose(one, two, atol=1e-3)


# Padding


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layout, head", KINDS)
def test_padding_changes_nothing(layout, head, side):
    """Logits, loss and gradients of rows alone, and of the same rows in a padded batch."""
    model = scrambled(layout, head)
    rows = [words(1, 3, seed=1)[0], words(1, 7, seed=2)[0], words(1, 5, seed=3)[0]]
    batch = batch_of(layout, head, rows, side, room=2)
    together = model(**batch)
    losses, counts = [], []
    for number, row in enumerate(rows):
        label = labels_for(head, rows)[number]
        alone = model(row[None], labels=label if head == "classification" else label[None])
        row_logits = together.logits[number]
        if head != "classification":
            places = batch["attention_mask"][number].bool()
            row_logits = row_logits[: len(row)] if layout == "bart" else row_logits[places]
        close(row_logits, alone.logits[0])
        losses.append(alone.loss)
        counts.append(len(label) - (layout == "gpt2" and head == "language"))
    mean = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)
    close(together.loss, mean)
    pairs = zip(gradients(model, together.loss), gradients(model, mean), strict=True)
    for ours, theirs in pairs:
        close(ours, theirs)


@pytest.mark.parametrize("layout, head", KINDS)
def test_a_row_of_padding_only_gives_numbers(layout, head):
    model = scrambled(layout, head).train()
    ids, mask = words(2, 5), torch.tensor([[0] * 5, [1] * 5])
    labels = torch.tensor([0, 1]) if head == "classification" else words(2, 5)
    labels = labels if head != "tagging" else labels % 3
    out = model(ids, mask, labels=labels)
    assert out.logits.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(model, out.loss) if g is not None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mask_of_booleans_is_a_mask(layout):
    for head in ("language", "classification"):
        model = scrambled(layout, head)
        rows = [words(1, 3)[0], words(1, 6)[0]]
        batch = batch_of(layout, head, rows, "left")
        with torch.no_grad():
            numbers = model(**batch).logits
            booleans = model(**batch | {"attention_mask": batch["attention_mask"].bool()}).logits
        assert torch.equal(numbers, booleans)


# The cache


@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("pieces", [[1] * 7, [4, 1, 1, 1], [2, 3, 2]])
def test_a_decoder_with_a_cache_gives_the_same_logits(pieces, with_mask):
    model = scrambled("gpt2")
    ids, mask = words(2, 7), torch.ones(2, 7).long()
    if with_mask:
        mask[1, :3] = 0  # padding on the left
    real = mask.bool()
    with torch.no_grad():
        whole = model(ids, mask if with_mask else None).logits
        cache, seen, begin = [], [], 0
        for length in pieces:
            end = begin + length
            piece = model(ids[:, begin:end], mask[:, :end] if with_mask else None, cache=cache)
            seen.append(piece.logits)
            begin = end
    close(torch.cat(seen, 1)[real], whole[real])


def test_an_encoder_decoder_with_a_cache_gives_the_same_logits():
    model, target = scrambled("bart"), words(2, 6, seed=2)
    source, mask = padded([words(1, 3)[0], words(1, 5)[0]], "left")
    with torch.no_grad():
        whole = model(source, mask, decoder_input_ids=target)
        cache: list = []
        steps = [
            model(
                attention_mask=mask,
                encoder_states=whole.encoder_states,
                decoder_input_ids=target[:, t : t + 1],
                cache=cache,
            ).logits
            for t in range(6)
        ]
    close(torch.cat(steps, dim=1), whole.logits)


def test_a_cache_is_used_although_gradients_are_checkpointed():
    model, ids = scrambled("gpt2").train(), words(1, 6)
    model.gradient_checkpointing = True
    whole = model(ids).logits
    cache: list = []
    model(ids[:, :4], cache=cache)
    close(model(ids[:, 4:], cache=cache).logits, whole[:, 4:])


# Training


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(layout, dropout):
    model = scrambled(layout, dropout=dropout).train()
    stacks = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
    blocks = [block for stack in stacks for block in stack.blocks]
    runs = []
    for block in blocks:
        forward = block.forward
        block.forward = lambda *a, forward=forward, **k: (runs.append(1), forward(*a, **k))[1]
    batch = batch_of(layout, "language", [words(1, 4)[0], words(1, 6)[0]], "right")
    results = []
    for on in (False, True):
        for stack in stacks:
            stack.gradient_checkpointing = on
        torch.manual_seed(3)
        runs.clear()
        loss = model(**batch).loss
        results.append((loss, gradients(model, loss)))
        assert len(runs) == len(blocks) * (2 if on else 1)  # computed again, and only when on
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("layout, head", KINDS)
def test_a_fresh_model_knows_nothing(layout, head):
    """Cross-entropy against random answers is the logarithm of the number of answers."""
    V, many = 400, 8
    model = fresh(layout, head, labels=many, vocab_size=V, width=64, heads=4)
    ids = words(16, 20, limit=V)
    generator = torch.Generator().manual_seed(1)
    shape, top = ((16,), many) if head == "classification" else ((16, 20), many)
    top = V if head == "language" else top
    labels = torch.randint(top, shape, generator=generator)
    with torch.no_grad():
        loss = model(ids, labels=labels).loss.item()
    assert loss == pytest.approx(math.log(top), rel=0.05)


def test_labels_of_minus_100_do_not_count():
    model, ids = scrambled("gpt2"), words(2, 6)
    labels = ids.clone()
    labels[:, :4] = -100
    out = model(ids, labels=labels)
    chances = out.logits.log_softmax(-1)
    by_hand = -sum(chances[b, t - 1, ids[b, t]] for b in range(2) for t in (4, 5)) / 4
    close(out.loss, by_hand)


def test_an_encoder_decoder_reads_its_own_past():
    """Decoder inputs are the labels shifted right, -100 replaced by padding."""
    model = scrambled("bart")
    labels = torch.tensor([[20, 21, 2], [22, 2, -100]])
    assert model.shift_right(labels).tolist() == [[1, 20, 21], [1, 22, 2]]
    labels = torch.tensor([[20, 21, 2, -100, -100]])
    assert model.shift_right(labels).tolist() == [[1, 20, 21, 2, 0]]


@pytest.mark.parametrize("layout, head", KINDS)
def test_half_precision_runs_and_its_loss_is_a_whole_float(layout, head):
    model = scrambled(layout, head)
    batch = batch_of(layout, head, [words(1, 4)[0], words(1, 6)[0]], "left")
    with torch.no_grad():
        exact = model(**batch).loss
        half = model.bfloat16()(**batch)
    assert half.logits.dtype == torch.bfloat16 and half.loss.dtype == torch.float32
    assert half.loss.item() == pytest.approx(exact.item(), rel=0.03)


@pytest.mark.parametrize("layout, head", KINDS)
def test_one_row_of_one_token(layout, head):
    out = scrambled(layout, head)(**batch_of(layout, head, [words(1, 1)[0]], "right"))
    assert out.logits.isfinite().all()
    assert out.states.shape == (1, 1, 16)


# What is refused


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sequence_longer_than_the_positions_is_refused(layout):
    model = scrambled(layout)
    targets = {"labels": words(1, 4)} if layout == "bart" else {}
    model(words(1, 24), **targets)
    with pytest.raises(ValueError, match="25 tokens but the model knows 24 positions; shorten"):
        model(words(1, 25), **targets)


def test_a_target_or_a_cache_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="25 tokens"):
        scrambled("bart")(words(1, 3), labels=words(1, 25))
    model, cache = scrambled("gpt2"), []
    model(words(1, 24), cache=cache)
    with pytest.raises(ValueError, match="25 tokens"):
        model(words(1, 1), cache=cache)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mask_of_another_shape_is_refused(layout):
    with pytest.raises(ValueError, match=r"must be \(2, 5\)"):
        scrambled(layout)(words(2, 5), torch.ones(2, 4), labels=words(2, 5))


def test_a_config_of_another_model_is_refused():
    config = fresh("bert").config
    for model in (tt.Decoder, tt.EncoderDecoder):
        with pytest.raises(ValueError, match='kind="encoder"; this model needs'):
            model(config)
    with pytest.raises(ValueError, match="needs kind"):
        tt.Encoder(fresh("gpt2").config)


def test_heads_that_cannot_be():
    config = fresh("bart").config
    with pytest.raises(ValueError, match="no tagging head"):
        tt.EncoderDecoder(config, tt.TaggingHead(config, 3))
    for head in (tt.ClassificationHead, tt.TaggingHead):
        for labels in (0, None, 2.5):
            with pytest.raises(ValueError, match="labels must be the number of"):
                head(config, labels)


def test_an_encoder_decoder_says_what_it_misses():
    with pytest.raises(ValueError, match="labels or decoder_input_ids"):
        scrambled("bart")(words(1, 3))
    with pytest.raises(ValueError, match="input_ids, or the encoder_states"):
        scrambled("bart")(labels=words(1, 3))


# Counting


def formula(layout: str, head: str, V: int, C: int, L: int, positions: int, labels: int) -> int:
    """The docstrings of models.py and heads.py."""
    trunk = {
        "gpt2": (V + positions) * C + L * (12 * C**2 + 13 * C) + 2 * C,
        "bert": (V + positions + 2) * C + 2 * C + L * (12 * C**2 + 13 * C),
        "bart": (V + 2 * (positions + 2)) * C + 4 * C + L * (28 * C**2 + 32 * C),
    }[layout]
    if head == "language":
        return trunk + {"gpt2": 0, "bert": C**2 + 3 * C + V, "bart": V}[layout]
    if head == "tagging":
        return trunk + labels * C + labels
    return trunk + labels * C + (0 if layout == "gpt2" else C**2 + C + labels)


@settings(max_examples=15)
@given(
    kind=st.sampled_from(KINDS),
    V=st.integers(1, 40),
    heads=st.integers(1, 3),
    D=st.integers(1, 4),
    L=st.integers(1, 3),
    positions=st.integers(1, 9),
    labels=st.integers(1, 4),
)
def test_parameter_counts(kind, V, heads, D, L, positions, labels):
    layout, head = kind
    numbers = dict(vocab_size=V, width=heads * D, heads=heads, layers=L, positions=positions)
    model = fresh(layout, head, labels, **numbers)
    count = sum(parameter.numel() for parameter in model.parameters())  # tied ones once
    assert count == formula(layout, head, V, heads * D, L, positions, labels)


@given(C=st.integers(1, 6), inner=st.integers(1, 9), cross=st.booleans())
@settings(max_examples=15)
def test_parameter_counts_of_the_parts(C, inner, cross):
    config = tt.TransformerConfig(vocab_size=5, width=C, layers=1, heads=1, inner=inner)
    feed_forward = 2 * C * inner + inner + C
    block = 4 * C**2 + 4 * C + feed_forward + 4 * C + (4 * C**2 + 6 * C if cross else 0)
    assert sum(p.numel() for p in tt.FeedForward(C, inner).parameters()) == feed_forward
    assert sum(p.numel() for p in tt.Block(config, cross).parameters()) == block
