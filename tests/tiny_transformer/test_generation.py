"""Generation: the cache changes nothing, rows do not disturb each other, beams find the best."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tiny_models import fresh, padded, scramble, scrambled, words

import tiny_transformer as tt
from tiny_transformer.generation import nucleus

WAYS = {
    "greedy": {},
    "sampled": {"sample": True, "temperature": 1.3},
    "top 5": {"sample": True, "top_k": 5},
    "half": {"sample": True, "top_p": 0.5},
    "beams": {"beams": 3},
    "beams, long": {"beams": 4, "length_penalty": 2.0},
}


def writer(layout: str, seed: int = 0, size: float = 0.35, **numbers):
    """A model whose words depend strongly on what it has read and where, so that a slip is seen."""
    model = scramble(fresh(layout, **numbers), seed + 1, size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positions" in name:
                parameter *= 3
    return model


def prompts(layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Three prompts of unequal length, padded on the left."""
    rows = [words(1, n, seed=n)[0] for n in (2, 6, 4)]
    return padded(rows, "left")


def write(model, ids, mask, seed: int = 0, **how):
    return tt.generate(model, ids, mask, generator=torch.Generator().manual_seed(seed), **how)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", ["gpt2", "bart"])
def test_the_cache_changes_no_word(layout, way):
    texts = set()
    for seed in range(3):
        model = writer(layout, seed)
        ids, mask = prompts(layout)
        how = WAYS[way] | {"max_new_tokens": 15}
        cached = write(model, ids, mask, **how)
        assert torch.equal(cached, write(model, ids, mask, use_cache=False, **how))
        texts |= {tuple(row.tolist()) for row in cached}
    assert len(texts) >= 8 and len({word for text in texts for word in text}) > 10


@pytest.mark.parametrize("way", ["greedy", "beams"])
@pytest.mark.parametrize("layout", ["gpt2", "bart"])
@pytest.mark.parametrize("with_eos", [False, True])
def test_the_cache_changes_no_word_with_a_memory(layout, way, with_eos):
    """A memory in every attention, self and cross: as in prefix-tuning."""
    model = writer(layout)
    ids, mask = prompts(layout)
    how = WAYS[way] | {"max_new_tokens": 10, "eos_token_id": None if with_eos else 49}
    plain = write(model, ids, mask, **how)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, tt.Attention):
            module.memory = tuple(torch.randn(1, 2, 3, 8, generator=generator) for _ in "kv")
    cached = write(model, ids, mask, **how)
    assert torch.equal(cached, write(model, ids, mask, use_cache=False, **how))
    assert cached.shape != plain.shape or not torch.equal(cached, plain)


@pytest.mark.parametrize("way", ["greedy", "beams", "beams, long"])
@pytest.mark.parametrize("layout", ["gpt2", "bart"])
def test_a_row_does_not_depend_on_the_others(layout, way):
    """Also when the others end earlier or later."""
    lengths = set()
    for seed in range(3):
        model = writer(layout, seed)
        ids, mask = prompts(layout)
        begin = ids.shape[1] if layout == "gpt2" else 1
        free = write(model, ids, mask, max_new_tokens=12, eos_token_id=49)
        end = free[seed, begin + 4].item()  # a word that will be written
        how = WAYS[way] | {"max_new_tokens": 12, "eos_token_id": end}
        together = write(model, ids, mask, **how)
        for row in range(3):
            real = ids[row][mask[row].bool()][None]
            alone = write(model, real, None, **how)[0, real.shape[1] if layout == "gpt2" else 1 :]
            assert together[row, begin : begin + len(alone)].tolist() == alone.tolist()
            assert (together[row, begin + len(alone) :] == 0).all()
            lengths.add(len(alone))
    assert len(lengths) > 2


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("layout", ["gpt2", "bart"])
def test_wide_beams_find_the_best_of_all_texts(layout, penalty):
    """V = 5 words, 3 steps: every text is scored; with enough beams the search is exact."""
    for seed in range(3):
        model = writer(layout, seed, 0.8, vocab_size=5, pad_token_id=0, eos_token_id=2)
        ids = torch.tensor([[3, 4, 1]])
        scores = {}
        for length in (1, 2, 3):
            texts = [t for t in product(range(5), repeat=length) if 2 not in t[:-1]]
            texts = [text for text in texts if text[-1] == 2 or length == 3]
            answers, sources = torch.tensor(texts), ids.expand(len(texts), 3)
            with torch.no_grad():
                if layout == "gpt2":
                    logits = model(torch.cat([sources, answers], dim=1)).logits[:, 2:-1]
                else:
                    logits = model(sources, labels=answers).logits
            chances = logits.log_softmax(-1).gather(2, answers[..., None])[..., 0]  # (N, length)
            values = (chances.sum(1) / length**penalty).tolist()
            scores |= dict(zip(texts, values, strict=True))
        best = max(scores, key=scores.get)
        written = tt.generate(model, ids, max_new_tokens=3, beams=40, length_penalty=penalty)
        assert tuple(written[0, 3 if layout == "gpt2" else 1 :].tolist()) == best


def test_greedy_takes_the_most_likely_word():
    model, ids = writer("gpt2"), words(2, 4)
    text = tt.generate(model, ids, max_new_tokens=6, eos_token_id=49)
    with torch.no_grad():
        best = model(text).logits.argmax(-1)
    assert torch.equal(text[:, 4:], best[:, 3:-1]) and torch.equal(text[:, :4], ids)


