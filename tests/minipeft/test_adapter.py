"""Adapters: Houlsby's equation, where they stand, what they count, what they leave behind."""

import copy
import gc
import weakref

import pytest
import torch
import zoo
from closeness import close, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import minipeft as mp
from minipeft.doors.door import doors
from minipeft.methods.adapter import AdapterPatch, ParallelAdapterPatch
from minipeft.methods.parts.input_tap import InputTap

PHI = {
    "gelu": lambda z: z * 0.5 * (1 + torch.erf(z / 2**0.5)),
    "relu": lambda z: z.clamp(min=0),
    "silu": lambda z: z / (1 + torch.exp(-z)),
    "tanh": lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1),
}
SOME = ["tiny-decoder", "tiny-encoder-decoder", "gpt2", "bert", "t5-gated", "bart", "llama", "glm4"]
PLACEMENTS = ["houlsby", "pfeiffer", "parallel"]


def equation(patch: AdapterPatch, h: torch.Tensor, phi: str = "gelu") -> torch.Tensor:
    """W_up phi(W_down h + b_down) + b_up in double precision, letter by letter."""
    W_down, b_down = patch.down.weight.double(), patch.down.bias.double()
    W_up, b_up = patch.up.weight.double(), patch.up.bias.double()
    low = PHI[phi](torch.einsum("mc,...c->...m", W_down, h.double()) + b_down)
    return torch.einsum("cm,...m->...c", W_up, low) + b_up


