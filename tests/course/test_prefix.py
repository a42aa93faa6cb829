"""Prefix-tuning looked at closely: each number against one that is known another way."""

import math

import pytest
import torch
from closeness import close
from tiny_models import fresh, padded, scrambled, words

import minipeft as mp
from minipeft.course import prefix


def batch_of(model, lengths=(6, 4)):
    """Rows of unequal length, padded on the right, everything asked."""
    ids, mask = padded([words(1, n, seed=n)[0] for n in lengths], "right")
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def test_the_share_is_p_of_all_keys_where_no_score_differs():
    """With queries of zero every key that is seen gets the same weight: P / (P + t + 1)."""
    model, P = fresh("gpt2"), 3
    for block in model.blocks:
        torch.nn.init.zeros_(block.attention.query.weight)
        torch.nn.init.zeros_(block.attention.query.bias)
    tuner = mp.attach(model, mp.Prefix(P, None, std=1.0), seed=0)
    share = prefix.prefix_share(model, tuner, batch_of(model, (6, 4)))
    places = [*range(6), *range(4)]  # of the real tokens
    expected = sum(P / (P + t + 1) for t in places) / len(places)
    assert share.shape == (2, 2)
    close(share, torch.full((2, 2), expected, dtype=torch.float64))
    assert not any(b.attention.base.keep_weights for b in model.blocks)


def test_the_share_of_a_model_of_transformers_is_the_same():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=24)
    model, P = GPT2LMHeadModel(config).eval(), 3
    model.set_attn_implementation("eager")
    for block in model.transformer.h:
        torch.nn.init.zeros_(block.attn.c_attn.weight)
        torch.nn.init.zeros_(block.attn.c_attn.bias)
    tuner = mp.attach(model, mp.Prefix(P, None, std=1.0), seed=0)
    share = prefix.prefix_share(model, tuner, batch_of(model, (5, 5)))
    expected = sum(P / (P + t + 1) for t in range(5)) / 5
    assert torch.allclose(share, torch.full((2, 2), expected), atol=1e-6)


def test_every_patient_shows_its_symptom():
    model = scrambled("gpt2")
    batch, bits = batch_of(model), mp.fingerprint(model)
    seen = {cause: prefix.examine(model, batch, who) for who, cause in prefix.PATIENTS.items()}
    assert mp.fingerprint(model) == bits and not hasattr(model, "minipeft")
    healthy = seen["healthy"]
    assert 0.05 < healthy["share"] < 0.99 and healthy["keys"] > 0 and healthy["values"] > 0
    mask = seen["mask"]
    assert mask["share"] == 0 and abs(mask["loss"]) < 1e-9
    assert mask["keys"] == mask["values"] == 0
    detached = seen["detached"]
    assert detached["share"] == healthy["share"] and detached["loss"] == healthy["loss"]
    assert detached["keys"] == detached["values"] == 0
    assert seen["size"]["share"] > 0.9 and seen["size"]["loss"] > healthy["loss"]
    assert [cause for cause, row in seen.items() if not row["same base"]] == ["base"]
    rows = prefix.patients_table(model, batch).rows
    assert [row[0] for row in rows] == [*prefix.PATIENTS] and rows[3][-1] == "no"


def test_a_hidden_prefix_changes_no_output_and_a_read_one_changes_all():
    model = scrambled("gpt2")
    batch = batch_of(model)
    tuner = mp.attach(model, mp.Prefix(3, None, std=1.0), seed=0)
    assert min(prefix.output_changes(model, tuner, batch)) > 0
    for _, patch in tuner.patches:
        patch.since = torch.full((2,), 99)
    assert max(prefix.output_changes(model, tuner, batch)) < 1e-10


def test_nearest_is_the_largest_cosine():
    table = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    cosines = prefix.nearest(torch.tensor([[3.0, 3.0], [0.0, 5.0], [-2.0, 0.0]]), table)
    assert torch.allclose(cosines, torch.tensor([1 / math.sqrt(2), 1.0, 1 / math.sqrt(2)]))


def test_words_as_pairs_are_the_start_at_a_word():
    model = scrambled("gpt2")
    tuner = mp.attach(model, mp.Prefix(1, None, start=(17,)), seed=0)
    patch = tuner.patches[0][1]
    row = patch.encoder(patch.columns).detach()
    tuner.detach()
    close(prefix.words_as_pairs(model, torch.tensor([16, 17]))[1:], row)


@pytest.mark.parametrize(
    ("method", "longest"),
    [
        (None, 24),
        (mp.PromptTuning(5), 19),
        (mp.Prefix(5, None), 24),
        (mp.Prefix(5, None, compatibility="peft"), 19),
    ],
)
def test_positions_are_lost_to_what_stands_before_the_text(method, longest):
    model = scrambled("gpt2")
    assert prefix.longest_input(model, method) == longest
    assert not hasattr(model, "minipeft")


def test_the_gradient_passes_every_frozen_layer():
    model = scrambled("gpt2", layers=3).requires_grad_(False)
    norms, touched = prefix.gradient_path(model, batch_of(model))
    assert len(norms) == 3 and min(norms) > 0 and touched == 0
    assert not hasattr(model, "minipeft")


def test_few_examples_are_other_ones_for_every_seed():
    every = mp.tasks.load("reverse")
    one, two, again = (prefix.few_examples("reverse", 10, seed) for seed in (0, 1, 0))
    assert one.train == again.train != two.train
    assert len(set(one.train)) == 10 and set(one.train) <= set(every.train)
    assert one.test == every.test and one.dev == every.dev
