"""What people give to `train` as a batch: it works, or one sentence says what to do."""

import pytest
import torch
import zoo

import minipeft as mp
import tiny_transformer as tt
from minipeft.training.batches import beyond, classes_of, explained


def loss_after(batch, method=None, name="gpt2"):
    model = zoo.build(name, layers=1).double()
    mp.attach(model, method or mp.LoRA(rank=2), seed=0)
    history = mp.train(model, [batch], 2, 1e-2, progress=False)
    return history.losses


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


WRONG = {
    "has no input_ids, only attention_mask, labels": lambda b: {
        k: v for k, v in b.items() if k != "input_ids"
    },
    "has 'index', which the model does not take": lambda b: b | {"index": torch.arange(2)},
    "holds float32 in input_ids": lambda b: b | {"input_ids": b["input_ids"].float()},
    "holds float64 in labels": lambda b: b | {"labels": b["labels"].double()},
    r"but labels of \(\d+, \d+\)": lambda b: b | {"labels": b["labels"][:-1]},
    r"input_ids of the shape .* but labels of": lambda b: b | {"labels": b["labels"][:, :-1]},
    "the id -3 in input_ids": lambda b: b | {"input_ids": b["input_ids"] * 0 - 3},
    "has the label -5,": lambda b: b | {"labels": b["labels"] * 0 - 5},
    "has no tokens": lambda b: {k: v[:0] for k, v in b.items()},
    r"must be \(B, T\)": lambda b: {k: v[None] for k, v in b.items()},
}


TAKEN = ("has 'index'", "must be")  # by GPT-2 of transformers: any entry, rows in several axes
CASES = [("tiny-decoder", said) for said in WRONG]
CASES += [("gpt2", said) for said in WRONG if not said.startswith(TAKEN)]


@pytest.mark.parametrize(("name", "sentence"), CASES)
def test_what_is_wrong_with_a_batch_is_said_of_the_batch(name, sentence):
    model, batch = zoo.build(name, layers=1), zoo.batch(name)
    mp.attach(model, mp.LoRA(rank=2), seed=0)
    with pytest.raises(ValueError, match=sentence) as caught:
        mp.train(model, [WRONG[sentence](dict(batch))], 1, progress=False)
    assert "\n" not in str(caught.value)


def classifier(labels):
    model, tokenizer = tt.load("tiny-encoder", "classification", labels)
    task = mp.tasks.make("t", "classify", train=[("the cat", "x"), ("a dog", "y")])
    mp.attach(model, mp.LoRA(rank=2))
    return model, task.batches("train", tokenizer, "encoder", batch_size=2)(0)


def test_an_accelerator_is_asked_before_it_stops():
    """CUDA says "device-side assert" of an id that is not there, and then of everything."""
    model, batch = zoo.build("tiny-decoder", layers=1), zoo.batch("tiny-decoder")
    V = model.config.vocab_size
    tuner = mp.attach(model, mp.PromptTuning(length=2), seed=0)
    assert beyond(model, batch) is None and beyond(model, tuner.wrap(batch)) is None
    ids = batch["input_ids"].clone()
    for strange in (V + 2, -1):
        ids[0, 1] = strange
        with pytest.raises(ValueError, match=f"has the id {strange} in input_ids"):
            with explained(model.to("meta"), {"input_ids": ids}):
                raise AssertionError("the pass was begun")


def test_an_accelerator_is_asked_for_classes_before_it_stops():
    model, batch = classifier(2)
    others = [zoo.build(name, "tagging") for name in ("tiny-encoder", "bert")]
    batch["input_ids"] %= 48  # zoo's words
    for one in (model, zoo.build("bert", "classification"), *others):
        labels = batch["labels"]
        count = classes_of(one)
        for right in (labels, labels * 0 - 100, labels * 0 + count - 1):
            assert beyond(one, batch | {"labels": right}) is None
        for wrong in (count, -1):
            said = beyond(one, batch | {"labels": labels * 0 + wrong})
            assert f"has the label {wrong}, which the model's head does not have" in said


def test_classes_that_a_head_does_not_have():
    model, batch = classifier(2)
    for labels, sentence in [
        (batch["labels"] + 7, "has the label 8, which the model's head does not have"),
        (batch["labels"] - 5, "has the label -5, which"),
        (batch["labels"].float(), "holds float32 in labels"),
        (torch.eye(2), "holds float32 in labels"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            mp.train(model, [batch | {"labels": labels}], 1, progress=False)
    mp.train(model, [batch | {"labels": batch["labels"][:, None]}], 1, progress=False)


def test_numbers_in_a_column_are_numbers():
    """(B, 1) is compared with (B, 1), not each with each."""
    model, batch = classifier(1)
    flat = batch | {"labels": torch.tensor([1.0, -1.0])}
    column = flat | {"labels": flat["labels"][:, None]}
    losses = [mp.train(model, [b], 1, 1e-9, progress=False).losses for b in (flat, column)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_other_whole_numbers_of_numpy_and_a_mask_of_truths():
    batch = zoo.batch("gpt2")
    other = {k: v.numpy().astype("uint16") if k == "input_ids" else v for k, v in batch.items()}
    assert loss_after(other | {"attention_mask": batch["attention_mask"].bool()}) == loss_after(
        batch
    )


def test_what_is_no_model():
    for wrong in (None, 5, "gpt2"):
        with pytest.raises(TypeError, match="model must be a torch module"):
            mp.train(wrong, [], 1)
