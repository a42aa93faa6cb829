"""Folders: round trips, what cannot be said, damage. Against transformers: parity/."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import HEADS, scrambled, words

import tiny_transformer as tt

LAYOUTS = ("gpt2", "bert", "bart")


def same_bits(one, two) -> None:
    one, two = one.state_dict(), two.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layout=st.sampled_from(LAYOUTS),
    head=st.sampled_from(["language", *HEADS]),
    heads=st.integers(1, 3),
    D=st.integers(1, 5),
    layers=st.integers(1, 3),
    inner=st.none() | st.integers(1, 9),
    activation=st.sampled_from(["gelu", "gelu_tanh", "relu"]),
    labels=st.integers(1, 4),
)
def test_a_saved_model_is_the_same(
    tmp_path, layout, head, heads, D, layers, inner, activation, labels
):
    if (layout, head) == ("bart", "tagging"):
        head = "language"
    numbers = dict(width=heads * D, heads=heads, layers=layers, inner=inner, activation=activation)
    model = scrambled(layout, head, labels, dropout=0.1, **numbers).float()
    tt.save(model, None, tmp_path)
    again, tokenizer = tt.load(tmp_path, head=head)
    same_bits(model, again)
    assert tokenizer is None and not again.training
    want, got = model.config.to_dict(), again.config.to_dict()
    for name in ("inner", "decoder_layers"):  # None is written as the number that it means
        del want[name], got[name]
    assert want == got and again.config.inner_width == model.config.inner_width


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for layout in LAYOUTS:
        tokenizer = tt.WordTokenizer(["anna", "likes"], ends=layout != "gpt2")
        model = scrambled(layout, vocab_size=len(tokenizer)).float()
        tt.save(model, tokenizer, tmp_path / "one")
        tt.save(*tt.load(tmp_path / "one"), tmp_path / "two")
        files = {path.name for path in (tmp_path / "one").iterdir()}
        assert files == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        for name in files:
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_tied_words_are_stored_once(tmp_path):
    for layout in LAYOUTS:
        model = scrambled(layout)
        tt.save(model, None, tmp_path)
        stored = load_file(tmp_path / "model.safetensors")
        count = sum(value.numel() for value in stored.values())
        assert count == sum(parameter.numel() for parameter in model.parameters())
        again, _ = tt.load(tmp_path)
        shared = again.encoder if layout == "bart" else again
        assert again.head.words.weight is shared.embeddings.words.weight


def test_a_missing_head_starts_fresh_from_its_seed(tmp_path):
    for layout in LAYOUTS:
        tt.save(scrambled(layout), None, tmp_path)
        before = torch.get_rng_state()
        one, two, other = (
            tt.load(tmp_path, head="classification", labels=4, seed=seed)[0] for seed in (0, 0, 1)
        )
        assert torch.equal(torch.get_rng_state(), before)  # nothing drawn from the global state
        same_bits(one, two)
        assert not torch.equal(one.head.classes.weight, other.head.classes.weight)
        assert one(words(2, 5)).logits.shape == (2, 4)


def test_a_fresh_language_head_is_told(tmp_path):
    tt.save(scrambled("bert", "tagging"), None, tmp_path)
    with pytest.warns(UserWarning, match="holds no language head"):
        tt.load(tmp_path)


@pytest.mark.parametrize(
    "numbers",
    [
        {"kind": "encoder", "norm": "pre"},
        {"kind": "decoder", "norm": "post"},
        {"kind": "decoder", "token_types": 2},
        {"kind": "decoder", "position_offset": 2},
        {"kind": "decoder", "embedding_norm": True},
        {"kind": "decoder", "head_bias": True},
        {"kind": "encoder-decoder", "norm": "pre"},
    ],
)
def test_a_config_that_no_folder_can_say_is_refused(numbers, tmp_path):
    config = tt.TransformerConfig(vocab_size=20, width=8, layers=1, heads=2, **numbers)
    model = {"decoder": tt.Decoder, "encoder": tt.Encoder, "encoder-decoder": tt.EncoderDecoder}
    with pytest.raises(ValueError, match="folder cannot say"):
        tt.save(model[config.kind](config), None, tmp_path)


# Damage


def refused(error: type, sentence: str, folder: Path | str, **how) -> None:
    with pytest.raises(error, match=sentence) as caught:
        tt.load(folder, **how)
    assert re.fullmatch(r"[^\n]+\.", str(caught.value)), "one sentence on one line"


@pytest.fixture
def folder(tmp_path):
    tt.save(scrambled("gpt2"), tt.WordTokenizer([f"w{n}" for n in range(36)]), tmp_path)
    return tmp_path


def change(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file(folder, kept):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    refused(ValueError, "model.safetensors is damaged", folder)


def test_a_file_of_something_else(folder):
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>" * 20)
    refused(ValueError, "model.safetensors is damaged", folder)


def test_a_missing_tensor(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, path)
    refused(ValueError, r"holds no transformer.h.1.mlp.c_fc.weight \(1 tensors missing\)", folder)


def test_a_tensor_of_another_shape(folder):
    change(folder, n_embd=20)
    refused(
        ValueError, r"has shape \(50, 16\) in the file but the config asks for \(50, 20\)", folder
    )


def test_a_config_with_more_layers_than_the_file(folder):
    change(folder, n_layer=3)
    refused(ValueError, "it is not a whole decoder", folder)


def test_an_impossible_config(folder):
    change(folder, n_head=5)
    refused(ValueError, "cannot be split into 5 heads", folder)


def test_another_architecture(folder):
    change(folder, model_type="mamba")
    refused(ValueError, "model_type 'mamba' is not one of gpt2, bert, bart", folder)


def test_weights_of_another_architecture(folder):
    tt.save(scrambled("bert"), None, folder / "bert")
    (folder / "bert" / "config.json").write_bytes((folder / "config.json").read_bytes())
    refused(ValueError, "it is not a whole decoder", folder / "bert")


@pytest.mark.parametrize("text", ["", "{", '{"model_type": "gpt2"', "\x00\x00"])
def test_a_damaged_config(folder, text):
    (folder / "config.json").write_text(text)
    refused(ValueError, "config.json is damaged", folder)


def test_a_config_that_is_no_table(folder):
    (folder / "config.json").write_text("[1, 2]")
    refused(ValueError, "config.json is damaged", folder)


def test_a_missing_config(folder):
    (folder / "config.json").unlink()
    refused(FileNotFoundError, "holds no config.json", folder)


def test_only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    refused(FileNotFoundError, "only safetensors are read, never a pickle", folder)


def test_a_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": ')
    refused(ValueError, "tokenizer.json is damaged", folder)


def test_no_tokenizer_or_another_one(folder):
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}}}')
    assert tt.load(folder)[1] is None
    (folder / "tokenizer.json").unlink()
    assert tt.load(folder)[1] is None


def test_no_such_name():
    refused(FileNotFoundError, "tiny-decodre is neither a folder nor one of:", "tiny-decodre")


def test_no_such_head(folder):
    refused(ValueError, "head must be one of language, classification, tagging", folder, head="lm")


def test_labels_are_needed_once(folder):
    refused(ValueError, "labels must be the number of classes", folder, head="classification")
    tt.save(scrambled("gpt2", "tagging", labels=5), None, folder)
    assert tt.load(folder, head="tagging")[0].head.tags.out_features == 5


def test_the_data_folder_can_be_named(folder, monkeypatch, tmp_path):
    shelf = tmp_path / "data" / "checkpoints" / "mine"
    tt.save(*tt.load(folder), shelf)
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path / "data"))
    same_bits(tt.load("mine")[0], tt.load(folder)[0])
    refused(FileNotFoundError, "one of: mine", "tiny-decoder-9000")


# What the project ships


def shipped() -> list[str]:
    shelf = tt.data_folder() / "checkpoints"
    return sorted(path.parent.name for path in shelf.glob("*/config.json"))


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_folder_is_what_save_writes(name, tmp_path):
    """So that it opens in transformers as the tests of save say."""
    tt.save(*tt.load(name), tmp_path)
    for path in tmp_path.iterdir():
        shipped_file = tt.data_folder() / "checkpoints" / name / path.name
        assert shipped_file.read_bytes() == path.read_bytes(), path.name


def test_the_shipped_folders_are_small():
    files = list((tt.data_folder() / "checkpoints").glob("**/*"))
    assert sum(path.stat().st_size for path in files if path.is_file()) < 30e6
