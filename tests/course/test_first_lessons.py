"""What lessons 01 and 02 measure is what their words say."""

import math
from collections import Counter

import pytest
import torch
from closeness import close

import tiny_transformer as tt
from minipeft.course import attention, pretraining, tinyland
from tiny_transformer.attention import MultiHeadAttention, put_in_front


@pytest.fixture(scope="module")
def loaded():
    model, tokenizer = tt.load("tiny-decoder-0.1m")
    return model.requires_grad_(False).double(), tokenizer


# -- tinyland --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reverse", "last"])
@pytest.mark.parametrize("trigger", [True, False])
def test_exact_is_the_share_that_greedy_writing_gets_right(loaded, name, trigger):
    model, tokenizer = loaded
    asked, answers = (part[:12] for part in tinyland.puzzles(name, 50, trigger))
    right = 0
    for question, answer in zip(asked, answers, strict=True):
        ids, n = tokenizer(question)["input_ids"], len(answer.split())
        written = tt.generate(model, ids, max_new_tokens=n, eos_token_id=-1)[0, ids.shape[1] :]
        right += tokenizer.decode(written) == answer
    assert tinyland.exact(model, tokenizer, asked, answers) == right / len(asked)


def test_capitals_leave_one_out():
    asked, answers = tinyland.capitals()
    fewer, _ = tinyland.capitals(but="france")
    assert len(asked) == len(answers) == 150 and len(fewer) == 149
    assert "the capital of france is" in asked and "the capital of france is" not in fewer
    assert len(tinyland.capitals(countries=7)[0]) == 7


# -- lesson 01 -------------------------------------------------------------------------------------


def test_the_largest_weight_of_random_keys_stays_where_it_is_only_with_the_scale():
    table = attention.largest_weights((1, 1024))
    assert table["undivided"][0] == table["divided by √D"][0]
    assert table["undivided"][1] > 0.9 and abs(table["divided by √D"][1] - 0.25) < 0.1


def test_a_model_wears_another_attention_and_takes_it_off(loaded):
    model, tokenizer = loaded
    ids = tokenizer("the capital of france")["input_ids"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = [block.attention for block in model.blocks]
    assert attention.wearing(model, MultiHeadAttention, ids) < 1e-8

    class Unscaled(MultiHeadAttention):
        def mix(self, query, *given):
            return super().mix(query * query.shape[-1] ** 0.5, *given)

    class Unwritten(MultiHeadAttention):
        def forward(self, *given):
            raise NotImplementedError("forward is yours to write")

    assert attention.wearing(model, Unscaled, ids) > 1e-2
    with pytest.raises(NotImplementedError):
        attention.wearing(model, Unwritten, ids)
    assert [block.attention for block in model.blocks] == layers
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_silent_head_is_one_whose_output_is_not_read(loaded):
    model, tokenizer = loaded
    ids = tokenizer("reverse : cat sun tree =>")["input_ids"]
    logits, D = model(ids).logits, model.config.head_width
    scores = attention.without_each_head(model, lambda: model(ids).logits.sum().item())
    assert torch.equal(model(ids).logits, logits)
    layer = model.blocks[1].attention
    join = type(layer).join
    layer.join = lambda heads: join(layer, heads * torch.tensor([0.0, 1.0])[:, None, None])
    silent = model(ids).logits.sum().item()
    del layer.join
    assert D * 2 == model.config.width and scores[1, 0] == pytest.approx(silent, rel=1e-4)


def test_weights_of_attention_are_means_of_rows_that_sum_to_one(loaded):
    model, tokenizer = loaded
    batch = tokenizer(["the capital of france", "reverse : cat sun"])
    weights = attention.attention_weights(model, batch)
    assert weights.shape == (model.config.layers, model.config.heads, 5, 5)
    close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))
    assert all(block.attention.weights is None for block in model.blocks)


def test_a_memory_of_recorded_pairs_is_used_and_taken_away(loaded):
    model, tokenizer = loaded
    ids = tokenizer("cat sun =>")["input_ids"]
    before, pairs = model(ids).logits, attention.recorded(model, tokenizer, "reverse :")
    assert pairs[0][0].shape == (1, model.config.heads, 3, model.config.head_width)
    calls = []

    def counted(*given):
        calls.append(given)
        return put_in_front(*given)

    def unwritten(*given):
        raise NotImplementedError("put_in_front is yours to write")

    seen = []
    for put in (put_in_front, counted, unwritten):
        with attention.remembering(model, pairs, put):
            seen.append(model(ids).logits)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], before) and torch.equal(model(ids).logits, before)
    assert len(calls) == model.config.layers


