"""🤗 PEFT as the oracle of prompt tuning and P-tuning: files both ways, gradients, oddities."""

import json
import warnings

import pytest
import torch
import transformers as hf
import zoo
from closeness import LOSS, close
from safetensors.torch import load_file, save_file

import minipeft as mp

peft = pytest.importorskip("peft")

P = 5
LANGUAGE = ("gpt2", "llama", "qwen2", "t5", "bart")
HEADS = [(name, "language") for name in LANGUAGE]
HEADS += [("bert", "classification"), ("bert", "tagging"), ("roberta", "classification")]
HEADS += [("gpt2", "classification"), ("gpt2", "tagging"), ("llama", "classification")]
KINDS = {
    "prompt": dict(),
    "mlp": dict(encoder_reparameterization_type="MLP", encoder_hidden_size=7),
    "lstm": dict(encoder_reparameterization_type="LSTM", encoder_hidden_size=7),
}


def task_of(name, head):
    tasks = {"classification": "SEQ_CLS", "tagging": "TOKEN_CLS"}
    return tasks.get(head) or ("SEQ_2_SEQ_LM" if name in zoo.SEQ2SEQ else "CAUSAL_LM")


def with_peft(name, head="language", kind="prompt"):
    model = zoo.build(name, head)
    make = peft.PromptTuningConfig if kind == "prompt" else peft.PromptEncoderConfig
    config = make(task_type=task_of(name, head), num_virtual_tokens=P, **KINDS[kind])
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        return peft.get_peft_model(model, config).eval()


