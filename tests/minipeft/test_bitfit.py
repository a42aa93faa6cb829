"""BitFit: which biases there are, that nothing else moves, and that they merge and part."""

import pytest
import torch
import zoo
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import minipeft as mp
from minipeft.doors.door import doors
from minipeft.doors.weights import WeightDoor
from minipeft.methods.bitfit import BiasPatch
from minipeft.model.fingerprint import identity

WITHOUT = ["t5", "t5-gated", "llama", "qwen3", "mistral"]
WITH = [name for name in zoo.MODELS if name not in WITHOUT]


def build(name: str, head: str = "language"):
    """A model whose biases are not all 0, as after pretraining."""
    model = zoo.build(name, head)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
    return model


@settings(deadline=None, max_examples=40)
@given(
    n_in=st.integers(1, 9),
    n_out=st.integers(1, 9),
    rows=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    norm=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_the_equation_for_any_shape(n_in, n_out, rows, norm, dtype):
    torch.manual_seed(0)
    n_in = n_out if norm else n_in
    base = nn.LayerNorm(n_out, dtype=dtype) if norm else nn.Linear(n_in, n_out, dtype=dtype)
    x = torch.randn(*rows, n_in).to(dtype)
    patch = BiasPatch(n_out).to(torch.promote_types(dtype, torch.float32))
    assert sum(p.numel() for p in patch.parameters()) == n_out
    door = WeightDoor(base)
    door.add("a", patch)
    assert torch.equal(door(x), base(x))
    with torch.no_grad():
        patch.d.normal_()
    size = base(x).abs().max().item() + patch.d.abs().max().item()
    expected = base(x).double() + patch.d.double()
    assert door(x).dtype == dtype
    close(door(x).double(), expected, dtype=dtype, size=size, roundings=2)
    weight, bias = base.weight.detach().clone(), base.bias.detach().clone()
    door.merge("a")
    assert torch.equal(base.weight, weight)
    close(base(x).double(), expected, dtype=dtype, size=size, roundings=n_in + 4)
    door.unmerge("a")
    assert torch.equal(base.bias, bias)


def test_gradients_in_double_precision():
    patch = BiasPatch(3).double()
    y = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    d = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda y, d: torch.func.functional_call(patch, {"d": d}, (y, y)), (y, d)
    )


@pytest.mark.parametrize("name", WITH)
def test_it_is_training_the_biases_themselves(name):
    """One step of plain gradient descent: the same model as when the base's own biases move."""
    batch, rate = zoo.batch(name), 0.1
    model = build(name)
    base = zoo.logits(model, batch)
    biases = {k: p for k, p in model.named_parameters() if k.endswith("bias")}
    weights = {id(p) for k, p in model.named_parameters() if not k.endswith("bias")}
    formula = sum(p.numel() for p in biases.values())
    tuner = mp.attach(model, mp.BitFit())
    assert torch.equal(zoo.logits(model, batch), base)
    report = tuner.report()
    assert report.trainable == report.stored == formula
    assert sum(p.numel() for p in tuner.parameters()) == formula
    assert not {id(p) for p in tuner.parameters()} & (weights | set(map(id, biases.values())))
    torch.optim.SGD(tuner.parameters(), rate).zero_grad()
    model(**batch).loss.backward()
    torch.optim.SGD(tuner.parameters(), rate).step()
    ours = zoo.logits(model, batch)
    assert (ours - base).abs().max() > 1e-3

    twin = build(name)
    biases = {k: p for k, p in twin.named_parameters() if k.endswith("bias")}
    twin(**batch).loss.backward()
    torch.optim.SGD(biases.values(), rate).step()
    close(zoo.logits(twin, batch), ours)

    whole = identity(model)
    tuner.merge()
    assert not doors(model) and identity(model) == whole
    close(zoo.logits(model, batch), ours)
    for key, parameter in model.named_parameters():
        expected = twin.get_parameter(key)
        close(parameter, expected)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base) and identity(model) == whole


def test_a_block_of_berts_layout_has_eleven_widths_of_biases():
    """q, k, v, output, down C each, up 4 C, two norms C each: 11 C."""
    model = zoo.build("tiny-encoder")
    tuner = mp.attach(model, mp.BitFit(layers=(0,)))
    assert tuner.report().trainable == 11 * 16
    tuner.detach()
    tuner = mp.attach(model, mp.BitFit(norms=False, layers=(0,)))
    assert tuner.report().trainable == 9 * 16
    tuner.detach()
    tuner = mp.attach(model, mp.BitFit(targets=("query", "up")))  # the paper's b_q and b_m2
    assert tuner.report().trainable == 2 * (16 + 64)
    tuner.detach()
    tuner = mp.attach(model, mp.BitFit(targets=("query", "up"), norms=True, layers=(1,)))
    assert tuner.report().trainable == 16 + 64 + 2 * 16


