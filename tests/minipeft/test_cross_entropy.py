"""Cross-entropy that fills one tensor less on its way back is torch's cross-entropy."""

import pytest
import torch
import zoo
from closeness import close
from torch.nn import functional as F

import minipeft as mp
from minipeft.routing import wrap
from minipeft.training import loss as training
from minipeft.training.savings.cross_entropy import (
    lean_loss,
    mean_cross_entropy,
    summed_cross_entropy,
)
from minipeft.training.savings.labelled_positions import labelled_loss

LABELS = {
    "all asked": [0, 3, 6, 2, 2],
    "some asked": [0, -100, 6, -100, 2],
    "none asked": [-100, -100, -100, -100, -100],
}


@pytest.mark.parametrize("scale", [1.0, 1e4])  # with 1e4 every p but one is zero
@pytest.mark.parametrize("labels", LABELS)
def test_values_and_gradients_are_torchs(labels, scale):
    logits = (scale * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    targets, results = torch.tensor(LABELS[labels]), []
    for way in (summed_cross_entropy, lambda *pair: F.cross_entropy(*pair, reduction="sum")):
        loss = way(logits, targets)
        results.append((loss, *torch.autograd.grad(loss / 3, logits)))
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)


def test_logits_are_left_as_they_are_and_a_second_way_back_gives_the_same():
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    before = logits.detach().clone()
    loss = summed_cross_entropy(logits, torch.tensor(LABELS["some asked"]))
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(logits, before) and torch.equal(first, second)


def test_one_tensor_less_is_filled_on_the_way_back():
    """Bytes of what is asked for on the way back, in tensors of the logits' size."""
    from torch.profiler import ProfilerActivity, profile

    n, V = 64, 1000
    targets, filled = torch.arange(n), []
    for way in (summed_cross_entropy, lambda *pair: F.cross_entropy(*pair, reduction="sum")):
        loss = way(torch.randn(n, V, requires_grad=True), targets)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            loss.backward()
        asked = (event.self_cpu_memory_usage for event in seen.events())
        filled.append(sum(size for size in asked if size > 0) // (4 * n * V))
    assert filled == [1, 2]


@pytest.mark.parametrize("labels", ["all asked", "some asked"])
def test_the_mean_is_torchs(labels):
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor(LABELS[labels])
    close(mean_cross_entropy(logits, targets), F.cross_entropy(logits, targets))


# ---- in place of a model's loss ----


@pytest.mark.parametrize("method", [mp.LoRA(rank=2), mp.Prefix(length=2), None], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gpt_neox"])
def test_a_causal_models_loss_and_gradients_to_the_bit(name, method):
    """The same sums in the same order: float32 has the same bits."""
    model, batch = zoo.build(name, dtype=torch.float32).train(), zoo.batch(name)
    if method:
        zoo.shake(mp.attach(model, method, seed=0))
    parameters = [p for p in model.parameters() if p.requires_grad]
    results = []
    for loss in (lean_loss(model, batch), model(**batch).loss):
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        results.append((loss.detach(), *(g for g in gradients if g is not None)))
    assert len(results[0]) == len(results[1]) > 1
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_train_takes_it_where_every_token_has_a_label(monkeypatch):
    taken, model = [], zoo.build("gpt2")
    batch = zoo.batch("gpt2")
    batch["labels"] = batch["input_ids"].clone()
    mp.attach(model, mp.LoRA(rank=2), seed=0)
    assert labelled_loss(model, batch) is None

    def choose(model, batch):
        taken.append(lean_loss(model, batch))
        return taken[-1]

    monkeypatch.setattr(training, "lean_loss", choose)
    mp.train(model, [batch], 2, 1e-3, progress=False)
    assert len(taken) == 2 and None not in taken


def doubled(logits, labels, **_):
    return 2 * F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@pytest.mark.parametrize(
    "why", ["class", "pair", "encoder", "tiny", "routed", "experts", "own loss", "count", "device"]
)
def test_any_other_loss_is_the_models(why):
    name = {"pair": "bart", "encoder": "bert", "tiny": "tiny-decoder"}.get(why, "gpt2")
    head = "classification" if why == "class" else "language"
    model, batch = zoo.build(name, head), zoo.batch(name, head)
    mp.attach(model, mp.LoRA(rank=1), seed=0)
    if why == "experts":
        model.config.output_router_logits = True
    if why == "own loss":
        model.loss_function = doubled
    if why == "count":  # transformers divides the sum by it
        batch["num_items_in_batch"] = 5
    if why == "device":
        model, batch = model.to("meta"), {k: v.to("meta") for k, v in batch.items()}
    with mp.route(model, [None, "default", None] if why == "routed" else ["default"] * 3):
        if why != "routed":
            model.minipeft.routing = None
        assert lean_loss(model, wrap(model, batch)) is None


def test_a_loss_that_is_divided_by_another_count_is_the_models_where_little_is_asked():
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    batch["labels"][:, :5] = -100
    assert labelled_loss(model, batch) is not None
    batch["num_items_in_batch"] = 5
    assert labelled_loss(model, batch) is None