@settings(deadline=None, max_examples=40)
@given(
    width=st.integers(1, 9),
    bottleneck=st.integers(1, 6),
    rows=st.lists(st.integers(1, 3), min_size=0, max_size=3),
    activation=st.sampled_from(sorted(PHI)),
    scale=st.floats(0.1, 8),
    skip=st.booleans(),
    parallel=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_the_equation_for_any_shape(
    width, bottleneck, rows, activation, scale, skip, parallel, dtype
):
    torch.manual_seed(0)
    tap, settings = InputTap(), (activation, 0.01, scale)
    if parallel:  # the residual stream is its skip
        skip, patch = True, ParallelAdapterPatch(width, bottleneck, *settings, tap=tap)
    else:
        patch = AdapterPatch(width, bottleneck, *settings, skip)
    patch.to(torch.promote_types(dtype, torch.float32))
    m, C = bottleneck, width
    assert sum(p.numel() for p in patch.parameters()) == 2 * m * C + C + m
    with torch.no_grad():
        for parameter in patch.parameters():
            parameter.normal_()
    x = torch.randn(*rows, 3).to(dtype)
    y = torch.randn(*rows, width).to(dtype)
    h = y
    if parallel:
        h = torch.randn(*rows, width).to(dtype)
        assert tap(h, x) is x
    expected = scale * equation(patch, h, activation) + (y.double() if skip else 0)
    out = patch(x, y)
    assert out.dtype == dtype and out.shape == y.shape
    # Two sums in the patch's own dtype; y and what is added, once each in that of y.
    down, up = (linear.weight.abs().double() for linear in (patch.down, patch.up))
    inner = (h.abs().double() @ down.T).max().item() + patch.down.bias.abs().max().item()
    terms = scale * (inner * up.sum(1).max().item() + patch.up.bias.abs().max().item())
    error = tolerance(terms, patch.up.weight.dtype, width + bottleneck + 8)
    error += tolerance(y.abs().max().item() + expected.abs().max().item(), dtype, 4)
    assert (out.double() - expected).abs().max() <= error


def test_the_start_is_normal_cut_at_two_sigma():
    """Cut at 2 sigma, a normal distribution has variance 1 - 2 * 2 * phi(2) / 0.9545 = 0.774."""
    torch.manual_seed(0)
    patch = AdapterPatch(300, 100, sigma=0.05)
    for weight in (patch.down.weight, patch.up.weight):
        assert 0.99 * 0.1 < weight.abs().max() <= 0.1
        assert weight.var().item() == pytest.approx(0.774 * 0.05**2, rel=0.05)
        assert abs(weight.mean().item()) < 1e-3
    assert patch.down.bias.abs().max() == 0 == patch.up.bias.abs().max()
    patch = AdapterPatch(300, 100, sigma=0)
    bound = 300**-0.5
    assert patch.up.weight.abs().max() == 0
    assert 0.99 * bound < patch.down.weight.abs().max() <= bound
    y = torch.randn(2, 300)
    assert torch.equal(patch(y, y), y)


def test_the_departure_at_the_start_grows_with_sigma():
    batch, away = zoo.batch("bert"), []
    for sigma in (0, 1e-3, 1e-2, 1e-1, 1):
        model = zoo.build("bert")
        base = zoo.logits(model, batch)
        method = mp.Adapter(8, sigma=sigma)
        assert method.identity_at_start == (sigma == 0)
        mp.attach(model, method, seed=0)
        away.append((zoo.logits(model, batch) - base).abs().max().item())
    assert away[0] == 0 and away == sorted(away) and away[1] < 1e-4 and away[4] > 0.1


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh"])
@pytest.mark.parametrize("parallel", [False, True])
def test_gradients_in_double_precision(activation, parallel):
    torch.manual_seed(1)
    tap = InputTap()
    patch = AdapterPatch(4, 3, activation, scale=2.0)
    if parallel:
        patch = ParallelAdapterPatch(4, 3, activation, 0.01, 2.0, tap=tap)
    patch.double()
    tensors = {key: torch.randn_like(p).requires_grad_() for key, p in patch.named_parameters()}
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def run(x, y, *values):
        if parallel:
            tap.saved_input = x
        parameters = dict(zip(tensors, values, strict=True))
        return torch.func.functional_call(patch, parameters, (x, y))

    assert torch.autograd.gradcheck(run, (x, y, *tensors.values()))


def test_houlsby_on_bert_is_the_paper_written_with_plain_tensors():
    """Every line of a two-layer BERT by hand: the adapters before the residual, norms trained."""
    model, batch = zoo.build("bert"), zoo.batch("bert")
    tuner = mp.attach(model, mp.Adapter(3), seed=0)
    zoo.shake(tuner, 0.3)
    W = {key: value.double() for key, value in tuner.model.state_dict().items()}
    W = {key.replace(".base.", "."): value for key, value in W.items()}
    for path, twin in tuner.copies.items():
        W |= {f"{path}.{key}": value.double() for key, value in twin.state_dict().items()}
    adapters = {place.path: patch for place, patch in tuner.patches}

    def linear(h, path):
        return h @ W[f"{path}.weight"].T + W[f"{path}.bias"]

    def norm(h, path):
        mean, variance = h.mean(-1, keepdim=True), h.var(-1, unbiased=False, keepdim=True)
        return (h - mean) / (variance + 1e-12).sqrt() * W[f"{path}.weight"] + W[f"{path}.bias"]

    def adapted(h, path):
        h = linear(h, path)
        return h + equation(adapters[path], h)

    ids, mask = batch["input_ids"], batch["attention_mask"]
    B, T, H, D = *ids.shape, 4, 4
    tables = "bert.embeddings"
    h = W[f"{tables}.word_embeddings.weight"][ids] + W[f"{tables}.token_type_embeddings.weight"][0]
    h = norm(h + W[f"{tables}.position_embeddings.weight"][:T], f"{tables}.LayerNorm")
    for layer in (f"bert.encoder.layer.{i}" for i in range(2)):
        heads = (linear(h, f"{layer}.attention.self.{n}") for n in ("query", "key", "value"))
        q, k, v = (part.view(B, T, H, D).transpose(1, 2) for part in heads)  # (B, H, T, D)
        scores = q @ k.transpose(-1, -2) / D**0.5
        scores = scores.masked_fill(mask[:, None, None] == 0, -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, H * D)
        path = f"{layer}.attention.output"
        h = norm(h + adapted(mixed, f"{path}.dense"), f"{path}.LayerNorm")
        inner = PHI["gelu"](linear(h, f"{layer}.intermediate.dense"))
        h = norm(h + adapted(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    with torch.no_grad():
        states = model.bert(input_ids=ids, attention_mask=mask).last_hidden_state
    close(states.double(), h)


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "bert", "t5", "t5-gated", "opt", "glm4"])
def test_a_parallel_adapter_reads_the_input_of_the_feed_forward_layer(name):
    """h = FFN(x) + s adapter(x), for plain, gated and fused feed-forward layers, row by row too."""
    model = zoo.build(name)
    tuner = mp.attach(model, mp.Adapter(3, "parallel", scale=4.0), name="a", seed=0)
    zoo.shake(tuner, 0.3)
    places = [p for p, patch in tuner.patches if isinstance(patch, AdapterPatch)]
    patches = [patch for _, patch in tuner.patches if isinstance(patch, AdapterPatch)]
    up, down = tuner.find(("up",))[0].path, places[0].path
    x = torch.randn(3, 5, 16, dtype=torch.float64)

    def feed_forward(x):
        if name in ("bert", "opt"):  # no module of its own around the two maps
            act = torch.nn.functional.gelu if name == "bert" else torch.relu
            return model.get_submodule(down)(act(model.get_submodule(up)(x)))
        return model.get_submodule(up.rpartition(".")[0])(x)

    with torch.no_grad():
        ours = feed_forward(x)
        with mp.route(model, ["a", None, "a"]):
            routed = feed_forward(x)
        with tuner.disabled():
            base = feed_forward(x)
    expected = base.double() + 4.0 * equation(patches[0], x)
    close(ours.double(), expected)
    expected[1] = base[1].double()
    close(routed.double(), expected)


def norm_numbers(model: nn.Module) -> int:
    """All that norms hold, those of heads and of single attention heads left out."""
    outside = ("head", "lm_head", "cls", "generator_predictions", "vocab_layer_norm")
    return sum(
        p.numel()
        for path, module in model.named_modules()
        if type(module).__name__.endswith("Norm")
        and not path.startswith(outside)
        and not path.endswith(("q_norm", "k_norm"))
        for p in module.parameters()
    )


@pytest.mark.parametrize("name", zoo.MODELS)
def test_counts_identity_and_gradients_on_every_architecture(name):
    m, C, layers = 3, 16, 2
    blocks = 2 * layers if name in zoo.SEQ2SEQ else layers
    attentions = 3 * layers if name in zoo.SEQ2SEQ else layers  # cross-attention is one more
    batch = zoo.batch(name)
    for placement in PLACEMENTS:
        model = zoo.build(name)
        base, norms = zoo.logits(model, batch), norm_numbers(model)
        tuner = mp.attach(model, mp.Adapter(m, placement, sigma=0), seed=0)
        assert torch.equal(zoo.logits(model, batch), base)
        adapters, norms = (blocks, 0) if placement != "houlsby" else (blocks + attentions, norms)
        formula = adapters * (2 * m * C + C + m) + norms
        report = tuner.report()
        assert report.trainable == report.stored == formula
        assert sum(p.numel() for p in tuner.parameters()) == formula
        zoo.shake(tuner)
        model(**batch).loss.backward()
        for parameter in tuner.parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0
        assert all(p.grad is None for p in tuner.anatomy.parameters())
        assert not torch.equal(zoo.logits(model, batch), base)
        tuner.detach()
        assert torch.equal(zoo.logits(model, batch), base) and not doors(model)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_tensor_learns_by_the_second_step_from_a_zero_start(placement):
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    tuner = mp.attach(model, mp.Adapter(3, placement, sigma=0), seed=0)
    before, first = mp.fingerprint(model), [p.detach().clone() for p in tuner.parameters()]
    mp.train(model, [batch], 2, 1e-2, warmup=0, schedule="constant", progress=False)
    for old, new in zip(first, tuner.parameters(), strict=True):
        assert (new - old).abs().max() > 1e-5
    assert mp.fingerprint(model) == before


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "t5-gated", "llama", "glm4"])
@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
def test_gradient_checkpointing_changes_no_gradient_and_keeps_no_tensor(name, placement):
    batch, results = zoo.batch(name), []
    for checkpointing in (False, True):
        model = zoo.build(name).train()
        tuner = mp.attach(model, mp.Adapter(3, placement), seed=0)
        zoo.shake(tuner)
        if checkpointing and name == "tiny-decoder":
            model.gradient_checkpointing = True
        elif checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with mp.route(model, ["default", None, "default"]):
            loss = model(**batch).loss
            loss.backward()
        results.append([loss.detach(), *(p.grad for p in tuner.parameters())])
        taps = [patch for _, patch in tuner.patches if isinstance(patch, InputTap)]
        assert all(tap.saved_input is None for tap in taps)
        assert len(taps) == (placement == "parallel") * (4 if name in zoo.SEQ2SEQ else 2)
    for plain, checked in zip(*results, strict=True):
        close(plain, checked)


