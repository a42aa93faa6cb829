"""The frozen blocks below what is trained: run once per batch, and the numbers are the same."""

import pytest
import torch
import zoo
from closeness import LOSS, close

import minipeft as mp
from minipeft.training.savings import kept_trunk

TOP = mp.LoRA(rank=2, layers=(1,))
# (model, method, blocks that are frozen: of an encoder-decoder also those of its encoder)
CASES = [
    *((name, TOP, 1) for name in ("tiny-decoder", "tiny-encoder", "gpt2", "bert", "llama", "opt")),
    *((name, mp.TopLayers(1), 3) for name in ("tiny-encoder-decoder", "bart", "t5")),
    *((name, TOP, 1) for name in ("tiny-encoder-decoder", "t5", "bart")),
    ("gpt2", mp.Prefix(length=2, hidden=None, layers=(1,)), 1),
    ("tiny-decoder", mp.HeadOnly(), 2),
]


def batches(name):
    """Three batches, of other sizes and paddings."""
    return [zoo.batch(name, rows=rows, seed=rows) for rows in (2, 3, 4)]


def run(name, method, **options):
    model = zoo.build(name)
    tuner = mp.attach(model, method, seed=0)
    history = mp.train(model, batches(name), 8, 1e-2, progress=False, **options)
    return model, history, [parameter.detach().clone() for parameter in tuner.parameters()]


@pytest.mark.parametrize("name, method, frozen", CASES, ids=lambda part: str(part)[:20])
def test_the_same_losses_and_weights(name, method, frozen, monkeypatch):
    made = []
    whole = kept_trunk.Trunk
    monkeypatch.setattr(kept_trunk, "Trunk", lambda *a: made.append(whole(*a)) or made[-1])
    _, plain, expected = run(name, method)
    _, kept, weights = run(name, method, keep_trunk=True)
    close(kept.losses, plain.losses, dtype=torch.float32, roundings=LOSS)
    for one, other in zip(weights, expected, strict=True):
        close(one, other)
    assert len(made[0].frozen) == frozen and set(made[0].kept) == {0, 1, 2}


def test_frozen_blocks_run_once_per_batch_and_afterwards_as_before():
    model = zoo.build("gpt2")
    mp.attach(model, TOP, seed=0)
    turns = []
    attention = model.transformer.h[0].attn
    attention.register_forward_hook(lambda *_: turns.append(1))
    before = zoo.logits(model, zoo.batch("gpt2"))
    turns.clear()
    mp.train(model, batches("gpt2"), 9, 1e-2, progress=False, keep_trunk=True)
    assert len(turns) == 1 + 3  # to see what is frozen, then each batch once
    mp.tuners(model)["default"].detach()
    assert torch.equal(zoo.logits(model, zoo.batch("gpt2")), before)  # LoRA starts at the base
    assert len(turns) == 5 and "forward" not in vars(model.transformer.h[0])


def test_what_is_told_is_what_is_kept(capsys):
    model = zoo.build("tiny-decoder")
    mp.attach(model, TOP, seed=0)
    given = batches("tiny-decoder")
    mp.train(model, given, 4, 1e-2, keep_trunk=True)
    size = sum(batch["input_ids"].numel() for batch in given) * 16 * 8  # C 16, float64
    printed = capsys.readouterr().out
    assert "1 frozen blocks run once for each of 3 batches" in printed
    assert f"what they give is kept: {size / 2**20:.1f} MiB" in printed
    trunk = kept_trunk.Trunk(model.train(), given, dict)
    assert trunk.bytes == size


def test_the_evaluation_is_not_given_what_was_kept():
    """It has other batches."""
    model = zoo.build("tiny-decoder")
    mp.attach(model, TOP, seed=0)
    other = zoo.batch("tiny-decoder", rows=5, seed=9)
    history = mp.train(
        *(model, batches("tiny-decoder"), 6, 1e-2),
        keep_trunk=True,
        evaluate=lambda model: -model(**other).loss.item(),
        evaluate_every=6,
        progress=False,
    )
    with torch.no_grad():
        assert -model.eval()(**other).loss.item() == history.evaluations[-1]["score"]


@pytest.mark.parametrize("why", ["first block", "words", "dropout", "function"])
def test_where_it_cannot_be_kept(why):
    model = zoo.build("tiny-decoder", dropout=0.1 if why == "dropout" else 0.0)
    method = {"first block": mp.LoRA(rank=1), "words": mp.PromptTuning(length=2)}.get(why, TOP)
    mp.attach(model, method, seed=0)
    given = batches("tiny-decoder")
    said = {"dropout": "dropout off", "function": "batches in a list"}.get(why, "nothing to keep")
    with pytest.raises(ValueError, match=said):
        data = (lambda step: given[0]) if why == "function" else given
        mp.train(model, data, 2, 1e-2, progress=False, keep_trunk=True)