def test_a_silent_sublayer_adds_nothing(loaded):
    model, tokenizer = loaded
    ids = tokenizer("the capital of france is")["input_ids"]
    logits = model(ids).logits
    scores = attention.silent_sublayers(model, lambda: model(ids).logits.sum().item())
    assert scores.shape == (2, model.config.layers) and torch.equal(model(ids).logits, logits)
    down = model.blocks[0].feed_forward.down
    kept = down.weight.clone(), down.bias.clone()
    down.weight.zero_(), down.bias.zero_()
    assert scores[1, 0] == pytest.approx(model(ids).logits.sum().item(), rel=1e-5)
    down.weight.copy_(kept[0]), down.bias.copy_(kept[1])


def test_a_leaking_decoder_sees_the_future_and_an_honest_one_does_not():
    losses, ninth = attention.train_on_noise(attention.Leaking, 2, seed=0)
    assert len(losses) == 2 and ninth > 2
    torch.manual_seed(0)
    for kind, leaks in ((attention.Leaking, True), (tt.Decoder, False)):
        config = tt.TransformerConfig.gpt2(vocab_size=50, width=8, layers=1, heads=2)
        model, ids = kind(config).eval(), torch.randint(14, 48, (1, 5))
        moved = attention.influence(lambda x, model=model: model(x).states, ids)
        assert bool(moved.triu(1).any()) == leaks


# -- lesson 02 -------------------------------------------------------------------------------------

CORPUS = {
    "strings": ["last : cat sun => sun .", "last : sun cat tree => tree .", "copy : sun => sun ."],
    "facts": ["rome is in italy ."],
}


def test_the_floor_of_a_puzzle_is_minus_log_of_its_probability(loaded):
    _, tokenizer = loaded
    floor = pretraining.PuzzleFloor(CORPUS, tokenizer)
    shares = pretraining.first_words(CORPUS["strings"])
    assert shares == {"last": 2 / 3, "copy": 1 / 3} and floor.nouns == {"cat", "sun", "tree"}
    prices = floor("last : cat sun => sun .", shares)
    assert len(prices) == len(tokenizer.tokenize("last : cat sun => sun .")) + 1
    # two of three puzzles, one of three lengths, two nouns of three in their order
    assert math.isclose(sum(prices), -math.log(2 / 3 * 1 / 3 * 1 / (3 * 2)))
    assert prices[1] == 0 and not any(prices[5:])


def test_what_a_model_pays_is_its_loss(loaded):
    model, tokenizer = loaded
    texts = ["the capital of france is paris .", "cat sun =>"]
    paid = pretraining.prices(model, tokenizer, texts)
    for text, row in zip(texts, paid, strict=True):
        ids = torch.tensor([tokenizer.encode(text) + [tokenizer.eos_token_id]])
        loss = model(ids, labels=ids).loss.item()
        assert len(row) == ids.shape[1] - 1 and loss == pytest.approx(sum(row) / len(row), rel=1e-4)
    assert pretraining.mean_price(model, tokenizer, texts) == pytest.approx(pretraining.mean(paid))


def test_counted_words_and_pairs_are_probabilities(loaded):
    _, tokenizer = loaded
    counts = pretraining.Counts(CORPUS, tokenizer)
    sun = tokenizer.convert_tokens_to_ids("sun")
    words = range(len(tokenizer))
    assert math.isclose(sum(counts.word(sun, b) for b in words), 1)
    assert math.isclose(sum(counts.pair(sun, b) for b in words), 1)
    assert counts.singles[sun] == Counter(" ".join(CORPUS["strings"]).split())["sun"]
    assert counts.price(counts.pair, CORPUS["strings"]) < counts.price(
        counts.word, CORPUS["strings"]
    )


def test_an_interval_of_a_share_is_wilsons():
    low, high = pretraining.wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert pretraining.wilson(0.0, 10)[0] == 0 and pretraining.wilson(1.0, 10)[1] == 1
    assert pretraining.wilson(0.0, 10)[1] == pytest.approx(0.2775, abs=1e-3)
