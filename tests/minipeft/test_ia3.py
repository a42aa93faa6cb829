"""(IA)^3: three rescalings, their places, their counts, and their way into the weights."""

import pytest
import torch
import zoo
from closeness import HALF, close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import minipeft as mp
from minipeft.doors.door import doors
from minipeft.doors.weights import WeightDoor
from minipeft.methods.ia3 import InputScale, OutputScale
from minipeft.model.fingerprint import identity

SOME = ["tiny-decoder", "tiny-encoder-decoder", "gpt2", "bert", "t5-gated", "bart", "llama", "glm4"]
size = st.integers(1, 9)


@settings(deadline=None, max_examples=40)
@given(
    n_in=size,
    n_out=size,
    rows=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_the_equations_for_any_shape(n_in, n_out, rows, bias, dtype):
    torch.manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    base = nn.Linear(n_in, n_out, bias=bias, dtype=dtype)
    x = torch.randn(*rows, n_in).to(dtype)
    for patch, count in ((OutputScale(n_out), n_out), (InputScale(n_in), n_in)):
        patch.to(wide)
        assert sum(p.numel() for p in patch.parameters()) == count
        door = WeightDoor(base)
        door.add("a", patch)
        assert torch.equal(door(x), base(x))  # 1 at the start
        with torch.no_grad():
            patch.l.normal_()
        l, b = patch.l.double(), base.bias.double() if bias else 0  # noqa: E741
        W = base.weight.double()
        if isinstance(patch, InputScale):
            expected = torch.einsum("oi,i,...i->...o", W, l, x.double()) + b
        else:
            expected = l * (torch.einsum("oi,...i->...o", W, x.double()) + b)
        y = door(x)
        assert y.dtype == dtype
        # every number that is added is smaller; a sum has n_in of them, its weight is rounded too
        size = 1 + l.abs().max().item() * (1 + x.abs().max().item()) * n_in**0.5
        close(y.double(), expected, dtype=dtype, size=size, roundings=2 * n_in + 4)
        first = {k: v.clone() for k, v in base.state_dict().items()}
        door.merge("a")
        close(base(x).double(), expected, dtype=dtype, size=size, roundings=2 * n_in + 4)
        door.unmerge("a")
        assert all(torch.equal(v, first[k]) for k, v in base.state_dict().items())


@pytest.mark.parametrize("kind", [InputScale, OutputScale])
def test_gradients_in_double_precision(kind):
    torch.manual_seed(1)
    door = WeightDoor(nn.Linear(3, 4)).double()
    patch = kind(3 if kind is InputScale else 4).double()
    door.add("a", patch)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    l = torch.randn_like(patch.l).requires_grad_()  # noqa: E741

    def run(x, l):  # noqa: E741
        return torch.func.functional_call(door, {"patches.a.l": l}, (x,))

    assert torch.autograd.gradcheck(run, (x, l))


def test_attention_and_feed_forward_are_the_papers_equations():
    """softmax(Q (l_k * K)^T / sqrt D) (l_v * V), and W_down (l_ff * gelu(W_up x)), by hand."""
    model = zoo.build("bert", layers=1)
    tuner = mp.attach(model, mp.IA3(), seed=0)
    zoo.shake(tuner, 0.5)
    l_k, l_v, l_ff = (
        next(patch.l for place, patch in tuner.patches if place.target == target)
        for target in ("key", "value", "down")
    )
    layer, x = model.bert.encoder.layer[0], torch.randn(2, 5, 16).double()
    attention = layer.attention.self

    def heads(t):  # (B, T, C) -> (B, H, T, D)
        return t.view(2, 5, 4, 4).transpose(1, 2)

    q, k, v = (getattr(attention, n) for n in ("query", "key", "value"))
    Q, K, V = q(x), l_k * k.base(x), l_v * v.base(x)
    weights = (heads(Q) @ heads(K).transpose(-1, -2) / 2).softmax(-1)
    expected = (weights @ heads(V)).transpose(1, 2).reshape(2, 5, 16)
    close(attention(x)[0], expected)
    hidden = layer.intermediate(x)
    expected = nn.functional.linear(l_ff * hidden, *layer.output.dense.base.parameters())
    close(layer.output.dense(hidden), expected)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_identity_counts_gradients_and_merge_on_every_architecture(name):
    layers, C, I = 2, 16, 32  # noqa: E741  the paper's letters
    I = 64 if name in (*zoo.TINY, "gpt2") else I  # noqa: E741
    groups = 2 if name in ("llama", "qwen2", "qwen3", "mistral", "phi", "glm4") else 1
    blocks = 2 * layers if name in zoo.SEQ2SEQ else layers
    attentions = 3 * layers if name in zoo.SEQ2SEQ else layers
    model, batch = zoo.build(name), zoo.batch(name)
    base, whole = zoo.logits(model, batch), identity(model)
    tuner = mp.attach(model, mp.IA3())
    assert torch.equal(zoo.logits(model, batch), base)
    formula = attentions * 2 * C // groups + blocks * I
    report = tuner.report()
    assert report.trainable == report.stored == formula
    assert sum(p.numel() for p in tuner.parameters()) == formula
    model(**batch).loss.backward()
    for place, patch in tuner.patches:
        assert patch.l.grad.abs().max() > 0, place.path
    assert all(p.grad is None for p in tuner.anatomy.parameters())
    zoo.shake(tuner, 0.3)
    changed = zoo.logits(model, batch)
    assert (changed - base).abs().max() > 1e-4
    tuner.merge()
    assert not doors(model) and identity(model) == whole
    close(zoo.logits(model, batch), changed)
    tuner.unmerge()
    assert torch.equal(zoo.logits(model, batch), changed)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base) and identity(model) == whole