def test_what_a_parallel_adapter_has_read_is_free_again():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.Adapter(3, "parallel"))
    layer = model.blocks[0].feed_forward
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    held = weakref.ref(x)
    with torch.no_grad():
        layer(x)
    del x
    gc.collect()
    assert held() is None
    with pytest.raises(ValueError, match="last map was called without its first one"):
        layer.down(torch.randn(2, 3, layer.down.in_features, dtype=torch.float64))


def test_a_copy_of_the_model_keeps_its_own_taps():
    model, batch = zoo.build("llama"), zoo.batch("llama")
    zoo.shake(mp.attach(model, mp.Adapter(3, "parallel"), name="a", seed=0))
    before = zoo.logits(model, batch)
    twin = copy.deepcopy(model)
    taps = [
        {p for _, p in mp.tuners(m)["a"].patches if isinstance(p, InputTap)} for m in (model, twin)
    ]
    assert len(taps[0]) == len(taps[1]) == 2 and not taps[0] & taps[1]
    assert torch.equal(zoo.logits(twin, batch), before)


@pytest.mark.parametrize("name", SOME)
def test_mixed_batches_equal_separate_runs(name):
    model, batch = zoo.build(name), zoo.batch(name, rows=4)
    methods = dict(h=mp.Adapter(3), p=mp.Adapter(2, "parallel"), i=mp.IA3())
    zoo.mixed_equals_separate(model, batch, methods, ["p", None, "h", "i"], 0.3)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_merging_is_refused_and_changes_nothing(placement):
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    tuner = mp.attach(model, mp.Adapter(3, placement), name="a", seed=0)
    zoo.shake(tuner)
    before, whole = zoo.logits(model, batch), mp.fingerprint(model)
    with pytest.raises(ValueError, match="'a' cannot be merged: .* no change of a weight matrix"):
        tuner.merge()
    assert torch.equal(zoo.logits(model, batch), before) and mp.fingerprint(model) == whole
    assert not tuner.merged and all(not door.merged for door in doors(model))
    lora = mp.attach(model, mp.LoRA(targets="down"), name="b")
    with pytest.raises(ValueError, match="'b' cannot be merged: 'a' acts before it"):
        lora.merge()


