"""A merge into half-precision weights says how much of the change is lost."""

import warnings

import pytest
import torch
import zoo

import minipeft as mp

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])


def said(tuner) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tuner.merge()
    return [str(warning.message) for warning in caught]


@HALVES
@pytest.mark.parametrize("name", ["gpt2", "llama"])  # Conv1D with parts, Linear
def test_the_share_is_that_of_the_weights_before_and_after(name, dtype):
    model = zoo.build(name).to(dtype)
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    zoo.shake(tuner, 0.02)
    modules = {place.path: place.module for place, _ in tuner.patches}
    before = {path: module.weight.detach().double() for path, module in modules.items()}
    goal = {path: weight.clone() for path, weight in before.items()}
    for place, patch in tuner.patches:
        delta = (patch.scale * patch.B.double() @ patch.A.double()).detach()
        whole = goal[place.path].T if name == "gpt2" else goal[place.path]  # (out, in), a view
        whole[slice(None) if place.columns is None else place.columns] += delta
    sentences = said(tuner)
    after = {path: module.weight.detach().double() for path, module in modules.items()}
    lost = sum((after[path] - goal[path]).square().sum() for path in goal)
    change = sum((goal[path] - before[path]).square().sum() for path in goal)
    share = float(lost / change) ** 0.5
    assert tuner.rounding == pytest.approx(share, rel=1e-3) and 1e-4 < share < 1
    assert len(sentences) == (share > 0.1)
    assert f"{share:.2g} of the change" in str(tuner.report())
    tuner.unmerge()
    assert "of the change" not in str(tuner.report())


@HALVES
@pytest.mark.parametrize(
    "method",
    [
        mp.LoRA(rank=2),
        mp.DoRA(rank=2),
        mp.VeRA(rank=4),
        mp.IA3(),
        mp.BitFit(),
        mp.QLoRA(rank=2),
        mp.HeadOnly(),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_change_that_half_precision_cannot_hold_is_told(method, dtype):
    for size, loud in ((1e-6, True), (0.3, False)):
        model = zoo.build("bert", "classification").to(dtype)
        tuner = mp.attach(model, method, seed=0)
        zoo.shake(tuner, size)
        sentences = said(tuner)
        assert len(sentences) == loud, (size, tuner.rounding)
        for sentence in sentences:
            assert f"{tuner.rounding:.0%} of what it had changed" in sentence
            assert str(dtype).removeprefix("torch.") in sentence and "\n" not in sentence


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_base_in_full_precision_loses_nothing_worth_a_word(dtype):
    for method in (mp.LoRA(rank=2), mp.QLoRA(rank=2)):
        model = zoo.build("llama").to(dtype)
        tuner = mp.attach(model, method, seed=0)
        zoo.shake(tuner, 1e-6)
        assert said(tuner) == [] and tuner.rounding is None


@HALVES
def test_embeddings_and_biases_are_measured_too(dtype):
    methods = {
        "rows": mp.TokenRows(ids=(3, 5)),
        "embedding": mp.LoRAEmbedding(rank=2, targets=("wte",)),
        "bias": mp.LoRABias(rank=2, targets=("query", "value")),
    }
    for method in methods.values():
        model = zoo.build("gpt2").to(dtype)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        tuner = mp.attach(model, method, seed=0)
        zoo.shake(tuner, 1e-6)
        assert len(said(tuner)) == 1 and tuner.rounding > 0.1


def test_measuring_the_drift_of_logits_does_not_warn():
    model = zoo.build("llama").bfloat16()
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    zoo.shake(tuner, 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mp.merge_drift(tuner, zoo.batch("llama"))
