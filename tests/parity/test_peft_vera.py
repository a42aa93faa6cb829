"""🤗 PEFT as the oracle for VeRA: files go both ways, the random matrices and gradients agree."""

import warnings

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp

peft = pytest.importorskip("peft")

THEIRS = {
    "gpt2": ["c_attn", "mlp.c_proj"],
    "bert": ["query", "value", "output.dense"],
    "t5": ["q", "v", "wo"],
    "bart": ["q_proj", "v_proj", "fc2"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "qwen2": ["q_proj", "v_proj", "down_proj"],
}
OURS = {
    "default": mp.VeRA(rank=5),
    "whole": mp.VeRA(rank=5, targets=("qkv", "up", "down"), seed=3, initial=0.3),
    "layers": mp.VeRA(rank=3, targets=("output", "down"), layers=(1,), store_matrices=False),
}
TASKS = {"classification": "SEQ_CLS", "tagging": "TOKEN_CLS"}


def with_peft(name: str, head: str = "language", **settings):
    """A PEFT model in float64 whose vectors are not those of the start."""
    settings = dict(target_modules=THEIRS[name], r=5) | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.VeraConfig(task_type=TASKS.get(head), **settings)
        model = peft.get_peft_model(zoo.build(name, head), config).double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model.eval()


def opened_by_peft(name: str, head: str, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(zoo.build(name, head), folder).double().eval()


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("name", THEIRS)
def test_their_file_opens_here(tmp_path, name, store):
    theirs = with_peft(name, save_projection=store)
    tuner = zoo.their_file_goes_both_ways(theirs, name, tmp_path, opened_by_peft, "vera_lambda")
    assert tuner.method.store_matrices == store


@pytest.mark.parametrize("name", [name for name in THEIRS if name != "gpt2"])
@pytest.mark.parametrize("method", OURS)
def test_our_file_opens_there(tmp_path, name, method):
    zoo.our_file_opens_there(name, OURS[method], tmp_path, opened_by_peft)


@pytest.mark.parametrize("head", TASKS)
def test_a_trained_head_goes_both_ways(tmp_path, head):
    model, batch = zoo.build("bert", head), zoo.batch("bert", head)
    tuner = mp.attach(model, mp.VeRA(rank=3))
    zoo.shake(tuner, 0.3)
    tuner.save(tmp_path / "attached")
    ours = zoo.logits(model, batch)
    close(zoo.logits(opened_by_peft("bert", head, tmp_path / "attached"), batch), ours)
    zoo.head_goes_both_ways(with_peft("bert", head), "bert", head, tmp_path, opened_by_peft)


def test_the_same_seed_gives_the_same_matrices():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.VeraConfig(target_modules=["query", "dense"], r=5, projection_prng_key=11)
        theirs = peft.get_peft_model(zoo.build("bert", dtype=torch.float32), config)
    paths = [n for n, m in zoo.build("bert").named_modules() if n.endswith(("query", "dense"))]
    tuner = mp.attach(zoo.build("bert", dtype=torch.float32), mp.VeRA(5, tuple(paths), seed=11))
    matrices = tuner.patches[0][1].matrices
    assert torch.equal(matrices.A, theirs.base_model.vera_A["default"])
    assert torch.equal(matrices.B, theirs.base_model.vera_B["default"])


def test_gradients_are_the_same_numbers(tmp_path):
    theirs, batch = with_peft("bert"), zoo.batch("bert")
    theirs.save_pretrained(tmp_path)
    model = zoo.build("bert")
    tuner = mp.load(model, tmp_path)
    theirs(**batch).loss.backward()
    model(**batch).loss.backward()
    named = dict(theirs.named_parameters())
    for place, patch in tuner.patches:
        for ours, key in ((patch.d, "vera_lambda_d"), (patch.b, "vera_lambda_b")):
            close(ours.grad, named[f"base_model.model.{place.path}.{key}.default"].grad)


def test_parts_of_a_fused_map_have_a_file_of_their_own(tmp_path):
    """Query and value of GPT-2's c_attn have a d each; PEFT has one for the whole map."""
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    tuner = mp.attach(model, mp.VeRA(rank=3))
    zoo.shake(tuner, 0.3)
    tuner.save(tmp_path)
    assert '"MINIPEFT"' in (tmp_path / "adapter_config.json").read_text()
    again = zoo.build("gpt2")
    mp.load(again, tmp_path)
    assert torch.equal(zoo.logits(again, batch), zoo.logits(model, batch))


def damaged(tmp_path, change):
    """A PEFT file of bert whose tensors or settings have been changed."""
    import json

    from safetensors.torch import load_file, save_file

    with_peft("bert").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    change(tensors, settings)
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    return tmp_path


def without(end):
    return lambda tensors, settings: tensors.pop(next(k for k in tensors if k.endswith(end)))


@pytest.mark.parametrize(
    "change, sentence",
    [
        (without("vera_A"), "vera_B without its partner"),
        (without("vera_lambda_d"), "missing, or has no partner"),
        (lambda t, s: (t.pop("base_model.vera_A"), t.pop("base_model.vera_B")), "lacks vera_A"),
        (lambda t, s: s.update(r=4), "needs vectors of 4 and"),
        (lambda t, s: s.update(r="x"), "rank must be a whole number"),
        (lambda t, s: s.update(bias="all"), "trains biases"),
        (lambda t, s: s.update(tomorrow=1), "none of the settings of VeRA"),
        (lambda t, s: t.update({"base_model.vera_A": torch.zeros(5, 7)}), "has shape"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, change, sentence):
    model, batch = zoo.build("bert"), zoo.batch("bert")
    base = zoo.logits(model, batch)
    with pytest.raises(ValueError, match=sentence):
        mp.load(model, damaged(tmp_path, change))
    assert not mp.tuners(model) and torch.equal(zoo.logits(model, batch), base)