def test_the_bias_is_rescaled_too_and_comes_back():
    model = nn.ModuleDict({"k": nn.Linear(3, 4), "d": nn.Linear(4, 3)})
    tuner = mp.attach(model, mp.IA3(targets=("k", "d"), feedforward="d"))
    zoo.shake(tuner, 1.0)
    x, first = torch.randn(2, 3), {k: v.clone() for k, v in model.state_dict().items()}
    l_k, l_d = (patch.l.detach() for _, patch in tuner.patches)
    k, d = model["k"], model["d"]
    expected = l_k * (x @ k.weight.T + k.bias)
    close(k(x), expected)
    tuner.merge()
    k, d = model["k"], model["d"]
    close(k.bias, l_k * first["k.bias"])
    close(k.weight, l_k[:, None] * first["k.weight"])
    assert torch.equal(d.bias, first["d.bias"])
    close(d.weight, first["d.weight"] * l_d)
    tuner.detach()
    assert all(torch.equal(v, first[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("first", ["lora", "ia3"])
def test_with_lora_the_order_of_attachment_counts_and_merging_keeps_it(first):
    """Whoever comes later wraps what is there: l * (W + BA) x, or (l * W) x + BA x."""
    model = nn.ModuleDict({"m": nn.Linear(4, 4)})
    x = torch.randn(3, 4)
    methods = dict(lora=mp.LoRA(rank=2, targets="m"), ia3=mp.IA3(targets="m", feedforward="m"))
    order = sorted(methods, key=lambda name: name != first)
    for number, name in enumerate(order):
        zoo.shake(mp.attach(model, methods[name], name=name, seed=number), 0.5)
    tuners = mp.tuners(model)
    (_, lora), (_, ia3) = tuners["lora"].patches[0], tuners["ia3"].patches[0]
    W, b = model["m"].base.weight.detach().clone(), model["m"].base.bias.detach()
    if first == "lora":
        expected = (ia3.l * x) @ (W + lora.delta()).T + b
    else:
        expected = (ia3.l * x) @ W.T + x @ lora.delta().T + b
    close(model["m"](x), expected)
    early, late = (tuners[name] for name in order)
    with pytest.raises(ValueError, match=f"'{late.name}' cannot be merged: '{early.name}' acts"):
        late.merge()
    early.merge()
    close(model["m"](x), expected)
    late.merge()
    close(model["m"](x), expected)
    with pytest.raises(ValueError, match=f"acts before '{late.name}', which is merged: unmerge"):
        early.unmerge()
    late.unmerge()
    early.unmerge()
    close(model["m"](x), expected)
    early.disable()
    late.merge()
    with pytest.raises(ValueError, match=f"acts before '{late.name}', which is merged: unmerge"):
        early.enable()
    late.unmerge()
    with early.disabled():
        expected = model["m"](x)  # the later one alone
    early.enable().merge()
    late.merge()
    early.detach()  # what never acts again is in nobody's way
    close(model["m"](x), expected)
    late.detach()
    assert torch.equal(model["m"].weight, W)


def test_one_matrix_product_only():
    """Rescaling the input costs no second W x."""
    calls = []
    door = WeightDoor(nn.Linear(3, 4))
    door.base.register_forward_hook(lambda *_: calls.append(1))
    door.add("a", InputScale(3))
    door.add("b", OutputScale(4))
    door(torch.randn(2, 3))
    assert calls == [1]


@pytest.mark.parametrize("name", SOME)
def test_mixed_batches_equal_separate_runs(name):
    model, batch = zoo.build(name), zoo.batch(name, rows=4)
    methods = dict(a=mp.IA3(), b=mp.IA3(targets=("value", "down")), c=mp.LoRA(rank=2))
    zoo.mixed_equals_separate(model, batch, methods, ["b", "a", None, "c"], 0.4)


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "llama", "t5"])
def test_checkpointing_half_precision_and_generation(name):
    batch, results = zoo.batch(name), []
    for checkpointing in (False, True):
        model = zoo.build(name).train()
        tuner = mp.attach(model, mp.IA3())
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
    ids, options = batch["input_ids"][:2, :4], dict(max_new_tokens=4, eos_token_id=0)
    model = model.eval()
    cached = mp.generate(model, ids, **options)
    assert torch.equal(cached, mp.generate(model, ids, use_cache=False, **options))
    model = zoo.build(name).bfloat16()
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, mp.IA3())
    assert torch.equal(zoo.logits(model, batch), base)
    assert {p.dtype for p in tuner.parameters()} == {torch.float32}
    mp.train(model, [batch], 2, 1e-2, progress=False)
    changed = zoo.logits(model, batch)
    tuner.merge()  # rounded once to bf16, so near, not equal
    close(zoo.logits(model, batch), changed, roundings=HALF)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(targets=()), "targets must be one or more names"),
        (dict(targets=(3,)), "targets must be one or more names"),
        (dict(feedforward=(3,)), "feedforward must be one or more names"),
        (dict(feedforward="up"), "feedforward names 'up', which is none of its targets"),
        (dict(layers=(-1,)), "layers must be None or layer numbers"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        mp.IA3(**settings)


def test_names_of_one_and_none():
    assert mp.IA3(targets="key") == mp.IA3(targets=("key",), feedforward=())
    assert mp.IA3(targets="down").feedforward == ("down",)
    assert mp.IA3(targets="down", feedforward=()).feedforward == ()


def test_a_part_of_a_fused_map_has_no_input_of_its_own():
    model = zoo.build("glm4")
    with pytest.raises(ValueError, match="'up' is a part of a fused map here"):
        mp.attach(model, mp.IA3(targets=("up",), feedforward=("up",)))
    assert not mp.tuners(model) and not doors(model)
