"""What lesson 16 measures, by other ways."""

from __future__ import annotations

import pytest
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft.course import checkpoints, runs


@pytest.fixture
def one():
    model, tokenizer = tt.load("tiny-decoder-0.1m")
    return checkpoints.Opened("small", model, tokenizer, real=False)


@pytest.fixture
def batch(one):
    return runs.rows_of(mp.tasks.load("reverse"), "dev", one.tokenizer, one.model, rows=4)


def test_without_real_models_the_projects_own_are_opened():
    models = checkpoints.opened(real=False)
    assert {kind: one.title for kind, one in models.items()} == {
        "decoder": "tiny-decoder",
        "encoder": "tiny-encoder",
    }
    assert not any(one.real for one in models.values())
    assert models["encoder"].model.head.classes.weight.shape[0] == 2


def test_where_they_are_not_fetched_a_sentence_says_so(monkeypatch, capsys):
    monkeypatch.setenv("MINIPEFT_REAL", "0")
    models = checkpoints.opened(real=True)
    assert models["decoder"].title == "tiny-decoder"
    assert capsys.readouterr().out.count("Left out") == 2


def test_every_method_leaves_the_model_as_it_was(one, batch):
    bits = mp.fingerprint(one.model)
    methods = {
        "LoRA": mp.LoRA(rank=2),
        "full": mp.FullFineTuning(),
        "wrong": mp.LoRA(targets=("x",)),
    }
    table, measured = checkpoints.every_method(one, methods, batch, 2, {"full": 1e-4})
    assert mp.fingerprint(one.model) == bits and not mp.tuners(one.model)
    with runs.attached(one.model, methods["LoRA"]) as tuner:
        count = sum(parameter.numel() for parameter in tuner.parameters())
    assert measured["LoRA"]["trained"] == measured["LoRA"]["stored"] == count
    assert measured["full"]["trained"] == sum(p.numel() for p in one.model.parameters())
    assert measured["LoRA"]["before"] == measured["full"]["before"]
    assert measured["full"]["after"] < measured["full"]["before"]
    assert set(measured["wrong"]) == {"refused"} and len(table.rows) == 3


def test_three_at_once_is_each_alone(one, batch):
    three = {"LoRA": mp.LoRA(rank=2), "adapter": mp.Adapter(4), "prefix": mp.Prefix(3, hidden=None)}
    assert 0 < checkpoints.three_at_once(one, three, batch) < 1e-5


def test_what_is_right_agrees_with_the_runs_of_other_lessons(one, batch):
    seen = checkpoints.right(one.model, batch)
    loss, exact = runs.loss_and_exact(one.model, batch)
    assert seen["loss"] == pytest.approx(loss) and seen["sentences"] == exact
    logits = one.model(**batch).logits
    hits = [
        int(logits[row, t - 1].argmax()) == label
        for row, labels in enumerate(batch["labels"].tolist())
        for t, label in enumerate(labels)
        if label != -100
    ]
    assert seen["words"] == pytest.approx(sum(hits) / len(hits))


def test_a_kept_trunk_costs_less(one):
    """Blocks that are called in a step after the first epoch, counted, not timed."""
    feed = mp.tasks.load("reverse").batches("train", one.tokenizer, batch_size=2)
    calls = []
    one.model.blocks[0].feed_forward.up.register_forward_hook(lambda *_: calls.append(0))
    counts = {}
    for kept in (False, True):
        calls.clear()
        arms = {"top": (mp.LoRA(rank=1, layers=(1,)), kept)}
        assert checkpoints.step_ratios(one.model, arms, [feed(0), feed(1)], 1) == {"top": [1.0]}
        counts[kept] = len(calls)
    assert counts[False] >= 6 and counts[False] - counts[True] >= 2  # of the later epochs


def test_the_names_are_those_of_the_modules(one):
    table = checkpoints.names_table({"small": one.model}, ("query", "gate"))
    assert table.rows == [("block", "blocks.0"), ("query", "attention.query"), ("gate", "-")]


def test_strangers_have_the_names_of_their_library():
    models = checkpoints.strangers()
    if not models:
        pytest.skip("transformers is not installed")
    block, row = checkpoints.names_table(models, ("value",)).rows
    assert block[1] == "transformer.h.0" and block[2].endswith("layers.0")
    assert row[1].startswith("attn.c_attn, ") and "v_proj" in row[2]


def test_files_go_to_peft_and_back():
    """On models of transformers, as in the lesson on real ones."""
    peft = pytest.importorskip("peft")
    assert peft
    model = checkpoints.strangers()["GPT-2"]
    one = checkpoints.Opened("GPT-2", model, None, real=True)
    words = {"input_ids": torch.arange(12).reshape(2, 6), "attention_mask": torch.ones(2, 6).long()}
    methods = {
        "LoRA": mp.LoRA(rank=2),
        "prefix": mp.Prefix(3, hidden=None, compatibility="peft"),
        "prompt": mp.PromptTuning(3, compatibility="peft"),
    }
    bits = mp.fingerprint(model)
    table = checkpoints.opened_by_peft(one, methods, words)
    assert [row[0] for row in table.rows] == list(methods)
    for _, moved, in_peft, back in table.rows:
        assert float(moved.split()[0]) > 0.1
        assert float(in_peft.split()[0]) < 1e-2 and float(back.split()[0]) < 1e-2
    assert mp.fingerprint(model) == bits and not mp.tuners(model)


def test_the_shares_are_drawn(one):
    from matplotlib import pyplot

    seen = {"LoRA": {"trained": 100}, "BitFit": {"refused": "no biases"}}
    figure = checkpoints.shares_chart(
        {"decoder": seen, "encoder": dict.fromkeys(seen, seen["LoRA"])},
        {"decoder": one, "encoder": one},
    )
    marks = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    count = sum(parameter.numel() for parameter in one.model.parameters())
    assert len(marks) == 3 and marks[0].get_xdata()[0] == 100 / count
    pyplot.close(figure)


def test_the_text_of_ratios():
    assert checkpoints.middle([1.0, 3.0, 2.0]) == "2.00 (1.00-3.00)"
