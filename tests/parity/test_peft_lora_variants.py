"""🤗 PEFT as the oracle for DoRA, PiSSA and LoRA+: files both ways, gradients, dropout, groups."""

import warnings

import pytest
import torch
import zoo
from closeness import LOSS, close

import minipeft as mp
from minipeft.training.optimizer import by_factor

peft = pytest.importorskip("peft")

ATTENTION = {
    "gpt2": ["c_attn", "c_proj"],
    "bert": ["query", "value"],
    "t5": ["q", "v"],
    "bart": ["q_proj", "v_proj"],
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "v_proj"],
}
VARIANTS = {
    "dora": (mp.DoRA, dict(use_dora=True)),
    "dora-rslora": (mp.DoRA, dict(use_dora=True, use_rslora=True)),
    "pissa": (mp.PiSSA, dict(init_lora_weights="pissa")),
}


def dtype_of(settings: dict) -> torch.dtype:
    """PEFT makes a PiSSA in float32 at most."""
    return torch.float32 if "init_lora_weights" in settings else torch.float64


def with_peft(name: str, shake: float = 0.1, **settings):
    """A PEFT model whose tensors are no longer those of the start."""
    settings = dict(r=3, lora_alpha=6, target_modules=ATTENTION[name]) | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = zoo.build(name, dtype=dtype_of(settings))
        model = peft.get_peft_model(base, peft.LoraConfig(**settings)).eval()
    moved(model, shake)
    return model


def moved(model, scale: float) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def opened_by_peft(name: str, folder, dtype=torch.float64):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(zoo.build(name, dtype=dtype), folder).eval()


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("variant", VARIANTS)
def test_files_go_both_ways(tmp_path, name, variant):
    kind, settings = VARIANTS[variant]
    batch = zoo.batch(name)
    theirs = with_peft(name, **settings)
    expected = zoo.logits(theirs, batch)
    theirs.save_pretrained(tmp_path / "theirs")
    model = zoo.build(name, dtype=dtype_of(settings))
    base = zoo.logits(model, batch)
    assert (expected - base).abs().max() > 1e-2, "it does something"
    tuner = mp.load(model, tmp_path / "theirs")
    assert type(tuner.method) is kind
    close(zoo.logits(model, batch), expected)
    tuner.save(tmp_path / "ours")
    close(zoo.logits(opened_by_peft(name, tmp_path / "ours", dtype_of(settings)), batch), expected)
    tuner.merge()
    close(zoo.logits(model, batch), expected)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize("kind", [mp.DoRA, mp.PiSSA])
