"""The kind and the head of a model are the same, whoever asks."""

from argparse import Namespace

import pytest
import torch
import zoo

import minipeft as mp
import tiny_transformer as tt
from minipeft import attached
from minipeft.analysis.support import ARCHITECTURES
from minipeft.commands import bases
from minipeft.model.anatomy import Anatomy
from minipeft.model.kind import head_of, kind_in, kind_of

HEADS = ("language", "classification", "tagging")
WITHOUT_TAGGING = ("tiny-encoder-decoder", "bart", "mbart", "opt")  # the library has no such class
HALVES = ("t5", "t5-gated", "mt5")  # their tagger is an encoder by itself


def kind_in_anatomy(model) -> str:
    anatomy = Anatomy(model)
    asked = {
        "decoder": anatomy.is_decoder(),
        "encoder": anatomy.is_encoder(),
        "encoder-decoder": anatomy.is_encoder_decoder(),
    }
    assert sum(asked.values()) == 1, asked
    return next(kind for kind, yes in asked.items() if yes)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        (name, head)
        for name in (*zoo.MODELS, *zoo.MORE)
        for head in HEADS
        if head in ARCHITECTURES.get(name, HEADS)
        if head != "tagging" or name not in WITHOUT_TAGGING
    ],
)
def test_kind_and_head_of_every_architecture(name, head):
    model = zoo.build(name, head)
    kind = "encoder" if name in zoo.ENCODERS or (head == "tagging" and name in HALVES) else None
    kind = kind or ("encoder-decoder" if name in zoo.SEQ2SEQ else "decoder")
    assert kind_of(model) == kind_in_anatomy(model) == kind and head_of(model) == head
    tuner = mp.attach(model, mp.LoRA(rank=2))
    assert kind_of(model) == kind_in_anatomy(model) == kind and head_of(model) == head
    assert tuner.anatomy.kind == kind


@pytest.mark.parametrize("name", ["Mistral", "Phi", "Bloom"])
def test_decoders_with_a_classifier_in_a_folder(name, tmp_path):
    model = zoo.build(name.lower(), "classification")
    assert type(model).__name__ == f"{name}ForSequenceClassification"
    model.save_pretrained(tmp_path)
    options = Namespace(trust_remote_code=False)
    assert bases.kind_of(str(tmp_path), options) == kind_of(model) == "decoder"
    assert len(bases.labels_in(str(tmp_path), options, head_of(model))) == zoo.LABELS


def test_models_in_no_table_of_this_package():
    """Kinds of architectures whose modules nobody listed, and subclasses of one's own."""
    hf = pytest.importorskip("transformers")
    size = dict(vocab_size=48, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    albert = hf.AlbertConfig(**size, embedding_size=8, intermediate_size=16)
    assert kind_in_anatomy(hf.AlbertForSequenceClassification(albert)) == "encoder"
    roberta = hf.XLMRobertaConfig(**size, intermediate_size=16)
    assert kind_in_anatomy(hf.XLMRobertaForTokenClassification(roberta)) == "encoder"
    gemma = hf.GemmaConfig(**size, num_key_value_heads=1, head_dim=8, intermediate_size=16)
    assert kind_in_anatomy(hf.GemmaForSequenceClassification(gemma)) == "decoder"
    for reads in ("Canine", "Lilt", "LayoutLMv3", "MarkupLM", "Splinter"):  # no head for words
        assert kind_in(getattr(hf, f"{reads}Config")()) == "encoder"
    for writes in ("Mistral4", "Llava"):
        assert kind_in(getattr(hf, f"{writes}Config")()) == "decoder"
    causal = hf.BertConfig(**size, intermediate_size=16, is_decoder=True)
    assert kind_in_anatomy(hf.BertLMHeadModel(causal)) == "decoder"

    class Mine(hf.GemmaForSequenceClassification):
        pass

    assert head_of(Mine(gemma)) == "classification"


def test_heads_of_tiny_models_by_a_subclass():
    class Mine(tt.ClassificationHead):
        pass

    config = tt.TransformerConfig.gpt2(vocab_size=8, width=8, layers=1, heads=2, positions=8)
    assert head_of(tt.Decoder(config, Mine(config, 2))) == "classification"


def test_a_family_says_the_kind():
    """Where the config does not: a prompt of an encoder then stands behind its first token."""
    hf = pytest.importorskip("transformers")
    size = dict(vocab_size=48, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = hf.BertModel(hf.BertConfig(**size, intermediate_size=16))
    model.config.model_type = "mine"
    assert kind_of(model) == "decoder"  # nothing says otherwise
    names = dict(blocks="encoder.layer", words="embeddings.word_embeddings")
    for kind, ids in (("encoder", [5, 48, 49, 6, 7]), (None, [48, 49, 5, 6, 7])):
        family = mp.Family("mine", **names, kind=kind)
        tuner = mp.attach(model, mp.PromptTuning(length=2), family=family)
        assert attached.kind_of(model) == tuner.anatomy.kind == (kind or "decoder")
        batch = {"input_ids": torch.tensor([[5, 6, 7]])}
        assert tuner.wrap(batch)["input_ids"].tolist() == [ids]
        tuner.detach()
    with pytest.raises(ValueError, match="kind must be one of decoder, encoder"):
        mp.Family("mine", "layers", kind="both")


def test_the_kind_that_a_tuner_goes_by_needs_no_config(monkeypatch):
    model = zoo.build("tiny-encoder")
    mp.attach(model, mp.LoRA(rank=2))

    def unknown(model):
        raise ValueError("its config does not say")

    monkeypatch.setattr("minipeft.model.kind.kind_of", unknown)
    assert attached.kind_of(model) == "encoder"


def test_an_encoder_whose_config_speaks_of_a_decoder_too():
    """UMT5's: the tagger has no decoder, so that labels stand at the input's tokens."""
    model, batch = zoo.build("umt5", "tagging"), zoo.batch("umt5", "tagging")
    assert model.config.is_encoder_decoder and kind_of(model) == "encoder"
    for method in (mp.PromptTuning(length=3), mp.Prefix(length=3, compatibility="peft")):
        tuner = mp.attach(model, method)
        model(**batch).loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in tuner.parameters())
        tuner.detach()
    assert kind_of(zoo.build("umt5")) == "encoder-decoder"
