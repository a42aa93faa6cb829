"""Copies of a model with tuners (deepcopy, pickle, torch.save), and compiled ones."""

import copy
import io
import pickle
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
import zoo

import minipeft as mp
from soak import small

with suppress(ImportError):  # torch's compiler wants it before anybody imports python's distutils
    import setuptools  # noqa: F401


def by_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": by_torch,
}


@pytest.mark.parametrize("name", ["gpt2", "t5", "tiny-encoder"])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_has_working_tuners_of_its_own(name, way):
    for key, method in small.METHODS.items():
        model, inputs = zoo.build(name), zoo.batch(name)
        base = zoo.logits(model, inputs)
        try:
            tuner = mp.attach(model, method, "a", seed=0)
        except ValueError:
            assert (name, key) == ("t5", "BitFit")  # it has no biases
            continue
        zoo.shake(tuner)
        expected = zoo.logits(model, inputs)
        twin = WAYS[way](model)
        assert torch.equal(zoo.logits(twin, inputs), expected), key
        ours, theirs = set(model.parameters()), set(twin.parameters())
        assert not ours & theirs and not set(tuner.parameters()) & theirs, key
        copied = mp.tuners(twin)["a"]
        assert copied.model is twin and set(copied.parameters()) <= theirs, key
        mp.train(twin, [inputs], 1, 1e-2, progress=False)
        assert not torch.equal(zoo.logits(twin, inputs), expected), key
        assert torch.equal(zoo.logits(model, inputs), expected), key
        copied.detach()
        assert torch.equal(zoo.logits(twin, inputs), base), key
        with tuner.disabled():
            assert torch.equal(zoo.logits(model, inputs), base), key


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_model_with_merged_disabled_and_routed_tuners(way):
    model, inputs = zoo.build("gpt2"), zoo.batch("gpt2")
    base = zoo.logits(model, inputs)
    methods = dict(a=mp.LoRA(rank=2), b=mp.IA3(targets=("output",)), c=mp.TopLayers(1))
    made = {name: mp.attach(model, method, name, seed=0) for name, method in methods.items()}
    for tuner in made.values():
        zoo.shake(tuner)
    made["c"].disable()
    with mp.route(model, ["a", "b", None]):
        routed = zoo.logits(model, inputs)
        twin = WAYS[way](model)
    made["a"].merge()
    expected = zoo.logits(model, inputs)
    assert not torch.equal(zoo.logits(twin, inputs), routed), "the copy is not inside the route"
    with mp.route(twin, ["a", "b", None]):
        assert torch.equal(zoo.logits(twin, inputs), routed)
    twin = WAYS[way](model)
    assert torch.equal(zoo.logits(twin, inputs), expected)
    for name in "bca":
        mp.tuners(twin)[name].detach()
    assert torch.equal(zoo.logits(twin, inputs), base)
    assert torch.equal(zoo.logits(model, inputs), expected)


OPEN = """
import sys, torch, minipeft
model, inputs, expected = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad():
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=1e-10)
minipeft.tuners(model)["a"].save(sys.argv[2])
minipeft.tuners(model)["a"].detach()
"""


def test_another_process_opens_it(tmp_path):
    """Attention that reads a memory must be made known to transformers there, too."""
    model, inputs = zoo.build("gpt2").double(), zoo.batch("gpt2")
    zoo.shake(mp.attach(model, mp.Prefix(length=2), "a", seed=0))
    torch.save((model, inputs, zoo.logits(model, inputs)), tmp_path / "model.pt")
    command = [sys.executable, "-c", OPEN, str(tmp_path / "model.pt"), str(tmp_path / "tuner")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tuner" / "adapter_config.json").is_file()


def compiled_is_the_same(name: str, methods: dict, **options) -> None:
    """Attached, routed, merged and taken away again after the model was compiled."""
    torch.compiler.reset()
    model, inputs = zoo.build(name, layers=1), zoo.batch(name)
    compiled = torch.compile(model, **options)

    def same():
        logits, expected = zoo.logits(compiled, inputs), zoo.logits(model, inputs)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
        return logits

    base = same()
    made = {key: mp.attach(model, method, key, seed=0) for key, method in methods.items()}
    for tuner in made.values():
        zoo.shake(tuner, 0.3)
    changed = same()
    assert (changed - base).abs().max() > 0.01
    with mp.route(model, ["a", None, "b"]):
        torch.testing.assert_close(same()[1], base[1], rtol=0, atol=1e-5)
    made["a"].merge()
    torch.testing.assert_close(same(), changed, rtol=0, atol=1e-5)
    for tuner in made.values():
        tuner.detach()
    torch.testing.assert_close(same(), base, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param("gpt2", marks=pytest.mark.slow), "tiny-encoder"])
def test_what_dynamo_keeps_follows_the_tuners(name):
    compiled_is_the_same(name, dict(a=mp.LoRA(rank=2), b=mp.Prefix(length=2)), backend="eager")


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("clang")), reason="no C compiler")
def test_compiled():
    compiled_is_the_same("tiny-decoder", dict(a=mp.LoRA(rank=2), b=mp.LoRA(targets=("up",))))