@pytest.mark.parametrize("stabilized", [False, True])
def test_our_files_open_there(tmp_path, name, kind, stabilized):
    """Parts of GPT-2's c_attn, unequal ranks and scales."""
    method = kind(
        rank=3,
        alpha=4,
        targets=("query", "value", "up"),
        ranks={"value": 2},
        alphas={"up": 2},
        rank_stabilized=stabilized,
    )
    model, batch = zoo.build(name), zoo.batch(name)
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, method, seed=0)
    assert torch.equal(zoo.logits(model, batch), base)
    zoo.shake(tuner)
    ours = zoo.logits(model, batch)
    assert (ours - base).abs().max() > 1e-2
    tuner.save(tmp_path)
    close(zoo.logits(opened_by_peft(name, tmp_path), batch), ours)
    tuner.detach()
    mp.load(model, tmp_path)
    close(zoo.logits(model, batch), ours)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_pissa_that_peft_converted_opens_as_a_lora(tmp_path, name):
    theirs = with_peft(name, shake=0.0, init_lora_weights="pissa")
    config = theirs.peft_config["default"]
    config.init_lora_weights = True
    theirs.save_pretrained(tmp_path / "start")
    config.init_lora_weights = "pissa"
    moved(theirs, 0.1)
    expected = zoo.logits(theirs, zoo.batch(name))
    theirs.save_pretrained(
        tmp_path / "out", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    model = zoo.build(name, dtype=torch.float32)
    tuner = mp.load(model, tmp_path / "out")
    assert type(tuner.method) is mp.LoRA and tuner.method.rank == 6
    close(zoo.logits(model, zoo.batch(name)), expected)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_pissa_of_pefts_opens_beneath_what_is_merged(tmp_path, name):
    """Its start is taken off the base's own weights, not off what is merged into them."""
    with_peft(name, init_lora_weights="pissa").save_pretrained(tmp_path)
    values = []
    for merged in (False, True):
        model = zoo.build(name, dtype=torch.float32)
        if merged:
            other = mp.attach(model, mp.LoRA(rank=2), "other", seed=0)
            zoo.shake(other, 1.0)
            other.merge()
        values.append(mp.load(model, tmp_path, "pissa").named_tensors())
    assert values[0].keys() == values[1].keys()
    assert all(torch.equal(value, values[1][key]) for key, value in values[0].items())


@pytest.mark.parametrize("name", ["gpt2", "bert"])
@pytest.mark.parametrize("variant", ["dora", "pissa"])
def test_gradients_with_dropout_are_the_same_numbers(tmp_path, name, variant):
    """In training mode, the same random numbers in both: loss and every gradient."""
    theirs = with_peft(name, lora_dropout=0.3, **VARIANTS[variant][1])
    theirs.save_pretrained(tmp_path)
    dtype = dtype_of(VARIANTS[variant][1])
    model, batch = zoo.build(name, dtype=dtype), zoo.batch(name)
    tuner = mp.load(model, tmp_path)
    losses = []
    for each in (theirs, model):
        each.train()
        torch.manual_seed(5)
        loss = each(**batch).loss
        loss.backward()
        losses.append(loss.item())
    close(*losses, dtype=torch.float32, roundings=LOSS)
    for place, patch in tuner.patches:
        layer = theirs.base_model.model.get_submodule(place.path)
        pairs = [(patch.A, layer.lora_A["default"].weight)]
        pairs += [(patch.B, layer.lora_B["default"].weight)]
        if variant == "dora":
            pairs += [(patch.m, layer.lora_magnitude_vector["default"].weight)]
        for ours, other in pairs:
            assert other.grad.abs().max() > 0
            close(ours.grad, other.grad)


@pytest.mark.parametrize("variant", ["dora", "pissa"])
def test_the_start_is_the_same(variant):
    theirs = with_peft("gpt2", shake=0.0, **VARIANTS[variant][1])
    model = zoo.build("gpt2", dtype=dtype_of(VARIANTS[variant][1]))
    tuner = mp.attach(model, VARIANTS[variant][0](3, 6, tuple(ATTENTION["gpt2"])), seed=0)
    for place, patch in tuner.patches:
        layer = theirs.base_model.model.get_submodule(place.path)
        if variant == "dora":
            close(patch.m.detach(), layer.lora_magnitude_vector["default"].weight.detach())
            continue
        theirs_first = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        close(patch.B @ patch.A, theirs_first)
        close(place.module.weight.T - 2 * patch.B0 @ patch.A0, layer.base_layer.weight.T)


def test_lora_plus_groups_as_peft_does():
    """PEFT's groups: A at the learning rate, B at a multiple of it."""
    from peft.optimizers import create_loraplus_optimizer

    theirs = with_peft("bert")
    optimizer = create_loraplus_optimizer(
        model=theirs, optimizer_cls=torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16
    )
    shapes = {
        group["lr"]: sorted(tuple(p.shape) for p in group["params"])
        for group in optimizer.param_groups
        if group["params"]
    }
    model = zoo.build("bert")
    tuner = mp.attach(model, mp.LoRA(rank=3, alpha=6, plus=16))
    named = {str(i): p for i, p in enumerate(tuner.parameters())}
    ours = {
        1e-3 * group["factor"]: sorted(tuple(p.shape) for p in group["params"])
        for group in by_factor(model, named)
    }
    assert ours == shapes and set(ours) == {1e-3, 16e-3}
