"""Runs that lessons share: the base is borrowed, and what is measured is what it says."""

import pytest
import torch

import minipeft as mp
from minipeft.course import runs
from minipeft.course.experiments import contest

NAME = "tiny-decoder-0.1m"
METHODS = {
    "lora": mp.LoRA(rank=2),
    "prompt": mp.PromptTuning(length=3),
    "prefix": mp.Prefix(length=3),
    "adapter": mp.Adapter(bottleneck=4),
    "full": mp.FullFineTuning(),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_run_measures_and_gives_the_base_back(method):
    model, tokenizer = runs.base(NAME)
    before = mp.fingerprint(model)
    known = runs.Known(model, tokenizer, rows=4)
    measured = runs.tuned_task(
        NAME, method, "reverse", 1e-2, 2, seed=1, rows=6, known=known, ood=True
    )
    assert mp.fingerprint(model) == before and not hasattr(model, "minipeft")
    assert measured["dev"] > 0 and {"test", "ood", "forgotten", "facts", "strings"} <= set(measured)
    tuner = mp.attach(model, method, seed=1)
    assert measured["trained"] == sum(p.numel() for p in tuner.parameters())
    assert measured["stored"] == 4 * tuner.report().stored  # float32
    tuner.detach()


def test_a_run_that_fails_leaves_no_tuner_behind():
    model, _ = runs.base(NAME)
    before = mp.fingerprint(model)
    with pytest.warns(UserWarning, match="failed"):
        outcomes = contest(
            {"full": [1e30]},
            lambda name, rate, seed: runs.tuned_task(
                NAME, METHODS[name], "reverse", rate, 4, seed, rows=4, clip=None
            ),
            [0],
        )
    assert outcomes["full"].failed == 1
    assert mp.fingerprint(model) == before and not hasattr(model, "minipeft")


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_one_pass_tells_what_writing_gets_right(method):
    model, tokenizer = runs.base("tiny-decoder-0.4m")
    task = mp.tasks.load("copy")
    # the trained skill is there when its name is: half of the rows call it
    asked = [
        (("copy : " if i % 2 else "") + row, out) for i, (row, out) in enumerate(task.test[:24])
    ]
    task = mp.tasks.make("copy", "generate", test=asked)
    with runs.attached(model, METHODS[method], seed=0):
        written = task.score(model, tokenizer, "test")["exact"]
        share = runs.quality(model, tokenizer, task, "test")
    assert share == pytest.approx(written)


def test_encoders_and_fresh_heads():
    measured = runs.tuned_task(
        "tiny-encoder", mp.LoRA(rank=2), "review-label", 1e-3, 1, 0, head="classification", rows=6
    )
    assert 0 <= measured["test"] <= 1
    model, tokenizer = runs.base("tiny-encoder")
    with pytest.raises(ValueError, match="give a decoder"):
        runs.Known(model, tokenizer)
    tags = runs.tuned_task("tiny-encoder", mp.BitFit(), "tags", 1e-3, 1, 0, head="tagging", rows=4)
    assert tags["dev"] > 0


def test_without_a_method_the_base_is_measured():
    model, tokenizer = runs.base(NAME)
    known = runs.Known(model, tokenizer, rows=4)
    measured = runs.tuned_task((model, tokenizer), None, "reverse", 0, 0, 0, rows=4, known=known)
    assert measured["forgotten"] == 0 and measured["trained"] == 0


def test_side_by_side_is_the_same_as_one_after_the_other():
    methods = {"r2": mp.LoRA(rank=2), "r4": (mp.LoRA(rank=4, targets=("value",)), None)}
    arms = {"r2": [1e-3, 3e-3], "r4": [1e-3]}
    together = contest(
        arms,
        runs.side_by_side(NAME, methods, "reverse", 3, rows=8),
        [0, 1],
        extend=0,
        together=True,
    )
    alone = contest(
        arms,
        lambda name, rate, seed: runs.tuned_task(
            NAME,
            methods[name][0] if name == "r4" else methods[name],
            "reverse",
            rate,
            3,
            seed,
            rows=8,
        ),
        [0, 1],
        extend=0,
    )
    for name in arms:
        assert together[name].rate == alone[name].rate
        # float32, losses of about 5 nats, three steps of Adam
        assert together[name].values("dev") == pytest.approx(alone[name].values("dev"), abs=1e-4)
    one = together["r4"].runs[0]
    assert len(one["losses"]) == 3
    assert {path.rpartition(".")[2] for path in one["deltas"]} == {"value"}
    assert all(torch.linalg.matrix_rank(change) == 4 for change in one["deltas"].values())
    assert torch.is_grad_enabled()