def opened_by_peft(name, head, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(zoo.build(name, head), folder).eval()


def inputs(name, head="language", left=False):
    """A batch; labels only where PEFT can do with them."""
    batch = zoo.batch(name, head)
    if left:
        batch = {k: v.clone() for k, v in batch.items()}
        for key in ("input_ids", "attention_mask"):
            batch[key][-1] = batch[key][-1].roll(2)
    if head == "tagging":
        del batch["labels"]
    return batch


def at_every_place(model, batch):
    """The logits, those of the prompt too, as PEFT gives them."""
    return zoo.logits(model, mp.tuners(model)["default"].wrap(batch))


def is_bert(name):
    return name in ("bert", "roberta")


@pytest.mark.parametrize("name, head", HEADS)
@pytest.mark.parametrize("kind", ["prompt", "lstm"])
def test_their_file_does_here_what_it_does_there(tmp_path, name, head, kind):
    """Padding on either side, and all: also where that is odd. Then back again."""
    theirs = with_peft(name, head, kind)
    theirs.save_pretrained(tmp_path / "theirs")
    model = zoo.build(name, head)
    base = zoo.logits(model, inputs(name, head))
    tuner = mp.load(model, tmp_path / "theirs")
    assert tuner.method.compatibility == "peft" and 'compatibility="peft"' in str(tuner.report())
    assert ("before [CLS]" in str(tuner.report())) == is_bert(name)
    assert tuner.report().trainable == P * 16
    expected = theirs(**inputs(name, head)).logits.detach()
    close(at_every_place(model, inputs(name, head)), expected)
    if expected.shape == base.shape:
        assert (expected - base).abs().max() > 1e-2, "the prompt does something"
    odd = inputs(name, head, left=True)
    close(at_every_place(model, odd), theirs(**odd).logits)
    tuner.save(tmp_path / "ours")
    close(opened_by_peft(name, head, tmp_path / "ours")(**inputs(name, head)).logits, expected)
    again = zoo.build(name, head)
    mp.load(again, tmp_path / "ours")
    close(at_every_place(again, inputs(name, head)), expected)


@pytest.mark.parametrize("name", LANGUAGE)
@pytest.mark.parametrize(
    "method",
    [
        mp.PromptTuning(length=P),
        mp.PTuning(length=P, encoder="lstm"),
        mp.PTuning(length=P, encoder="mlp"),
    ],
    ids=["prompt", "lstm", "mlp"],
)
def test_our_file_opens_there(tmp_path, name, method):
    model, batch = zoo.build(name), inputs(name)
    tuner = mp.attach(model, method, seed=0)
    ours = model(**tuner.wrap(batch))
    tuner.save(tmp_path)
    theirs = opened_by_peft(name, "language", tmp_path)(**batch)
    close(theirs.logits, ours.logits, dtype=torch.float32)  # PEFT keeps prompts in fp32
    close(theirs.loss, ours.loss, dtype=torch.float32, roundings=LOSS)


@pytest.mark.parametrize(
    "method",
    [
        mp.PromptTuning(length=P, compatibility="peft"),
        mp.PTuning(length=P, compatibility="peft", encoder="mlp"),
    ],
    ids=["prompt", "p"],
)
@pytest.mark.parametrize("head", ["classification", "tagging"])
def test_in_their_layout_bert_opens_there_too(tmp_path, method, head):
    model, batch = zoo.build("bert", head), inputs("bert", head)
    tuner = mp.attach(model, method, seed=0)
    zoo.shake(tuner)
    assert tuner.report().head > 0
    ours = at_every_place(model, batch)
    tuner.save(tmp_path)
    theirs = opened_by_peft("bert", head, tmp_path)(**batch).logits
    close(theirs, ours, dtype=torch.float32)  # PEFT keeps prompts in fp32


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
def test_the_same_words_are_written(tmp_path, name):
    theirs = with_peft(name)
    theirs.save_pretrained(tmp_path)
    model = zoo.build(name)
    mp.load(model, tmp_path)
    ids = zoo.batch(name, rows=2)["input_ids"][:, :5]
    options = dict(max_new_tokens=5, do_sample=False)
    expected = theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    ours = mp.generate(model, ids, max_new_tokens=5)
    if name in zoo.SEQ2SEQ:
        assert torch.equal(ours, expected)
    else:
        assert torch.equal(ours[:, 5:], expected[:, -5:])


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_the_same_words_are_written_behind_padding(tmp_path, name):
    """There the prompt stands before the padding, and positions count both."""
    theirs = with_peft(name)
    theirs.save_pretrained(tmp_path)
    model = zoo.build(name)
    tuner = mp.load(model, tmp_path)
    batch = zoo.batch(name, rows=3)
    batch = {key: batch[key].flip(1) for key in ("input_ids", "attention_mask")}
    batch["attention_mask"][0, :4], batch["input_ids"][0, :4] = 0, 0
    options = dict(max_new_tokens=6, do_sample=False)
    expected = theirs.generate(**batch, **options)[:, -6:]
    assert torch.equal(mp.generate(model, **batch, max_new_tokens=6)[:, -6:], expected)
    assert torch.equal(model.generate(**tuner.wrap(batch), **options)[:, -6:], expected)
    with mp.route(model, [tuner.name] * 3):
        assert torch.equal(mp.generate(model, **batch, max_new_tokens=6)[:, -6:], expected)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "llama"])
def test_gradients_are_the_same_numbers(tmp_path, name):
    head = "classification" if name == "bert" else "language"
    theirs, batch = with_peft(name, head), zoo.batch(name, head)
    theirs.save_pretrained(tmp_path)
    model = zoo.build(name, head)
    tuner = mp.load(model, tmp_path)
    loss = model(**batch).loss
    loss.backward()
    expected = theirs(**batch).loss
    expected.backward()
    close(loss, expected)
    gradient = theirs.prompt_encoder["default"].embedding.weight.grad[:P]
    ours = tuner.patches[0][1].vectors.grad
    close(ours, gradient)
    assert gradient.abs().max() > 0