@pytest.mark.parametrize("name", ["tiny-encoder", "t5", "gpt2"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_saved_adapter_comes_back(tmp_path, name, placement):
    model, batch = zoo.build(name), zoo.batch(name)
    method = mp.Adapter(3, placement, activation="relu", scale=2.0, layers=(1,))
    tuner = mp.attach(model, method, seed=0)
    zoo.shake(tuner)
    expected = zoo.logits(model, batch)
    tuner.save(tmp_path)
    other = zoo.build(name)
    again = mp.load(other, tmp_path)
    assert torch.equal(zoo.logits(other, batch), expected)
    assert again.method == method and len(again.parameters()) == len(tuner.parameters())


def test_layers_choose_adapters_and_norms():
    tuner = mp.attach(zoo.build("bert"), mp.Adapter(3, layers=(1,)))
    assert {place.layer for place, _ in tuner.patches} == {1}
    assert sorted(tuner.copies) == [
        f"bert.encoder.layer.1.{n}.LayerNorm" for n in ("attention.output", "output")
    ]
    tuner.detach()
    tuner = mp.attach(tuner.model, mp.Adapter(3, norms=False))
    assert not tuner.copies and len(tuner.patches) == 4
    tuner.detach()
    assert len(mp.attach(tuner.model, mp.Adapter(3, "pfeiffer", norms=True)).copies) == 5


def test_without_the_skip_the_layers_are_cut_off():
    """h <- W_up phi(W_down h): near zero at the start, so only the residual stream is left."""
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    method = mp.Adapter(3, sigma=1e-8, skip=False)
    assert not method.identity_at_start
    mp.attach(model, method)
    x = model.embeddings.words(batch["input_ids"])
    x = x + model.embeddings.positions(torch.arange(x.shape[1]))
    with torch.no_grad():
        expected = model.head(model.norm(x))
    close(zoo.logits(model, batch)[:2], expected[:2])


@pytest.mark.parametrize("name", ["tiny-decoder", "llama", "t5"])
@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
def test_half_precision_and_generation(name, placement):
    model, batch = zoo.build(name), zoo.batch(name, rows=2)
    zoo.shake(mp.attach(model, mp.Adapter(3, placement), seed=0), 0.3)
    ids, options = batch["input_ids"][:, :4], dict(max_new_tokens=4, eos_token_id=0)
    cached = mp.generate(model, ids, **options)
    assert torch.equal(cached, mp.generate(model, ids, use_cache=False, **options))
    model = zoo.build(name).bfloat16()
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, mp.Adapter(3, placement, sigma=0), seed=0)
    assert torch.equal(zoo.logits(model, batch), base)
    assert {p.dtype for _, patch in tuner.patches for p in patch.parameters()} == {torch.float32}
    mp.train(model, [batch], 2, 1e-3, progress=False)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


def test_dropout_falls_on_the_hidden_features_only_in_training():
    torch.manual_seed(0)
    patch = AdapterPatch(1, 20_000, "relu", dropout=0.25)
    with torch.no_grad():
        patch.down.weight.fill_(1.0), patch.up.weight.fill_(1 / 20_000)
    y = torch.ones(1, 1)
    assert patch(y, y).item() == pytest.approx(2.0, abs=0.02) and patch(y, y) != patch(y, y)
    assert patch.eval()(y, y).item() == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(bottleneck=0), "bottleneck must be a whole number of at least 1, not 0"),
        (dict(bottleneck=True), "bottleneck must be a whole number"),
        (dict(bottleneck=2.0), "bottleneck must be a whole number"),
        (dict(placement="houlsbi"), "placement must be one of 'houlsby', 'pfeiffer', 'parallel'"),
        (dict(placement=None), "placement must be one of"),
        (dict(activation="sine"), "activation must be one of 'gelu', 'relu'"),
        (dict(activation=["gelu"]), "activation must be one of"),
        (dict(sigma=-1e-2), "sigma must be a number of at least 0"),
        (dict(sigma=float("nan")), "sigma must be a number"),
        (dict(sigma="0.1"), "sigma must be a number"),
        (dict(scale=0), "scale must be a number above 0"),
        (dict(scale=True), "scale must be a number"),
        (dict(dropout=1.0), "dropout must be a number of at least 0 and below 1"),
        (dict(skip=1), "skip must be True or False"),
        (dict(norms="yes"), "norms must be True, False or None"),
        (dict(placement="parallel", skip=False), "parallel adapter has no skip of its own"),
        (dict(layers=(-1,)), "layers must be None or layer numbers"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        mp.Adapter(**settings)


def test_a_model_that_nobody_listed():
    """It is told what to describe; described without norms, what to do about them."""
    block = nn.ModuleDict({"out": nn.Linear(4, 4), "one": nn.Linear(4, 8), "two": nn.Linear(8, 4)})
    model = nn.ModuleDict({"rows": nn.ModuleList([block])})
    with pytest.raises(ValueError, match="describe the model with attach"):
        mp.attach(model, mp.Adapter(3))
    family = mp.Family((), ("rows",), output=("out",), up=("one",), down=("two",))
    with pytest.raises(ValueError, match="pass norms=False, or describe them"):
        mp.attach(model, mp.Adapter(3), family=family)
    assert not mp.tuners(model) and not doors(model)
    assert len(mp.attach(model, mp.Adapter(3, norms=False), family=family).patches) == 2
