"""Cross-entropy in the memory of its logits is torch's cross-entropy."""

import pytest
import torch
import zoo
from closeness import close
from torch.nn import functional as F

import minipeft as mp
from minipeft.routing import wrap
from minipeft.training import loss as training
from minipeft.training.savings import cross_entropy
from minipeft.training.savings.cross_entropy import (
    lean_loss,
    mean_cross_entropy,
    summed_cross_entropy,
    unread,
)
from minipeft.training.savings.labelled_positions import labelled_loss

LABELS = {
    "all asked": [0, 3, 6, 2, 2],
    "some asked": [0, -100, 6, -100, 2],
    "none asked": [-100, -100, -100, -100, -100],
}


def on_its_way(loss, logits):
    """The loss and a third of its gradient."""
    return loss, *torch.autograd.grad(loss / 3, logits)


def fresh(n, V, dtype=torch.float64):
    """Logits (n, V) as a head gives them, the same each time, and what they are made of."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(n, 4, generator=generator, dtype=dtype).requires_grad_()
    return states @ torch.randn(4, V, generator=generator, dtype=dtype), states


@pytest.mark.parametrize("scale", [1.0, 1e4])  # with 1e4 every p but one is zero
@pytest.mark.parametrize("labels", LABELS)
def test_values_and_gradients_are_torchs(labels, scale):
    logits = (scale * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    targets, results = torch.tensor(LABELS[labels]), []
    for way in (summed_cross_entropy, lambda *pair: F.cross_entropy(*pair, reduction="sum")):
        results.append(on_its_way(way(logits, targets), logits))
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("rows", [1, 2, 5, 64])
@pytest.mark.parametrize("overwrite", [True, False])
def test_some_rows_at_a_time_give_the_same_bits(overwrite, rows, monkeypatch):
    """In float32, whether the logits are written over or not, of five rows or many."""
    n, V = 5, 1003
    monkeypatch.setattr(cross_entropy, "AT_ONCE", rows * V)
    targets, results = torch.tensor([0, 1002, -100, 500, 500]), []
    for way in (
        lambda *pair: summed_cross_entropy(*pair, overwrite),
        lambda *pair: F.cross_entropy(*pair, reduction="sum"),
    ):
        logits, states = fresh(n, V, torch.float32)
        results.append(on_its_way(way(logits, targets), states))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_logits_are_left_as_they_are_and_a_second_way_back_gives_the_same():
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    before = logits.detach().clone()
    loss = summed_cross_entropy(logits, torch.tensor(LABELS["some asked"]))
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(logits, before) and torch.equal(first, second)


def test_what_was_written_over_has_one_way_back():
    logits, states = fresh(5, 7)
    loss = summed_cross_entropy(logits, torch.tensor(LABELS["some asked"]), overwrite=True)
    torch.autograd.grad(loss, states, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, states)


def test_no_tensor_of_the_logits_size_is_asked_for_where_torch_asks_for_three():
    """log p, dL / dlog p and the gradient; two where others read the logits."""
    from torch.profiler import ProfilerActivity, profile

    n, V = 64, 100_000  # of which a fifth at a time
    targets, filled = torch.arange(n), []
    for way in (
        lambda *pair: summed_cross_entropy(*pair, overwrite=True),
        summed_cross_entropy,
        lambda *pair: F.cross_entropy(*pair, reduction="sum"),
    ):
        logits = torch.zeros(n, V).requires_grad_() * 1
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            torch.autograd.grad(way(logits, targets), logits)
        sizes = (event.self_cpu_memory_usage for event in seen.events())
        filled.append(sum(size >= 4 * n * V for size in sizes))
    assert filled == [0, 2, 3]


class Keeping(torch.nn.Linear):
    """A head that somebody wrote, who looks at what it gives."""

    def forward(self, x):
        self.seen = super().forward(x)
        return self.seen


@pytest.mark.parametrize(
    "why",
    [
        None,
        "hook",
        "everybody's hook",
        "class",
        "forward",
        "saved",
        "sum",
        "leaf",
        "rows",
        "device",
    ],
)
def test_only_what_nobody_else_reads_is_written_over(why):
    head = (Keeping if why == "class" else torch.nn.Linear)(8, 11, bias=False)
    model, handle = torch.nn.Sequential(torch.nn.Linear(4, 8), head), None
    if why == "hook":
        handle = head.register_forward_hook(lambda *_: None)
    if why == "everybody's hook":
        handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    if why == "forward":
        head.forward = lambda x: x @ head.weight.T
    try:
        logits = model(torch.randn(3, 5, 4))
    finally:
        allowed = unread(model, logits.flatten(0, 1))
        if handle:
            handle.remove()
    if why == "saved":  # the way back of tanh reads what it gave
        logits = logits.tanh()
    if why == "sum":
        logits = logits + 1
    if why == "leaf":
        logits = logits.detach().requires_grad_()
    if why == "rows":  # several of them in the same memory
        logits = logits[:1].expand(3, -1, -1)
    if why == "device":
        logits = logits.to("meta")
    if why in ("saved", "sum", "leaf", "rows", "device"):
        allowed = unread(model, logits if why == "rows" else logits.flatten(0, 1))
    assert allowed == (why is None)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "tiny-decoder"])
def test_what_a_hook_sees_of_the_logits_stays(name):
    """Who looks at the logits while a model trains finds logits, after the way back as well."""
    model, batch, seen = zoo.build(name), zoo.batch(name), []
    batch["labels"] = batch["input_ids"].clone()
    mp.attach(model, mp.LoRA(rank=2), seed=0)
    handle = model.register_forward_hook(lambda *call: seen.append(call[-1].logits))
    training.loss_of(model, batch).backward()
    handle.remove()
    close(seen[0].detach(), model(**batch).logits.detach(), dtype=seen[0].dtype)


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
