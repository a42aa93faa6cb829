"""Rows of the vocabulary alone: 🤗 PEFT's TRAINABLE_TOKENS opens here, and ours there."""

import json
import warnings

import pytest
import torch
import zoo
from closeness import close
from safetensors.torch import load_file, save_file

import minipeft as mp

peft = pytest.importorskip("peft")

WORDS = {"gpt2": "wte", "llama": "embed_tokens", "opt": "embed_tokens"}


def with_peft(name: str, folder, **options):
    """PEFT's model with rows that were moved, saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.TrainableTokensConfig(token_indices=[31, 14, 21], **options)
        model = peft.get_peft_model(zoo.build(name), config).double().eval()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(noise, alpha=0.3)
        model.save_pretrained(folder)
    return model


def opened_by_peft(name: str, folder, head: str = "language", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(zoo.build(name, head), folder, **options)
    return model.double().eval()


@pytest.mark.parametrize("options", [dict(), dict(target_modules=True)], ids=["", "named"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_their_file_opens_trains_on_and_goes_back(tmp_path, name, options):
    options = {key: [WORDS[name]] for key in options}
    theirs = with_peft(name, tmp_path / "theirs", task_type="CAUSAL_LM", **options)
    batch, model = zoo.batch(name), zoo.build(name)
    base = zoo.logits(model, batch)
    tuner = mp.load(model, tmp_path / "theirs")
    expected = zoo.logits(theirs, batch)
    close(zoo.logits(model, batch), expected)
    assert (expected - base).abs().max() > 1e-3
    tuner.save(tmp_path / "ours")
    settings = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["task_type"]) == ("TRAINABLE_TOKENS", "CAUSAL_LM")
    close(zoo.logits(opened_by_peft(name, tmp_path / "ours"), batch), expected)
    theirs = opened_by_peft(name, tmp_path / "ours", is_trainable=True)
    trained = [p for p in theirs.parameters() if p.requires_grad]
    for net, parameters in ((model, tuner.parameters()), (theirs, trained)):
        net(**batch).loss.backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter.sub_(parameter.grad, alpha=0.1)
    close(zoo.logits(model, batch), zoo.logits(theirs, batch))
    assert (zoo.logits(model, batch) - expected).abs().max() > 1e-4
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


@pytest.mark.parametrize("name, head", [
    ("gpt2", "language"),
    ("llama", "language"),
    ("opt", "language"),
    ("bart", "language"),
    ("t5", "language"),
    ("bert", "language"),
    ("bert", "classification"),
])  # fmt: skip
def test_ours_opens_there_or_is_in_our_layout(tmp_path, name, head):
    model, batch = zoo.build(name, head), zoo.batch(name, head)
    tuner = mp.attach(model, mp.TokenRows((5, 3, 17)), seed=0, head=False)
    zoo.shake(tuner, 0.3)
    expected = zoo.logits(model, batch)
    tuner.save(tmp_path)
    fresh = zoo.build(name, head)
    mp.load(fresh, tmp_path)
    assert torch.equal(zoo.logits(fresh, batch), expected)
    kind = json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"]
    # a head with a bias shares BERT's matrix, and PEFT leaves that bias out
    assert kind == ("MINIPEFT" if (name, head) == ("bert", "language") else "TRAINABLE_TOKENS")
    if kind != "MINIPEFT":
        close(zoo.logits(opened_by_peft(name, tmp_path, head), batch), expected)


def test_a_trained_head_is_kept_in_our_layout(tmp_path):
    """PEFT's file of this type has no modules_to_save."""
    model, batch = zoo.build("bert", "classification"), zoo.batch("bert", "classification")
    tuner = mp.attach(model, mp.TokenRows((5, 3)), seed=0)
    zoo.shake(tuner, 0.3)
    tuner.save(tmp_path)
    assert "MINIPEFT" in (tmp_path / "adapter_config.json").read_text()
    fresh = zoo.build("bert", "classification")
    mp.load(fresh, tmp_path)
    assert torch.equal(zoo.logits(fresh, batch), zoo.logits(model, batch))


def test_rows_that_are_not_computed_as_there_are_refused(tmp_path):
    with_peft("bert", tmp_path, target_modules=["word_embeddings"])
    with pytest.raises(ValueError, match="a head with a bias shares.* open it with PEFT"):
        mp.load(zoo.build("bert"), tmp_path)


@pytest.mark.parametrize("settings, without, added, sentence", [
    ({"token_indices": None}, (), (), "has no token_indices: it is damaged"),
    ({}, ("wte", "lm_head"), (), "The file has no rows, so it is no TRAINABLE_TOKENS file"),
    ({}, (), ("h.0.ln_1.weight",), "The file has transformer.h.0.ln_1.weight, so it is no TRAIN"),
    ({}, (), ("wpe.trainable_tokens_delta",), "rows of .*wpe and of .*wte, which are several"),
    ({}, (), ("h.0.ln_1.trainable_tokens_delta",), "rows of .*h.0.ln_1 .*, which is no embedding"),
])  # fmt: skip
def test_a_file_that_is_none_of_theirs_is_refused(tmp_path, settings, without, added, sentence):
    with_peft("gpt2", tmp_path, task_type="CAUSAL_LM")
    config, file = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    tensors = load_file(file)
    rows = next(iter(tensors.values()))
    tensors = {k: v for k, v in tensors.items() if not any(name in k for name in without)}
    tensors |= {f"base_model.model.transformer.{name}": rows + 1 for name in added}
    save_file(tensors, file)
    model = zoo.build("gpt2")
    before = zoo.logits(model, zoo.batch("gpt2"))
    with pytest.raises(ValueError, match=sentence):
        mp.load(model, tmp_path)
    assert torch.equal(zoo.logits(model, zoo.batch("gpt2")), before)