def test_parts_of_a_fused_map_have_biases_of_their_own():
    model, batch = build("gpt2"), zoo.batch("gpt2")
    tuner = mp.attach(model, mp.BitFit(targets=("query", "value")))
    assert tuner.report().trainable == 2 * 2 * 16
    zoo.shake(tuner, 0.5)
    changed = zoo.logits(model, batch)
    fused = model.transformer.h[0].attn.c_attn.base
    before = fused.bias.detach().clone()
    tuner.merge()
    close(zoo.logits(model, batch), changed)
    difference = fused.bias - before
    assert difference[16:32].abs().max() == 0 and difference[:16].abs().min() > 0
    tuner.detach()
    assert torch.equal(fused.bias, before)


def test_a_bias_on_every_key_changes_nothing_unless_positions_rotate():
    for name, learns in (("bert", False), ("qwen2", True)):
        model = build(name)
        tuner = mp.attach(model, mp.BitFit(targets=("key", "value")))
        model(**zoo.batch(name)).loss.backward()
        largest = {place.target: patch.d.grad.abs().max() for place, patch in tuner.patches}
        assert largest["value"] > 1e-4 and (largest["key"] > 1e-6) == learns


@pytest.mark.parametrize("name", WITHOUT)
def test_a_model_without_biases_is_told_so(name):
    model = zoo.build(name)
    with pytest.raises(ValueError, match="has no biases that BitFit could train"):
        mp.attach(model, mp.BitFit())
    assert not mp.tuners(model) and not doors(model)


def test_a_map_without_a_bias_is_named():
    model = zoo.build("qwen2")
    with pytest.raises(ValueError, match="o_proj has no bias, so .* leave out the target 'output'"):
        mp.attach(model, mp.BitFit(targets=("query", "output")))
    assert mp.attach(model, mp.BitFit()).report().trainable == 2 * (16 + 8 + 8)


@pytest.mark.parametrize("name", ["tiny-decoder", "bert", "gpt2", "bart", "qwen2"])
def test_mixed_batches_equal_separate_runs(tmp_path, name):
    model, batch = build(name), zoo.batch(name, rows=4)
    methods = dict(a=mp.BitFit(), b=mp.BitFit(targets="value"), c=mp.IA3())
    alone = zoo.mixed_equals_separate(model, batch, methods, ["b", "a", None, "c"], 0.4)
    mp.tuners(model)["a"].save(tmp_path)
    other = build(name)
    again = mp.load(other, tmp_path)
    assert torch.equal(zoo.logits(other, batch), alone["a"])
    assert again.method == methods["a"]


def test_a_task_head_is_trained_as_a_whole_and_counted_apart():
    model, batch = build("bert", "classification"), zoo.batch("bert", "classification")
    tuner = mp.attach(model, mp.BitFit())
    report = tuner.report()
    assert report.head == 3 * 16 + 3
    assert not any(place.path.startswith("classifier") for place, _ in tuner.patches)
    before = mp.fingerprint(model)
    mp.train(model, [batch], 3, 1e-2, progress=False)
    assert mp.fingerprint(model) == before
    assert all(p.abs().max() > 0 for _, patch in tuner.patches for p in patch.parameters())


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "bert"])
def test_checkpointing_and_half_precision(name):
    batch, results = zoo.batch(name), []
    for checkpointing in (False, True):
        model = build(name).train()
        tuner = mp.attach(model, mp.BitFit())
        zoo.shake(tuner)
        if checkpointing and name == "tiny-decoder":
            model.gradient_checkpointing = True
        elif checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        loss = model(**batch).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in tuner.parameters())])
    for plain, checked in zip(*results, strict=True):
        close(plain, checked)
    model = build(name).bfloat16()
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, mp.BitFit())
    assert torch.equal(zoo.logits(model, batch), base)
    assert {p.dtype for p in tuner.parameters()} == {torch.float32}
    mp.train(model, [batch], 2, 1e-2, progress=False)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(targets=()), "targets must be one or more names"),
        (dict(targets=(3,)), "targets must be one or more names"),
        (dict(norms=1), "norms must be True, False or None"),
        (dict(layers=(-1,)), "layers must be None or layer numbers"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        mp.BitFit(**settings)


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match=r"no biases in layer \[7\]"):
        mp.attach(zoo.build("gpt2"), mp.BitFit(layers=(0, 7)))
    with pytest.raises(ValueError, match="no biases that BitFit could train in these layers"):
        mp.attach(zoo.build("gpt2"), mp.BitFit(layers=(7,)))
