"""Mean pooling: heads that read place 0 read the mean of a text's own tokens there."""

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
from minipeft.model.pooling import mean_of_tokens, pool_by_mean

ENCODERS = [name for name in zoo.ENCODERS if name not in zoo.TINY]


def test_the_mean_is_that_of_the_tokens_that_are_no_padding():
    h, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 1], [0, 1, 0]])
    close(mean_of_tokens(h, mask), torch.stack([h[0].mean(dim=0), h[1, 1]]))


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_every_encoder_s_head_reads_it(name):
    model, batch = zoo.build(name, "classification"), zoo.batch(name, "classification")
    ids, ones = batch["input_ids"], torch.ones_like(batch["input_ids"])
    plain = model(input_ids=ids, attention_mask=ones).logits
    first = torch.zeros_like(ids).scatter(1, ids.new_zeros(len(ids), 1), 1)
    alone = model(input_ids=ids[:, :1], attention_mask=first[:, :1]).logits
    handle = pool_by_mean(model)
    assert (model(input_ids=ids, attention_mask=ones).logits - plain).abs().max() > 1e-4
    close(model(input_ids=ids[:, :1], attention_mask=first[:, :1]).logits, alone)  # its own mean
    handle.remove()
    assert torch.equal(model(input_ids=ids, attention_mask=ones).logits, plain)


@torch.no_grad()
def test_by_hand_through_bert_s_pooler():
    model, batch = zoo.build("bert", "classification"), zoo.batch("bert", "classification")
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": torch.ones_like(batch["input_ids"]),
    }
    inputs["attention_mask"][0, 4:] = 0
    h = model.bert(**inputs).last_hidden_state
    u = torch.stack([h[0, :4].mean(dim=0), *h[1:].mean(dim=1)])
    pool_by_mean(model)
    close(model(**inputs).logits, model.classifier(torch.tanh(model.bert.pooler.dense(u))))


@pytest.mark.parametrize(
    "method", [mp.LoRA(rank=2), mp.PromptTuning(length=3), mp.Prefix(length=3)]
)
def test_padding_moves_nothing_and_the_head_learns(method):
    model = zoo.build("bert", "classification")
    pool_by_mean(model)
    tuner = mp.attach(model, method, seed=0)
    ids = zoo.batch("bert", "classification", rows=1, tokens=4)["input_ids"]
    padded = torch.nn.functional.pad(ids, (0, 3))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 3))
    short = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    close(model(input_ids=padded, attention_mask=mask).logits, short)
    short.sum().backward()
    gradients = [p.grad for p in tuner.parameters()]
    assert any(grad is not None and bool(grad.any()) for grad in gradients)


@pytest.mark.parametrize("name", ["gpt2", "bart", "tiny-encoder"])
def test_other_models_are_refused(name):
    model = zoo.build(name, "classification")
    with pytest.raises(ValueError, match="cannot be pooled by the mean"):
        pool_by_mean(model)
