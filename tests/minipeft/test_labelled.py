"""The head only where something is asked: same loss, same gradients, only where that is true."""

import pytest
import torch
import zoo
from closeness import LOSS, close

import minipeft as mp
from minipeft.routing import wrap
from minipeft.training import loss as training
from minipeft.training.savings.labelled_positions import labelled_loss

DECODERS = ("tiny-decoder", "gpt2", "llama", "qwen2", "opt", "gpt_neox")


def asked(name, question=4, **options):
    """A batch whose first `question` columns are asked nothing; its last row has padding."""
    batch = zoo.batch(name, **options)
    batch["labels"][:, :question] = -100
    return batch


def both(model, batch):
    """(labelled loss, its gradients), (plain loss, its gradients)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    out = []
    batch = wrap(model, batch)
    for loss in (labelled_loss(model, batch), model(**batch).loss):
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        out.append((loss, [g for g in gradients if g is not None]))
    return out


@pytest.mark.parametrize("method", [mp.LoRA(rank=2), mp.PromptTuning(length=3), None], ids=str)
@pytest.mark.parametrize("name", [*DECODERS, "tiny-encoder"])
def test_the_same_loss_and_the_same_gradients(name, method):
    model, batch = zoo.build(name).train(), asked(name)
    if method:
        zoo.shake(mp.attach(model, method, seed=0))
    (loss, gradients), (plain, expected) = both(model, batch)
    close(loss, plain, dtype=torch.float32, roundings=LOSS)
    assert len(gradients) == len(expected) > 0
    for ours, theirs in zip(gradients, expected, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2"])
def test_rows_may_ask_in_different_places(name):
    model, batch = zoo.build(name), asked(name, question=5)
    batch["labels"][0] = batch["input_ids"][0]
    batch["labels"][0, 2:] = -100
    (loss, _), (plain, _) = both(model, batch)
    close(loss, plain, dtype=torch.float32, roundings=LOSS)


def test_a_padded_token_with_a_label_is_asked_nothing():
    model, batch = zoo.build("tiny-decoder"), asked("tiny-decoder")
    batch["labels"][-1] = 5
    (loss, _), (plain, _) = both(model, batch)
    close(loss, plain, dtype=torch.float32, roundings=LOSS)


def test_train_chooses_it_and_ends_with_the_same_numbers(monkeypatch):
    results = []
    for on in (True, False):
        model = zoo.build("tiny-decoder")
        tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
        seen = []

        def choose(model, batch, on=on, seen=seen):
            loss = labelled_loss(model, batch) if on else None
            seen.append(loss is not None)
            return loss

        monkeypatch.setattr(training, "labelled_loss", choose)
        history = mp.train(model, [asked("tiny-decoder")], 5, 1e-2, progress=False)
        assert seen == 5 * [on]
        results.append((history.losses, tuner.parameters()[0].detach()))
    close(results[0][0], results[1][0], dtype=torch.float32, roundings=LOSS)
    close(results[0][1], results[1][1])


@pytest.mark.parametrize("name", ["tiny-decoder", "tiny-encoder", "gpt2"])
def test_it_saves_the_head(name):
    """Of 28 tokens 6 answer, or 8: a column counts for all rows in transformers' models."""
    from torch.utils.flop_counter import FlopCounterMode

    model, batch, counts = zoo.build(name), zoo.batch(name, rows=4), []
    mp.attach(model, mp.LoRA(rank=2), seed=0)
    batch["labels"][:, :5] = -100
    for run in (lambda: labelled_loss(model, wrap(model, batch)), lambda: model(**batch).loss):
        with FlopCounterMode(display=False) as counter:
            run().backward()
        counts.append(counter.get_total_flops())
    n = {"tiny-decoder": 6, "tiny-encoder": 6, "gpt2": 8}[name]
    each = 2 * 16 * zoo.WORDS + (2 * 16 * 16 if name == "tiny-encoder" else 0)  # and BERT's dense
    assert counts[1] - counts[0] == 2 * each * (28 - n)  # forward, and backward to the states


@pytest.mark.parametrize("why", ["all", "class", "pair", "masked", "routed", "experts"])
def test_where_it_does_not_apply_the_plain_way_is_taken(why):
    name = {"pair": "bart", "masked": "bert"}.get(why, "gpt2")
    model = zoo.build(name, "classification" if why == "class" else "language")
    batch = zoo.batch(name, "classification") if why == "class" else asked(name)
    if why == "all":
        batch = zoo.batch(name, rows=1)
    mp.attach(model, mp.LoRA(rank=1), seed=0)
    if why == "experts":
        model.config.output_router_logits = True
    with mp.route(model, [None, "default", None] if why == "routed" else ["default"] * 3):
        if why != "routed":
            model.minipeft.routing = None
        assert labelled_loss(model, wrap(model, batch)) is None
