"""`state_dict()` of a model with tuners: the base by its own names, and the tuners beside it."""

import io

import pytest
import torch
import zoo
from closeness import close
from safetensors.torch import load_file, load_model, save_model

import minipeft as mp
import tiny_transformer as tt
from minipeft.analysis.support import METHODS

MODELS = ("tiny-encoder-decoder", "gpt2", "bert", "t5", "llama")  # tied and untied, fused and not
IN_PLACE = ("FullFineTuning", "TopLayers")  # these train the base in place
NO_BIAS = ("t5", "llama")
PAIRS = [(n, m) for n in MODELS for m in METHODS if not (n in NO_BIAS and m == "BitFit")]
pairs = pytest.mark.parametrize("name, method", PAIRS)


def tuned(name: str, method, seed: int = 0):
    """A model with a tuner that does something; another seed is another base as well."""
    model = zoo.build(name, seed=seed)
    tuner = mp.attach(model, METHODS.get(method, method), seed=seed)
    zoo.shake(tuner)
    return model, tuner


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pairs
def test_the_base_is_in_it_under_its_names_bit_for_bit(name, method):
    base = state(zoo.build(name))
    model, tuner = tuned(name, method)
    now = state(model)
    beside = {key for key in now if key.startswith("minipeft.default.")}
    assert list(base) == [key for key in now if key not in beside]
    if method not in IN_PLACE:
        assert all(torch.equal(value, now[key]) for key, value in base.items())
        assert len(beside) == len(tuner.named_tensors())
    tuner.detach()
    assert list(model.state_dict()) == list(base)
    assert not model._state_dict_hooks and not model._load_state_dict_pre_hooks


@pairs
def test_it_brings_base_and_tuner_back(name, method):
    model, _ = tuned(name, method)
    batch = zoo.batch(name)
    expected = zoo.logits(model, batch)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    fresh, _ = tuned(name, method, seed=1)
    identity = dict(fresh.named_parameters())
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(zoo.logits(fresh, batch), expected)
    assert all(p is identity[n] for n, p in fresh.named_parameters())


@pytest.mark.parametrize("name, method", [pair for pair in PAIRS if pair[0] not in zoo.TINY])
def test_save_pretrained_opens_as_the_base_and_says_what_it_leaves_out(tmp_path, name, method):
    model, tuner = tuned(name, method)
    base = model if method in IN_PLACE else zoo.build(name)
    expected = zoo.logits(base, zoo.batch(name))
    model.save_pretrained(tmp_path)
    again, said = type(model).from_pretrained(tmp_path, output_loading_info=True, dtype=model.dtype)
    assert not said["missing_keys"] and not said["mismatched_keys"]
    assert all(key.startswith("minipeft.default.") for key in said["unexpected_keys"])
    assert bool(said["unexpected_keys"]) == (method not in IN_PLACE)
    close(zoo.logits(again.eval(), zoo.batch(name)), expected)


def test_a_merged_tuner_is_part_of_the_base(tmp_path):
    model, tuner = tuned("gpt2", mp.LoRA())
    tuner.merge()
    expected = zoo.logits(model, zoo.batch("gpt2"))
    assert list(model.state_dict()) == list(zoo.build("gpt2").state_dict())
    with pytest.raises(ValueError, match=r"'default' is merged .* unmerge\(\)"):
        model.load_state_dict(zoo.build("gpt2").state_dict())
    assert torch.equal(zoo.logits(model, zoo.batch("gpt2")), expected)


def test_a_disabled_full_fine_tuning_keeps_both_values():
    model, tuner = tuned("gpt2", mp.FullFineTuning())
    trained = zoo.logits(model, zoo.batch("gpt2"))
    tuner.disable()
    fresh, other = tuned("gpt2", mp.FullFineTuning(), seed=1)
    other.disable()
    fresh.load_state_dict(model.state_dict())
    other.enable()
    assert torch.equal(zoo.logits(fresh, zoo.batch("gpt2")), trained)


def test_a_tuner_on_a_part_of_a_larger_module():
    base, (model, _) = zoo.build("gpt2"), tuned("gpt2", mp.LoRA())
    wrapped, plain = torch.nn.ModuleList([model]), torch.nn.ModuleList([base])
    now = wrapped.state_dict()
    assert [key for key in now if "minipeft" not in key] == list(plain.state_dict())
    fresh, _ = tuned("gpt2", mp.LoRA(), seed=1)
    torch.nn.ModuleList([fresh]).load_state_dict(now)
    batch = zoo.batch("gpt2")
    assert torch.equal(zoo.logits(fresh, batch), zoo.logits(model, batch))
    assert list(model.transformer.state_dict()) == list(base.transformer.state_dict())


def test_what_does_not_fit_is_told():
    model, _ = tuned("gpt2", mp.LoRA(rank=2))
    plain = zoo.build("gpt2").state_dict()
    with pytest.raises(RuntimeError, match="Missing key.*minipeft.default"):
        model.load_state_dict(plain)
    missing = model.load_state_dict(plain, strict=False).missing_keys
    assert len(missing) == 8 and all(key.startswith("minipeft.default.") for key in missing)
    with pytest.raises(RuntimeError, match="Unexpected key.*minipeft.default"):
        zoo.build("gpt2").load_state_dict(model.state_dict())
    other, _ = tuned("gpt2", mp.LoRA(rank=3))
    with pytest.raises(RuntimeError, match=r"has shape \(2, 16\) in the state, but \(3, 16\)"):
        other.load_state_dict(model.state_dict())


def test_a_state_with_the_names_of_the_doors_is_read_as_well():
    """As checkpoints of the first versions hold it: `x.base.weight`, `x.patches.default.A`."""
    model, _ = tuned("gpt2", mp.LoRA())
    old = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    assert any(".base.weight" in name for name in old) and any(".patches." in name for name in old)
    old["lm_head.weight"] = old["transformer.wte.weight"]
    fresh, _ = tuned("gpt2", mp.LoRA(), seed=1)
    fresh.load_state_dict(old)
    batch = zoo.batch("gpt2")
    assert torch.equal(zoo.logits(fresh, batch), zoo.logits(model, batch))


def test_safetensors_save_and_load_a_model(tmp_path):
    model, _ = tuned("gpt2", mp.PTuning(length=3))
    save_model(model, tmp_path / "model.safetensors")
    fresh, _ = tuned("gpt2", mp.PTuning(length=3), seed=1)
    load_model(fresh, tmp_path / "model.safetensors")
    batch = zoo.batch("gpt2")
    assert torch.equal(zoo.logits(fresh, batch), zoo.logits(model, batch))


@pytest.mark.parametrize("name", zoo.TINY)
def test_a_tiny_transformer_is_saved_as_the_base(tmp_path, name):
    model, _ = tuned(name, mp.LoRA())
    tt.save(model, None, tmp_path / "with")
    tt.save(zoo.build(name), None, tmp_path / "without")
    ours, base = (load_file(tmp_path / each / "model.safetensors") for each in ("with", "without"))
    assert ours.keys() == base.keys()
    assert all(torch.equal(ours[key], base[key]) for key in base)