@pytest.mark.parametrize("temperature, top_k", [(1.0, None), (0.5, None), (2.0, None), (1.0, 3)])
def test_sampled_words_are_as_frequent_as_their_probability(temperature, top_k):
    model, ids, N = writer("gpt2", vocab_size=20), torch.tensor([[15, 16]]), 20_000
    with torch.no_grad():
        scores = model(ids).logits[0, -1].double() / temperature
    if top_k:
        scores[scores < scores.topk(top_k).values[-1]] = -torch.inf
    expected = scores.softmax(-1)
    drawn = write(
        model,
        ids.expand(N, 2),
        None,
        sample=True,
        temperature=temperature,
        top_k=top_k,
        max_new_tokens=1,
    )[:, 2]
    frequency = drawn.bincount(minlength=20) / N
    spread = (expected * (1 - expected) / N).sqrt()
    assert ((frequency - expected).abs() <= 4.5 * spread).all()


def test_a_generator_makes_sampling_repeatable():
    model, ids = writer("gpt2"), words(2, 4)
    one, two, other = (
        write(model, ids, None, seed=seed, sample=True, max_new_tokens=8) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


@pytest.mark.parametrize("how", [{}, {"beams": 3}], ids=["greedy", "beams"])
def test_a_row_ends_with_the_end_token_then_padding(how):
    model, ids = writer("gpt2"), words(3, 4)
    free = tt.generate(model, ids, max_new_tokens=10, eos_token_id=49)
    end = free[0, 6].item()
    text = tt.generate(model, ids, max_new_tokens=10, eos_token_id=end, **how)
    for row in text[:, 4:].tolist():
        if end in row:
            assert all(word == 0 for word in row[row.index(end) + 1 :])
    if not how:
        row = free[0, 4:].tolist()
        begin = row[: row.index(end) + 1]
        assert text[0, 4:].tolist() == begin + [0] * (text.shape[1] - 4 - len(begin))


def test_writing_stops_when_all_rows_have_ended_or_positions_run_out():
    model, ids = writer("gpt2"), words(1, 4)
    free = tt.generate(model, ids, max_new_tokens=100, eos_token_id=49)
    assert free.shape == (1, 24)  # the positions
    end = free[0, 8].item()
    stop = free[0, 4:].tolist().index(end) + 1
    assert tt.generate(model, ids, max_new_tokens=100, eos_token_id=end).shape == (1, 4 + stop)
    assert tt.generate(model, ids, max_new_tokens=3, eos_token_id=49).shape == (1, 7)


def test_a_model_without_end_token_writes_on():
    model = writer("gpt2", eos_token_id=None)
    assert tt.generate(model, words(1, 4), max_new_tokens=9).shape == (1, 13)
    assert tt.generate(model, words(1, 4), max_new_tokens=9, beams=2).shape == (1, 13)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_as_before_and_dropout_is_off(training):
    model, ids = scrambled("gpt2", dropout=0.5).train(training), words(2, 4)
    one, two = (tt.generate(model, ids, max_new_tokens=5) for _ in range(2))
    assert torch.equal(one, two) and model.training is training
    with pytest.raises(ValueError, match="fills all 24 positions"):
        tt.generate(model, words(1, 24))
    assert model.training is training


def test_a_half_precision_model_writes():
    ids, mask = prompts("gpt2")
    for layout in ("gpt2", "bart"):
        model = writer(layout).bfloat16()
        assert tt.generate(model, ids, mask, max_new_tokens=4).dtype == torch.long
        assert tt.generate(model, ids, mask, max_new_tokens=4, beams=2).dtype == torch.long


@pytest.mark.parametrize(
    "layout, head, how, sentence",
    [
        ("bert", "language", {}, "Only a Decoder or EncoderDecoder with a LanguageHead"),
        ("gpt2", "classification", {}, "Only a Decoder or EncoderDecoder with a LanguageHead"),
        ("gpt2", "language", {"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ("gpt2", "language", {"beams": 0}, "beams must be at least 1"),
        ("gpt2", "language", {"beams": 2, "sample": True}, "1 when sample=True"),
        ("gpt2", "language", {"temperature": 0.0}, "temperature must be above 0"),
        ("gpt2", "language", {"top_k": 0}, "top_k at least 1"),
        ("gpt2", "language", {"top_p": 0.0}, "top_p is a probability"),
        ("gpt2", "language", {"top_p": 1.5}, "top_p is a probability"),
    ],
)
def test_what_cannot_be_is_refused(layout, head, how, sentence):
    with pytest.raises(ValueError, match=sentence):
        tt.generate(scrambled(layout, head), words(1, 3), **how)


def test_prompts_padded_on_the_right_are_refused():
    ids, mask = padded([words(1, 2)[0], words(1, 5)[0]], "right")
    with pytest.raises(ValueError, match="pad them on the left"):
        tt.generate(scrambled("gpt2"), ids, mask)
    tt.generate(scrambled("bart"), ids, mask)  # a source may be padded anywhere


@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9])
def test_the_nucleus_is_the_one_of_transformers(top_p):
    hf = pytest.importorskip("transformers")
    scores = 3 * torch.randn(20, 40, generator=torch.Generator().manual_seed(0)).double()
    mine = nucleus(scores, top_p)
    assert torch.equal(mine, hf.TopPLogitsWarper(top_p)(None, scores))
    left = scores.softmax(-1).masked_fill(mine.isinf(), 0)
    least = left.masked_fill(mine.isinf(), 2).min(-1).values
    assert bool((left.sum(-1) >= top_p - 1e-12).all())
    assert bool((left.sum(-1) - least < top_p).all())  # without its last word it is too few