def test_what_is_in_the_file(tmp_path):
    for name, shape in (("gpt2", (P, 16)), ("t5", (2 * P, 16))):
        tuner = mp.attach(zoo.build(name), mp.PTuning(length=P), seed=0)
        tuner.save(tmp_path / name)
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        assert {k: tuple(t.shape) for k, t in tensors.items()} == {"prompt_embeddings": shape}
        settings = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert settings["peft_type"] == "P_TUNING" and settings["num_virtual_tokens"] == P
    tuner = mp.attach(zoo.build("bert", "tagging"), mp.PromptTuning(length=P, compatibility="peft"))
    tuner.save(tmp_path / "bert")
    keys = set(load_file(tmp_path / "bert" / "adapter_model.safetensors"))
    heads = {"base_model.classifier.weight", "base_model.classifier.bias"}
    assert keys == {"prompt_embeddings", *heads}


@pytest.mark.parametrize(
    "name, method",
    [
        ("bert", mp.PromptTuning(length=2)),
        ("gpt2", mp.PromptTuning(length=2, position="after-bos")),
        ("gpt2", mp.PromptTuning(length=2, ensemble=2)),
        ("gpt2", mp.PTuning(template=("P", "{x}", "P"))),
        ("gpt2", mp.PTuning(length=2, keep_encoder=True)),
        ("gpt2", mp.PTuning(length=2, tune_model=True)),
    ],
)
def test_what_peft_would_misread_it_does_not_open(tmp_path, name, method):
    mp.attach(zoo.build(name), method, seed=0).save(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["peft_type"] == "MINIPEFT"
    with pytest.raises(Exception):  # noqa: B017  whatever PEFT says of a type it does not know
        opened_by_peft(name, "language", tmp_path)


@pytest.mark.parametrize(
    "tensors, changes, sentence",
    [
        (dict(), dict(num_virtual_tokens="5"), "no number of words"),
        (dict(), dict(num_virtual_tokens=4), r"has shape \(5, 16\) .* \(4, 16\)"),
        (dict(prompt_embeddings=torch.zeros(5, 8)), dict(), r"has shape \(5, 8\)"),
        (dict(prompt_embeddings=None), dict(), "lacks prompt_embeddings"),
        (dict(other=torch.zeros(1)), dict(), "has a tensor other"),
        ({"base_model.nothing.weight": torch.zeros(1)}, dict(), "a tensor for nothing"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, tensors, changes, sentence):
    with_peft("gpt2").save_pretrained(tmp_path)
    config, file = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    whole = load_file(file) | tensors
    save_file({k: t for k, t in whole.items() if t is not None}, file, {"format": "pt"})
    model = zoo.build("gpt2")
    with pytest.raises(ValueError, match=sentence):
        mp.load(model, tmp_path)
    assert not mp.tuners(model)


@pytest.mark.parametrize("kind", ["Ernie", "Esm"])
def test_models_that_nobody_listed_and_what_they_make_of_vectors(tmp_path, kind):
    """ESM gives words their positions with their ids, and not with the vectors that come of PEFT:
    it has another answer there.
    """
    numbers = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=48)
    numbers |= dict(intermediate_size=32, max_position_embeddings=40, initializer_range=0.15)
    config = getattr(hf, f"{kind}Config")(**numbers, pad_token_id=1)

    def model():
        torch.manual_seed(0)
        return getattr(hf, f"{kind}ForTokenClassification")(config).double().eval()

    settings = peft.PromptTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=P)
    torch.manual_seed(3)
    theirs = peft.get_peft_model(model(), settings).eval()
    theirs.save_pretrained(tmp_path)
    names = dict(words=("word_embeddings",), positions=("position_embeddings",))
    family = mp.Family((), ("encoder.layer",), **names, kind="encoder")
    ours, ids = model(), torch.arange(5, 12)[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    base = zoo.logits(ours, batch)
    if kind == "Ernie":
        mp.load(ours, tmp_path, family=family)
        close(at_every_place(ours, batch), zoo.logits(theirs, batch))
        return
    for attached in (
        lambda: mp.load(ours, tmp_path, family=family),
        lambda: mp.attach(ours, mp.PTuning(length=3, compatibility="peft"), family=family),
    ):
        with pytest.raises(ValueError, match="answers otherwise to the vectors of words"):
            attached()
        assert not mp.tuners(ours) and torch.equal(zoo.logits(ours, batch), base)
