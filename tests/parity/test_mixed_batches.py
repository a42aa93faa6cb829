"""One batch, a method per row: every row as if it were alone. And what merging leaves behind."""

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
from minipeft.analysis import support

ROUTED = [name for name in support.METHODS if name not in ("FullFineTuning", "TopLayers")]
NAMES = (
    "tiny-decoder",
    "tiny-encoder",
    "tiny-encoder-decoder",
    "gpt2",
    "bert",
    "t5",
    "bart",
    "llama",
)


def methods_on(name: str, head: str) -> list[str]:
    supported = {c.method for c in support.cells() if c.architecture == name and c.why_not is None}
    return [method for method in ROUTED if method in supported]


def attach_all(model, names: list[str]) -> dict[str, mp.Tuner]:
    """Every method under its own name, doing something."""
    tuners = {}
    for number, name in enumerate(names):
        tuners[name] = mp.attach(model, support.METHODS[name], name=name, seed=number)
        zoo.shake(tuners[name], seed=number)
    return tuners


def rows_of(name: str, head: str, rows: int) -> dict:
    """A batch without padding, so that every row has the same own tokens."""
    batch = zoo.batch(name, head, rows=rows)
    one = zoo.batch(name, head, rows=1)
    batch["input_ids"] = one["input_ids"].repeat(rows, 1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    if head == "language":
        batch["labels"] = batch["input_ids"]
    return {k: v for k, v in batch.items() if k != "labels" or name in zoo.SEQ2SEQ}


@pytest.mark.parametrize("head", ["language", "classification"])
@pytest.mark.parametrize("name", NAMES)
def test_every_method_in_one_batch(name, head):
    names = methods_on(name, head)
    model, batch = zoo.build(name, head), rows_of(name, head, len(names) + 1)
    if head == "classification":
        batch.pop("labels", None)
    one = {key: value[:1] for key, value in batch.items()}
    base = zoo.logits(model, one)
    alone = {}
    for number, method in enumerate(names):
        tuner = mp.attach(model, support.METHODS[method], name=method, seed=number)
        zoo.shake(tuner, seed=number)
        alone[method] = zoo.logits(model, one)
        tuner.detach()
    attach_all(model, names)
    with mp.route(model, [*names, None]):
        together = zoo.logits(model, batch)
    for row, method in enumerate(names):
        T = alone[method].shape[1]  # prompts included
        close(together[row, :T], alone[method][0])
        assert not torch.equal(alone[method][0, -1], base[0, -1]), "it does something"
    T = base.shape[1]
    close(together[-1, :T], base[0])


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "t5"])
def test_generation_of_a_mixed_batch(name):
    names = [m for m in ("LoRA", "Prefix", "PromptTuning", "Adapter", "IA3")]
    model = zoo.build(name)
    ids = zoo.batch(name, rows=1, tokens=5)["input_ids"].clamp(min=3)
    mask = torch.ones_like(ids)
    tuners = attach_all(model, names)
    separate = []
    for method in names:
        for other, tuner in tuners.items():
            tuner.enable() if other == method else tuner.disable()
        separate.append(mp.generate(model, ids, mask, max_new_tokens=4)[0])
    for tuner in tuners.values():
        tuner.enable()
    with mp.route(model, names):
        many = ids.repeat(len(names), 1)
        together = mp.generate(model, many, torch.ones_like(many), max_new_tokens=4)
    for written, expected in zip(together, separate, strict=True):
        T = min(len(written), len(expected))  # a row that has ended is filled up
        assert torch.equal(written[:T], expected[:T])


@pytest.mark.parametrize("method", ["LoRA", "DoRA", "PiSSA", "AdaLoRA", "IA3"])
@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "llama"])
def test_merged_adds_no_operation(name, method):
    """The very modules of the base, the very operations, the answers of the tuner."""
    model, batch = zoo.build(name), zoo.batch(name)
    before = [(path, type(module)) for path, module in model.named_modules()]
    tuner = mp.attach(model, support.METHODS[method], seed=0)
    zoo.shake(tuner)
    expected = zoo.logits(model, batch)
    tuner.merge()
    assert [(path, type(module)) for path, module in model.named_modules()] == before
    close(zoo.logits(model, batch), expected)
    assert operations(model, batch) == operations(zoo.build(name), batch)


def operations(model, batch) -> list[str]:
    """Every operation that a forward pass calls, in its order."""
    from torch.utils._python_dispatch import TorchDispatchMode

    called = []

    class Listen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    plain = {k: v for k, v in batch.items() if k != "labels"}
    with torch.no_grad(), Listen():
        model.forward(**plain)
    return called
