"""torch.func on models with tuners: values are put in for one call, and the model is given back."""

import copy

import pytest
import torch
import zoo
from closeness import close
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.utils import parametrize

import minipeft as mp
from soak import small

METHODS = small.METHODS | {
    "Prefix of parts": mp.Combined((mp.Prefix(length=2, hidden=None), mp.VeRA(rank=4))),
    "embedding only": mp.Prefix(length=2, hidden=4, embedding_only=True),
}


def attached(name: str, key: str, seed: int = 0):
    """A model with a tuner that does something; None where it has no place for it."""
    model = zoo.build(name)
    try:
        tuner = mp.attach(model, METHODS[key], "a", seed=0)
    except ValueError:
        assert (name, key) in (("t5", "BitFit"), ("llama", "BitFit"))  # they have no biases
        return None, None
    zoo.shake(tuner, seed=seed)
    return model, tuner


def tensors(model) -> dict[int, torch.Tensor]:
    """Every parameter and buffer in the place where it stands."""
    return {
        (id(module), key): tensor
        for module in model.modules()
        for key, tensor in (module._parameters | module._buffers).items()
    }


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "tiny-encoder-decoder", "bart", "t5"])
def test_values_of_one_call_leave_the_model_as_it_was(name, key, strict):
    model, tuner = attached(name, key)
    if model is None or (name, key) == ("tiny-encoder-decoder", "FullFineTuning"):
        return  # its words stand in two places, and torch takes them out of the plain base so, too
    inputs, before = zoo.batch(name), tensors(model)
    expected = zoo.logits(model, inputs)
    names = {p: n for n, p in model.named_parameters()}
    values = {names[p]: p.detach() * 1.5 for p in tuner.parameters()}
    if strict:
        values = dict(model.named_parameters()) | dict(model.named_buffers()) | values
    answer = functional_call(model, values, (), inputs, strict=strict).logits
    after = tensors(model)
    assert before.keys() == after.keys() and all(after[k] is before[k] for k in before)
    assert torch.equal(zoo.logits(model, inputs), expected)
    with torch.no_grad():  # the same values, put in for good
        for parameter in tuner.parameters():
            parameter.mul_(1.5)
    close(answer, zoo.logits(model, inputs))


class Around(torch.nn.Module):
    """A module that stands in another one, which does nothing."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self):
        pass


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "bart", "t5"])
def test_inside_another_module_a_model_or_a_part_of_it_is_left_as_it_was(name, key):
    """And each of their tensors is known by its name there."""
    model, _ = attached(name, key)
    if model is None:
        return
    model.register_module("nothing", None)  # as torch allows
    before = tensors(model)
    for part in model.modules():
        module = Around(part)
        values = dict(module.named_parameters()) | dict(module.named_buffers())
        copies = {name: value.detach().clone() for name, value in values.items()}
        functional_call(module, copies, (), strict=True)
        after = tensors(model)
        assert before.keys() == after.keys() and all(after[k] is before[k] for k in before)


@pytest.mark.parametrize("key", ["Prefix", "VeRA", "UniPELT", "PromptTuning", "LoRA"])
def test_gradients_of_torch_func_are_those_of_backward(key):
    model, tuner = attached("bart", key)
    inputs = zoo.batch("bart")
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def loss(values):
        return functional_call(model, values, (), inputs).logits.pow(2).sum()

    gradients = grad(loss)({n: p.detach() for n, p in trained.items()})
    model(**inputs).logits.pow(2).sum().backward()
    assert trained.keys() == gradients.keys() and set(trained.values()) == set(tuner.parameters())
    for name, parameter in trained.items():
        close(gradients[name], parameter.grad, label=name)


@pytest.mark.parametrize("key", ["Prefix", "VeRA", "UniPELT", "PromptTuning", "LoRA"])
def test_an_ensemble_in_one_call_answers_as_its_members(key):
    """torch.func.stack_module_state, called through vmap."""
    model, _ = attached("gpt2", key)
    other = copy.deepcopy(model)
    zoo.shake(mp.tuners(other)["a"], seed=1)
    inputs = {k: v for k, v in zoo.batch("gpt2").items() if k != "labels"}
    expected = torch.stack([zoo.logits(model, inputs), zoo.logits(other, inputs)])
    assert not torch.equal(*expected)
    parameters, buffers = stack_module_state([model, other])

    def answer(parameters, buffers):
        return functional_call(model, (parameters, buffers), (), inputs).logits

    close(vmap(answer)(parameters, buffers), expected)
    close(zoo.logits(model, inputs), expected[0])


@pytest.mark.parametrize("key", ["Prefix", "VeRA", "UniPELT"])
def test_what_patches_share_can_be_parametrized(key):
    """At one of its paths, and so at all."""
    model, tuner = attached("gpt2", key)
    inputs = zoo.batch("gpt2")
    modules = {id(m): m for _, patch in tuner.patches for m in patch.modules()}
    shared = [m for m in modules.values() if type(m).__name__ in ("PrefixEncoder", "Gate")]
    shared = shared or [m for m in modules.values() if type(m).__name__ == "VeRAPatch"]
    part = shared[0].up if key == "Prefix" else shared[0]
    name = next(n for n, p in part.named_parameters() if "." not in n)

    class Twice(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    twin = copy.deepcopy(model)
    parametrize.register_parametrization(part, name, Twice())
    answer = zoo.logits(model, inputs)
    parametrize.remove_parametrizations(part, name)
    close(zoo.logits(model, inputs), answer)
    assert not torch.equal(zoo.logits(twin, inputs), answer)
