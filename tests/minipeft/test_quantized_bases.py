"""Bases that another library has quantized: refused where their weights would be read or changed.

The classes look like those of bitsandbytes, GPTQ, torchao and compressed eight-bit floats: what
matters is how they keep their weight. Where bitsandbytes can be imported, its own are tried too.
"""

import importlib.util

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F

import minipeft as mp


class Params4bit(nn.Parameter):
    """As bitsandbytes' class: packed bytes of shape (n, 1)."""


class Tensor8(Tensor):
    """As torchao's: says that it is a float32 matrix, and is not."""


class Fake(nn.Linear):
    """A linear map that answers as ever and keeps its weight in `kind` of ways."""

    def __init__(self, linear: nn.Linear, kind: str) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.kept, self.bias = linear.weight.detach().clone(), linear.bias
        n, weight = linear.weight.numel(), linear.weight.detach()
        self.weight = {
            "4 bit": lambda: Params4bit(torch.zeros(n // 2, 1, dtype=torch.uint8), False),
            "bytes": lambda: nn.Parameter(torch.zeros(n // 2, 1, dtype=torch.uint8), False),
            "8 bit": lambda: nn.Parameter(weight.to(torch.int8), requires_grad=False),
            "8-bit floats": lambda: nn.Parameter(weight.to(torch.float8_e4m3fn), False),
            "a class": lambda: nn.Parameter(weight.as_subclass(Tensor8), False),
            "packed floats": lambda: nn.Parameter(weight.flatten()[: n // 2, None][:, 0], False),
            "nothing": lambda: None,
        }[kind]()

    def forward(self, x):
        return F.linear(x, self.kept, self.bias)


class GPTQ(nn.Module):
    """No Linear, no weight: packed integers in buffers."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("qweight", torch.zeros(3, 3, dtype=torch.int32))
        self.register_buffer("kept", linear.weight.detach().clone())
        self.bias = linear.bias

    def forward(self, x):
        return F.linear(x, self.kept, self.bias)


def real(kind: str):
    """A class of bitsandbytes."""
    import bitsandbytes as bnb

    def make(linear: nn.Linear):
        sizes = (linear.in_features, linear.out_features, linear.bias is not None)
        if kind == "bitsandbytes 4":
            layer = bnb.nn.Linear4bit(*sizes, quant_type="nf4")
        else:
            layer = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
        layer.load_state_dict(linear.state_dict())
        return layer.to("cpu")

    return make


KINDS = ("4 bit", "bytes", "8 bit", "8-bit floats", "a class", "packed floats", "nothing", "gptq")
REAL = ("bitsandbytes 4", "bitsandbytes 8")


def quantized(name: str, kind: str):
    """A model, and its logits, with all linear maps but the head's of that kind."""
    model = zoo.build(name)
    make = GPTQ if kind == "gptq" else real(kind) if kind in REAL else lambda m: Fake(m, kind)
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear and not path.startswith(("lm_head", "cls")):
            parent, _, key = path.rpartition(".")
            setattr(model.get_submodule(parent), key, make(module))
    return model


READING = {
    "full": mp.FullFineTuning(),
    "bitfit": mp.BitFit(),
    "ia3": mp.IA3(),
    "adapter": mp.Adapter(bottleneck=2),
    "lora": mp.LoRA(rank=2),
    "dora": mp.DoRA(rank=2),
    "vera": mp.VeRA(rank=4),
    "pissa": mp.PiSSA(rank=2),
    "adalora": mp.AdaLoRA(init_rank=2, target_rank=1),
    "qlora": mp.QLoRA(rank=2),
    "unipelt": mp.UniPELT(bottleneck=2, length=2, rank=2),
}


@pytest.mark.parametrize("kind", [*KINDS, *REAL])
def test_methods_of_the_weights_door_are_refused_and_others_work(kind):
    if kind in REAL and not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is not installed")
    model = quantized("bert", kind)
    batch = zoo.batch("bert")
    base = zoo.logits(model, batch)
    modules, flags = list(model.modules()), [p.requires_grad for p in model.parameters()]
    for name, method in READING.items():
        if name == "full" and kind in ("nothing", "gptq"):
            continue  # what is left, embeddings and norms, is plain
        with pytest.raises(ValueError, match="load the model unquantized") as refused:
            mp.attach(model, method)
        assert "\n" not in str(refused.value) and "encoder.layer.0" in str(refused.value)
        assert list(model.modules()) == modules and not mp.tuners(model)
        assert [p.requires_grad for p in model.parameters()] == flags
    for method in (mp.Prefix(length=2), mp.PromptTuning(length=2), mp.HeadOnly()):
        tuner = mp.attach(model, method, seed=0)
        before = [p.detach().clone() for p in tuner.parameters()]
        mp.train(model, [batch], 2, 1e-2, progress=False)
        assert not all(map(torch.equal, tuner.parameters(), before))
        tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_for_such_a_base_is_refused_in_a_sentence(kind, tmp_path):
    plain = zoo.build("bert")
    mp.attach(plain, mp.LoRA(rank=2)).save(tmp_path)
    model = quantized("bert", kind)
    with pytest.raises(ValueError, match="load the model unquantized"):
        mp.load(model, tmp_path, any_base=True)
    assert not mp.tuners(model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_layer_alone_is_not_copied(kind):
    model = quantized("bert", kind)
    path = "bert.encoder.layer.0.attention.self.query"
    if kind in ("nothing", "gptq"):  # no weight that a copy could train: its bias only
        return
    with pytest.raises(ValueError, match=f"{path} is a Fake, which keeps its weight"):
        mp.attach(model, mp.HeadOnly(heads=(path,)))


def test_layers_beside_the_quantized_ones_are_adapted():
    model = zoo.build("llama")
    for block in model.model.layers:
        block.self_attn.k_proj = Fake(block.self_attn.k_proj, "4 bit")
    tuner = mp.attach(model, mp.LoRA(rank=2, targets=("query", "up")))
    batch = zoo.batch("llama")
    losses = mp.train(model, [batch], 10, 1e-2, progress=False).losses
    assert losses[-1] < losses[0]
    tuner.merge()
    tuner.detach()


# ---- quantized after attach ----


def quantized_copy(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", [mp.LoRA(rank=2), mp.IA3(), mp.PTuningV2(length=2)])
def test_a_copy_that_torch_has_quantized_keeps_its_tuner(method):
    model, batch = zoo.build("bert", dtype=torch.float32), zoo.batch("bert")
    tuner = mp.attach(model, method, seed=0)
    zoo.shake(tuner, 0.5)
    expected, twin = zoo.logits(model, batch), quantized_copy(model)
    off = (zoo.logits(twin, batch) - expected).abs().max()
    mp.tuners(twin)["default"].disable()
    assert off < (zoo.logits(twin, batch) - expected).abs().max() / 2
    mp.tuners(twin)["default"].detach()
    assert torch.equal(zoo.logits(model, batch), expected)


@pytest.mark.filterwarnings("ignore")
def test_what_reads_the_weight_of_a_quantized_copy_is_refused():
    model, batch = zoo.build("bert", dtype=torch.float32), zoo.batch("bert")
    mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
    twin = quantized_copy(model)
    before = zoo.logits(twin, batch)
    with pytest.raises(ValueError, match="query is a Linear, which keeps its weight as method"):
        mp.tuners(twin)["a"].merge()
    assert torch.equal(zoo.logits(twin, batch), before)
    mp.attach(model, mp.DoRA(rank=2), "b", seed=0)
    with pytest.raises(ValueError, match="query is a Linear, which keeps its weight as method"):
        zoo.logits(quantized_copy(model), batch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "method", [mp.Adapter(bottleneck=2), mp.Prefix(length=2), mp.UniPELT(bottleneck=2, rank=1)]
)
def test_a_tuner_that_was_quantized_with_the_model_says_so(method):
    model, batch = zoo.build("bert", dtype=torch.float32), zoo.batch("bert")
    base = zoo.logits(model, batch)
    mp.attach(model, method, seed=0)
    twin = quantized_copy(model)
    with pytest.raises(ValueError, match="'default' were quantized together with the model"):
        zoo.logits(twin, batch)
    mp.tuners(twin)["default"].detach()
    assert (zoo.logits(twin, batch) - base).abs().max() < 0.2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, head", [("bert", "tagging"), ("roberta", "classification")])
def test_a_trained_head_is_quantized_with_the_model(name, head):
    model, batch = zoo.build(name, head, dtype=torch.float32), zoo.batch(name, head)
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    zoo.shake(tuner)
    expected = zoo.logits(model, batch)
    twin = quantized_copy(model)
    assert (zoo.logits(twin, batch) - expected).abs().max() < 0.2
    mp.tuners(twin)["default"].detach()
    tuner.detach()
    assert (zoo.logits(twin, batch) - zoo.logits(model, batch)).abs().max() < 0.2


@pytest.mark.filterwarnings("ignore")
def test_a_base_that_was_quantized_twice_says_so():
    """By QLoRA, and by torch together with the model."""
    model, batch = zoo.build("bert", dtype=torch.float32), zoo.batch("bert")
    mp.attach(model, mp.QLoRA(rank=2), seed=0)
    with pytest.raises(ValueError, match="'default' were quantized together with the model"):
        zoo.logits(quantized_copy(model), batch)
