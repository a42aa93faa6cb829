"""What people give to `train` as a batch: it works, or one sentence says what to do."""

import pytest
import torch
import zoo

import minipeft as mp


def loss_after(batch, method=None, name="gpt2"):
    model = zoo.build(name, layers=1).double()
    mp.attach(model, method or mp.LoRA(rank=2), seed=0)
    history = mp.train(model, [batch], 2, 1e-2, progress=False)
    return [record["loss"] for record in history.records]


KINDS = {
    "lists": lambda tensor: tensor.tolist(),
    "numpy": lambda tensor: tensor.numpy(),
    "int32": lambda tensor: tensor.int(),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("method", [mp.LoRA(rank=2), mp.PromptTuning(length=2)])
def test_a_batch_of_another_kind_trains_as_tensors_do(kind, method):
    batch = zoo.batch("gpt2")
    assert loss_after({k: kind(v) for k, v in batch.items()}, method) == loss_after(batch, method)


@pytest.mark.parametrize("method", [mp.LoRA(rank=2), mp.PromptTuning(length=2)])
@pytest.mark.parametrize("name", ["gpt2", "tiny-decoder", "t5"])
def test_a_batch_that_cannot_be_trained_on_gets_a_sentence(name, method):
    model, batch = zoo.build(name, layers=1), zoo.batch(name)
    mp.attach(model, method, seed=0)
    base = mp.fingerprint(model)
    ids = batch["input_ids"]
    wrong = {
        "no labels": {k: v for k, v in batch.items() if k != "labels"},
        r"input_ids must be \(B, T\)": {k: v[0] for k, v in batch.items()},
        "(has the id 5.* the model knows|The id 5.* is no word)": batch | {"input_ids": ids + 5000},
        "pad them to one length": batch | {"input_ids": [[1, 2, 3], [1, 2]]},
    }
    if name == "t5":  # it makes its decoder's input of the labels
        del wrong["no labels"]
    for sentence, bad in wrong.items():
        with pytest.raises(ValueError, match=sentence):
            mp.train(model, [bad], 1, progress=False)
    with pytest.raises(ValueError, match="learning_rate must be a number, not the text '1e-3'"):
        mp.train(model, [batch], 1, "1e-3", progress=False)
    assert mp.fingerprint(model) == base
    torch.testing.assert_close(zoo.logits(model, batch), zoo.logits(model, batch))
