"""🤗 PEFT as the oracle for (IA)^3: files go both ways, gradients and merged weights agree."""

import warnings

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp

peft = pytest.importorskip("peft")

# (target_modules, feedforward_modules), as PEFT itself chooses them where it knows the model
THEIRS = {
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "bert": (["key", "value", "output.dense"], ["output.dense"]),  # attention's output too
    "t5": (["k", "v", "wo"], ["wo"]),
    "bart": (["q_proj", "v_proj", "fc2"], ["fc2"]),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "qwen2": (["q_proj", "v_proj", "down_proj"], ["down_proj"]),
}
OURS = {
    "default": mp.IA3(),
    "whole": mp.IA3(targets=("qkv", "up", "down"), feedforward="down"),
    "layers": mp.IA3(targets=("value", "output", "down"), layers=(1,)),
    "outputs": mp.IA3(targets=("key", "down"), feedforward=()),
}
TASKS = {"classification": "SEQ_CLS", "tagging": "TOKEN_CLS"}


def with_peft(name: str, head: str = "language", **settings):
    """A PEFT model whose vectors are not 1."""
    targets, feedforward = THEIRS[name]
    settings = dict(target_modules=targets, feedforward_modules=feedforward) | settings
    config = peft.IA3Config(task_type=TASKS.get(head), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(zoo.build(name, head), config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model.eval()


def opened_by_peft(name: str, head: str, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(zoo.build(name, head), folder).eval()


@pytest.mark.parametrize("name", THEIRS)
def test_their_file_opens_here(tmp_path, name):
    zoo.their_file_goes_both_ways(with_peft(name), name, tmp_path, opened_by_peft, "ia3_l")


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("method", OURS)
def test_our_file_opens_there(tmp_path, name, method):
    zoo.our_file_opens_there(name, OURS[method], tmp_path, opened_by_peft)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_heads_go_both_ways(tmp_path, name):
    head_modules = ["classification_head"] if name == "t5" else None
    theirs = with_peft(name, "classification", modules_to_save=head_modules)
    zoo.head_goes_both_ways(theirs, name, "classification", tmp_path, opened_by_peft)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "llama"])
def test_gradients_are_the_same_numbers(name):
    theirs, batch = with_peft(name), zoo.batch(name)
    model = zoo.build(name)
    targets, feedforward = THEIRS[name]
    paths = [n.removesuffix(".ia3_l") for n, m in theirs.named_modules() if n.endswith(".ia3_l")]
    paths = [path.removeprefix("base_model.model.") for path in paths]
    inputs = [path for path in paths if path.endswith(tuple(feedforward))]
    tuner = mp.attach(model, mp.IA3(targets=tuple(paths), feedforward=tuple(inputs)))
    pairs = []
    with torch.no_grad():
        for place, patch in tuner.patches:
            vector = theirs.base_model.model.get_submodule(place.path).ia3_l["default"]
            patch.l.copy_(vector.flatten())
            pairs.append((place.path, patch.l, vector))
    model(**batch).loss.backward()
    theirs(**batch).loss.backward()
    for path, ours, other in pairs:
        assert ours.grad.abs().max() > 0, path
        close(ours.grad, other.grad.flatten())


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda c, t: t.update({"x.ia3_l": torch.ones(1, 1)}), "none of PEFT's IA3 names"),
        (lambda c, t: t.update({min(t): torch.ones(5, 1)}), "it belongs to another base"),
        (
            lambda c, t: c.update(new_setting=3),
            "new_setting=3, which is none of the settings of IA3",
        ),
        (lambda c, t: t.clear(), "it is no IA3 tuner"),
        (
            lambda c, t: t.update({"base_model.model.model.norm.ia3_l": torch.ones(16, 1)}),
            "adapts model.norm, which is no linear map",
        ),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, spoil, sentence):
    import json

    from safetensors.torch import load_file, save_file

    with_peft("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    spoil(config, tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    model = zoo.build("llama")
    with pytest.raises(ValueError, match=sentence):
        mp.load(model, tmp_path)
    assert not mp.tuners(model)
